//! Figures as tables for a terminal.

use std::fmt::Write;

use crate::budget::Verdict;
use crate::crowd::{Crowd, Memory};
use crate::figures::{Figures, Outcome};
use crate::start::{LIFE, OURS, life};

/// What a reader must know before believing a number.
const WHAT_IT_DOES_NOT_SHOW: &str = "\
What this does not show: one nanosecond is one instruction, of everything on the machine (stopwatch,
host kernel, VMM, guest kernel, workload). VM exits, cache and TLB misses cost nothing here; that is why
exits are counted beside the time. A string instruction counts once for each repetition, so that memory
is copied and cleared at eight bytes a nanosecond, much as hardware does it. It is the place for ratios
within one run, not for absolute times.
";

/// Everything, in the order a reader asks for it.
pub(crate) fn tables(figures: &Figures, verdicts: &[Verdict<'_>]) -> String {
    [
        race(figures),
        exits(figures),
        timeline(figures),
        goals(verdicts),
        WHAT_IT_DOES_NOT_SHOW.to_owned(),
    ]
    .into_iter()
    .filter(|table| !table.is_empty())
    .collect::<Vec<_>>()
    .join("\n")
}

fn race(figures: &Figures) -> String {
    let machine = &figures.machine;
    let mut out = format!(
        "busybox /bin/true, spawn to wait, {} warm-up(s) before; {}, Linux {}, clock {}\n\n",
        figures.warm_ups, machine.processor, machine.kernel, machine.clocksource
    );
    line(
        &mut out,
        format_args!(
            "{:<13}{:>5}{:>12}{:>12}{:>12}{:>9}{:>9}{:>9}  {}",
            "", "runs", "min ms", "median ms", "max ms", "x crun", "x runc", "exits", "version"
        ),
    );
    for series in &figures.series {
        // A life is held against a life.
        let of = if series.name.ends_with(LIFE) { life } else { |name: &str| name.to_owned() };
        let (Some(spread), Outcome::ElapsedNs(times)) = (series.spread(), &series.outcome) else {
            let Outcome::Failed(why) = &series.outcome else { continue };
            line(&mut out, format_args!("{:<13}no figure: {why}", series.name));
            continue;
        };
        let ratio = |peer: &str| match figures.median_ns(&of(peer)) {
            Some(ns) => format!("{:.2}", spread.median_ns as f64 / ns as f64),
            None => "-".to_owned(),
        };
        let exits = match figures.exits().filter(|_| series.name == OURS) {
            Some(count) => count.to_string(),
            None => "-".to_owned(),
        };
        line(
            &mut out,
            format_args!(
                "{:<13}{:>5}{:>12}{:>12}{:>12}{:>9}{:>9}{:>9}  {}",
                series.name,
                times.len(),
                ms(spread.min_ns),
                ms(spread.median_ns),
                ms(spread.max_ns),
                ratio("crun"),
                ratio("runc"),
                exits,
                series.version
            ),
        );
    }
    out
}

/// A crowd, in the order a reader asks for it.
pub(crate) fn crowd(crowd: &Crowd, verdicts: &[Verdict<'_>]) -> String {
    let Crowd { count, processors, alone_ns, at_once_ns, memory } = crowd;
    let mut out = format!(
        "{count} containers at once on {processors} processor(s), `run --detach` of busybox sleep; one alone: \
         {} ms\n\n",
        ms(*alone_ns)
    );
    for (what, at) in [("first", 0), ("middle", count / 2), ("last", count - 1)] {
        if let Some(ns) = at_once_ns.get(at) {
            line(&mut out, format_args!("{:>12} ms  until the {what} ran", ms(*ns)));
        }
    }
    out.push_str("\nWhat one costs while it sleeps, KiB\n\n");
    line(&mut out, format_args!("{:>12}{:>12}  {}", "private", "pss", "process"));
    let total = memory.iter().fold(Memory::default(), |all, one| Memory {
        process: "all of a container's".to_owned(),
        count: all.count + one.count,
        private_kib: all.private_kib + one.private_kib,
        pss_kib: all.pss_kib + one.pss_kib,
    });
    for Memory { process, private_kib, pss_kib, .. } in memory.iter().chain([&total]) {
        let each = |kib: &u64| kib / (*count as u64).max(1);
        line(&mut out, format_args!("{:>12}{:>12}  {process}", each(private_kib), each(pss_kib)));
    }
    [out, goals(verdicts)].join("\n")
}

fn exits(figures: &Figures) -> String {
    let Some(all) = figures.exits() else { return String::new() };
    let mut reasons: Vec<_> = figures.exits.iter().collect();
    reasons.sort_by_key(|&(reason, &count)| (std::cmp::Reverse(count), reason));
    let mut out = format!("VM exits of one run of microvm: {all}\n\n");
    for (reason, count) in reasons {
        line(&mut out, format_args!("{count:>9}  {reason}"));
    }
    out
}

fn timeline(figures: &Figures) -> String {
    if figures.timeline.is_empty() {
        return String::new();
    }
    let mut out = "Where the time of one run of microvm went\n\n".to_owned();
    line(&mut out, format_args!("{:>12}{:>12}  {:<10} {}", "at ms", "since ms", "by", "moment"));
    let mut before = 0;
    for moment in &figures.timeline {
        line(
            &mut out,
            format_args!(
                "{:>12}{:>12}  {:<10} {}",
                ms(moment.at_ns),
                ms(moment.at_ns.saturating_sub(before)),
                moment.source,
                moment.name
            ),
        );
        before = moment.at_ns;
    }
    out
}

fn goals(verdicts: &[Verdict<'_>]) -> String {
    let mut out = "Goals of benches/budget.json\n\n".to_owned();
    line(&mut out, format_args!("{:>12}{:>12}  {:<7} {}", "measured", "at most", "", "goal"));
    for verdict in verdicts {
        let measured = verdict.measured.map_or("-".to_owned(), |value| format!("{value:.3}"));
        line(
            &mut out,
            format_args!(
                "{measured:>12}{:>12.3}  {:<7} {}",
                verdict.goal.at_most,
                if verdict.is_kept() { "kept" } else { "MISSED" },
                verdict.goal.goal
            ),
        );
    }
    out
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1_000 % 1_000)
}

/// Adds a line.
pub(crate) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot be refused.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::figures::{Machine, Moment, Series};

    /// A race in which microvm takes 200 ms, runc 80 ms, and crun is not there.
    pub(crate) fn figures() -> Figures {
        let series =
            |name: &str, outcome| Series { name: name.into(), version: "1".into(), outcome };
        let moment = |name: &str, source: &str, at_ns| Moment {
            name: name.into(),
            source: source.into(),
            at_ns,
        };
        Figures {
            machine: Machine {
                kernel: "6.12".into(),
                clocksource: "tsc".into(),
                processor: "some".into(),
            },
            warm_ups: 1,
            series: vec![
                series("crun", Outcome::Failed("crun: not there".into())),
                series("runc", Outcome::ElapsedNs(vec![80_000_000])),
                series("microvm", Outcome::ElapsedNs(vec![300_000_000, 200_000_000, 1_234_567])),
            ],
            exits: BTreeMap::from([("msr".to_owned(), 2), ("npf".to_owned(), 10)]),
            timeline: vec![
                moment("exec", "stopwatch", 0),
                moment("vcpus running", "vmm", 40_000_000),
                moment("guest ready", "runtime", 70_000_000),
            ],
        }
    }

    #[test]
    fn a_row_shows_spread_ratio_and_exits() {
        let text = tables(&figures(), &[]);
        let row = text.lines().find(|line| line.starts_with("microvm")).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words, ["microvm", "3", "1.234", "200.000", "300.000", "-", "2.50", "12", "1"]);
    }

    #[test]
    fn a_contender_that_did_not_run_says_why() {
        assert!(tables(&figures(), &[]).contains("crun         no figure: crun: not there\n"));
    }

    #[test]
    fn the_timeline_shows_what_each_step_took() {
        let text = timeline(&figures());
        let rows: Vec<Vec<_>> =
            text.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[2], ["70.000", "30.000", "runtime", "guest", "ready"]);
    }

    #[test]
    fn the_commonest_exit_comes_first() {
        let text = exits(&figures());
        assert_eq!(text.lines().nth(2), Some("       10  npf"));
    }
}
