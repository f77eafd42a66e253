//! The race: busybox `/bin/true` on the same root, under crun, runc and microvm.
//!
//! Everything that is read or written during a run stands in memory, and nothing else happens on the
//! machine: what is measured is what the contenders do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exits;
use crate::figures::{Figures, Machine, Moment, Outcome, Series};
use crate::race::{Contender, Lap};

/// What `stopwatch start` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where `cargo xtask build` put `microvm`, `demo.tar` and `demo-rootfs`
    #[arg(long, value_name = "DIR")]
    outputs: PathBuf,
    /// A directory in memory, made for this race
    #[arg(long, value_name = "DIR", default_value = "/run/stopwatch")]
    scratch: PathBuf,
    /// Runs that count, of each
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs before them
    #[arg(long, default_value_t = 1)]
    warm_ups: usize,
}

/// Runs the race.
pub(crate) fn measure(arguments: &Arguments) -> Result<Figures> {
    ensure!(arguments.runs > 0, "no figure comes from 0 runs");
    let scratch = &arguments.scratch;
    fs::create_dir(scratch).with_context(|| scratch.display().to_string())?;
    let bundle = bundle(&arguments.outputs.join("demo-rootfs"), scratch)?;
    let ours = Ours::new(&arguments.outputs, scratch);
    // What cannot be loaded cannot be run, and says so itself.
    let _ = ours
        .call(&["load", &arguments.outputs.join("demo.tar").display().to_string()])
        .lap(scratch);

    let peer = |name: &'static str| {
        let contender = Contender::new(name, &["run", "--bundle", &bundle, "stopwatch"]);
        (name, contender)
    };
    let race = [peer("crun"), peer("runc"), ("microvm", ours.call(TRUE))];
    let series = race
        .iter()
        .map(|(name, contender)| {
            let version = Contender::new(&contender.program, &["--version"]).first_line();
            Series {
                name: (*name).to_owned(),
                version: version.unwrap_or_else(|error| format!("{error:#}")),
                outcome: contender.series(arguments.warm_ups, arguments.runs, scratch),
            }
        })
        .collect::<Vec<_>>();

    let runs = matches!(series.last(), Some(Series { outcome: Outcome::ElapsedNs(_), .. }));
    let (exits, timeline) = if runs {
        (exits::count(|| ours.call(TRUE).lap(scratch).map(drop))?, ours.timeline(scratch)?)
    } else {
        (BTreeMap::new(), Vec::new())
    };
    Ok(Figures { machine: machine()?, warm_ups: arguments.warm_ups, series, exits, timeline })
}

/// What microvm is asked to do.
const TRUE: &[&str] = &["run", "--rm", "demo", "/bin/true"];

/// `microvm` with a state and a store of its own.
struct Ours {
    program: PathBuf,
    state: String,
    store: String,
}

impl Ours {
    fn new(outputs: &Path, scratch: &Path) -> Self {
        let below = |name: &str| scratch.join(name).display().to_string();
        Self { program: outputs.join("microvm"), state: below("state"), store: below("store") }
    }

    fn call(&self, args: &[&str]) -> Contender {
        let own = ["--root", &self.state, "--store", &self.store];
        Contender::new(&self.program, &[&own, args].concat())
    }

    /// One run that says where its time went.
    fn timeline(&self, scratch: &Path) -> Result<Vec<Moment>> {
        let file = scratch.join("timeline");
        let path = file.display().to_string();
        let lap = self.call(&[&["--timeline", &path], TRUE].concat()).lap(scratch)?;
        let text = fs::read_to_string(&file).with_context(|| path)?;
        moments(&text, &lap)
    }
}

/// A bundle as `runc spec` makes it, for `/bin/true` without a terminal, on a copy of `root`.
fn bundle(root: &Path, scratch: &Path) -> Result<String> {
    let bundle = scratch.join("bundle");
    let path = bundle.display().to_string();
    fs::create_dir(&bundle).with_context(|| path.clone())?;
    let (root, copy) = (root.display().to_string(), bundle.join("rootfs").display().to_string());
    Contender::new("cp", &["-a", &root, &copy]).lap(scratch)?;
    Contender::new("runc", &["spec", "--bundle", &path]).lap(scratch)?;
    let config = bundle.join("config.json");
    let spec = fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    let mut spec: Value = serde_json::from_str(&spec)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    fs::write(&config, spec.to_string()).with_context(|| config.display().to_string())?;
    Ok(path)
}

/// A line of the file that `microvm --timeline` writes.
#[derive(Deserialize)]
struct Line {
    name: String,
    source: String,
    /// The host's `CLOCK_MONOTONIC`.
    #[serde(default)]
    monotonic_ns: Option<u64>,
    /// The guest's `CLOCK_BOOTTIME`.
    #[serde(default)]
    guest_boottime_ns: Option<u64>,
}

/// The mark at which the guest's clock begins.
const GUEST_ENTERED: &str = "vcpus running";

/// The run's moments in their order, between those that only the stopwatch can see.
fn moments(lines: &str, lap: &Lap) -> Result<Vec<Moment>> {
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>()?;
    let entered = lines.iter().find(|line| line.name == GUEST_ENTERED);
    let entered_ns = entered.and_then(|line| line.monotonic_ns);
    let since = |ns: u64| ns.saturating_sub(lap.began_ns);
    let own = |name: &str, ns| Moment { name: name.into(), source: "stopwatch".into(), at_ns: ns };

    let mut moments = vec![own("exec", 0)];
    for line in &lines {
        let ns = match (line.monotonic_ns, line.guest_boottime_ns) {
            (Some(ns), _) => ns,
            (None, Some(boot_ns)) => {
                let entered_ns =
                    entered_ns.with_context(|| format!("no mark {GUEST_ENTERED:?}"))?;
                entered_ns + boot_ns
            }
            (None, None) => continue,
        };
        let (name, source) = (line.name.clone(), line.source.clone());
        moments.push(Moment { name, source, at_ns: since(ns) });
    }
    moments.sort_by_key(|moment| moment.at_ns);
    moments.push(own("exit", since(lap.ended_ns)));
    Ok(moments)
}

fn machine() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: "));
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?
            .trim()
            .to_owned(),
        processor: model.unwrap_or("unknown").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_both_clocks_stand_in_one_order() {
        let lines = r#"{"name":"agent started","source":"guest","guest_boottime_ns":20}
            {"name":"arguments read","source":"runtime","monotonic_ns":1005}
            {"name":"vcpus running","source":"vmm","monotonic_ns":1010}
            {"name":"guest ready","source":"runtime","monotonic_ns":1040}"#;
        let moments = moments(lines, &Lap { began_ns: 1000, ended_ns: 1050 }).unwrap();
        let seen: Vec<_> = moments.iter().map(|m| (m.at_ns, m.name.as_str())).collect();
        assert_eq!(
            seen,
            [
                (0, "exec"),
                (5, "arguments read"),
                (10, "vcpus running"),
                (30, "agent started"),
                (40, "guest ready"),
                (50, "exit"),
            ]
        );
    }

    #[test]
    fn a_guests_moment_without_its_zero_is_an_error() {
        let line = r#"{"name":"agent started","source":"guest","guest_boottime_ns":20}"#;
        let error = moments(line, &Lap { began_ns: 0, ended_ns: 1 }).unwrap_err();
        assert_eq!(error.to_string(), "no mark \"vcpus running\"");
    }
}
