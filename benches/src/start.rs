//! The race: busybox `/bin/true` on the same root, under crun, runc and microvm.
//!
//! Everything that is read or written during a run stands in memory, and nothing else happens on the
//! machine: what is measured is what the contenders do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::bundle::Bundle;
use crate::exits;
use crate::figures::{Figures, Machine, Moment, Outcome, Series};
use crate::race::{Contender, Lap};

/// What `stopwatch start` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Runs that count, of each
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs before them
    #[arg(long, default_value_t = 1)]
    warm_ups: usize,
}

// Where it is measured.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// Where `cargo xtask build` put `microvm`, `demo.tar` and `demo-rootfs`
    #[arg(long, value_name = "DIR")]
    pub(crate) outputs: PathBuf,
    /// A directory in memory, made for this
    #[arg(long, value_name = "DIR", default_value = "/run/stopwatch")]
    pub(crate) scratch: PathBuf,
}

impl Place {
    /// Makes it, and `microvm` in it with the demo image.
    pub(crate) fn ours(&self) -> Result<Ours> {
        let Self { outputs, scratch } = self;
        fs::create_dir(scratch).with_context(|| scratch.display().to_string())?;
        let ours = Ours::new(outputs, scratch);
        self.load(&ours, "demo.tar")?;
        Ok(ours)
    }

    /// Loads an archive of the outputs.
    fn load(&self, ours: &Ours, archive: &str) -> Result<()> {
        let path = self.outputs.join(archive).display().to_string();
        let loaded = ours.call(&["load", &path]).lap(&self.scratch);
        loaded.map(drop).with_context(|| format!("loading {archive}"))
    }
}

/// Runs the race.
pub(crate) fn measure(arguments: &Arguments) -> Result<Figures> {
    ensure!(arguments.runs > 0, "no figure comes from 0 runs");
    let Place { outputs, scratch } = &arguments.place;
    let ours = arguments.place.ours()?;
    let bundle = Bundle::new(&outputs.join("demo-rootfs"), scratch)?.path();

    let peer = |name: &'static str| {
        let contender = Contender::new(name, &["run", "--bundle", &bundle, "stopwatch"]);
        (name.to_owned(), contender)
    };
    // The warm-up of the last one makes the template that its runs go on from.
    let booting = [&["--no-template"], TRUE].concat();
    arguments.place.load(&ours, "large.tar")?;
    let race = [
        peer("crun"),
        peer("runc"),
        (BOOTING.to_owned(), ours.call(&booting)),
        (OURS.to_owned(), ours.call(TRUE)),
        (LARGE.to_owned(), ours.call(&run_true("large"))),
    ];
    // As an engine has it done.
    let life = |name: &str, contender: Contender| {
        let contender = contender.then(&["create", "--bundle", &bundle, "stopwatch"]);
        let contender = contender.then(&["start", "stopwatch"]);
        (life(name), contender.then(&["delete", "--force", "stopwatch"]))
    };
    let peer = |name: &str| life(name, Contender::of(name, &[]));
    let lives = [peer("crun"), peer("runc"), life(OURS, ours.alone())];
    let series = race
        .iter()
        .chain(&lives)
        .map(|(name, contender)| {
            let version = Contender::new(&contender.program, &["--version"]).first_line();
            Series {
                name: name.clone(),
                version: version.unwrap_or_else(|error| format!("{error:#}")),
                outcome: contender.series(arguments.warm_ups, arguments.runs, scratch),
            }
        })
        .collect::<Vec<_>>();

    let runs = |series: &Series| matches!(series.outcome, Outcome::ElapsedNs(_));
    let runs = series.iter().any(|series| series.name == OURS && runs(series));
    let (exits, timeline) = if runs {
        (exits::count(|| ours.call(TRUE).lap(scratch).map(drop))?, ours.timeline(scratch)?)
    } else {
        (BTreeMap::new(), Vec::new())
    };
    Ok(Figures { machine: machine()?, warm_ups: arguments.warm_ups, series, exits, timeline })
}

/// Us.
pub(crate) const OURS: &str = "microvm";

/// microvm without a template.
pub(crate) const BOOTING: &str = "booting";

/// microvm with an image of a gibibyte.
pub(crate) const LARGE: &str = "large";

/// What the series of a contender's `create`, `start` and `delete` is called behind its name.
pub(crate) const LIFE: &str = " life";

/// That series of this contender.
pub(crate) fn life(of: &str) -> String {
    format!("{of}{LIFE}")
}

/// What microvm is asked to do.
const TRUE: &[&str] = &run_true("demo");

/// The same with another image.
const fn run_true(image: &str) -> [&str; 6] {
    ["run", "--rm", "--network", "none", image, "/bin/true"]
}

/// `microvm` with a state and a store of its own.
pub(crate) struct Ours {
    program: PathBuf,
    state: String,
    store: String,
}

impl Ours {
    /// The one in `outputs`, with everything else in `scratch`.
    pub(crate) fn new(outputs: &Path, scratch: &Path) -> Self {
        let below = |name: &str| scratch.join(name).display().to_string();
        Self { program: outputs.join("microvm"), state: below("state"), store: below("store") }
    }

    /// `microvm ARGS…`.
    pub(crate) fn call(&self, args: &[&str]) -> Contender {
        self.alone().then(args)
    }

    /// `microvm` without a verb yet.
    pub(crate) fn alone(&self) -> Contender {
        Contender::of(&self.program, &["--root", &self.state, "--store", &self.store])
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

/// A line of the file that `microvm --timeline` writes.
#[derive(Deserialize)]
struct Line {
    name: String,
    source: String,
    /// The host's `CLOCK_MONOTONIC`. Moments that only the guest's clock has seen have none and are
    /// left out: that clock begins somewhere in the middle of the guest's boot (about 60 ms after
    /// its entry, seen from outside), so nobody can say when they were.
    #[serde(default)]
    monotonic_ns: Option<u64>,
}

/// The run's moments in their order, between those that only the stopwatch can see.
fn moments(lines: &str, lap: &Lap) -> Result<Vec<Moment>> {
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>()?;
    let own = |name: &str, ns| Moment { name: name.into(), source: "stopwatch".into(), at_ns: ns };
    let mut moments = vec![own("exec", 0)];
    moments.extend(lines.into_iter().filter_map(|Line { name, source, monotonic_ns }| {
        Some(Moment { name, source, at_ns: monotonic_ns?.saturating_sub(lap.began_ns) })
    }));
    moments.sort_by_key(|moment| moment.at_ns);
    moments.push(own("exit", lap.ended_ns - lap.began_ns));
    Ok(moments)
}

/// How many processors there are to run on.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What this is measured on.
pub(crate) fn machine() -> Result<Machine> {
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
    fn moments_stand_in_the_order_of_the_hosts_clock() {
        let lines = r#"{"name":"agent started","source":"guest","guest_boottime_ns":20}
            {"name":"guest ready","source":"runtime","monotonic_ns":1040}
            {"name":"main","source":"runtime","monotonic_ns":1005}
            {"name":"vcpus running","source":"vmm","monotonic_ns":1010}"#;
        let moments = moments(lines, &Lap { began_ns: 1000, ended_ns: 1050 }).unwrap();
        let seen: Vec<_> = moments.iter().map(|m| (m.at_ns, m.name.as_str())).collect();
        let main_to_ready = [(5, "main"), (10, "vcpus running"), (40, "guest ready")];
        assert_eq!(seen, [&[(0, "exec")], &main_to_ready[..], &[(50, "exit")]].concat());
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        assert!(moments("{}", &Lap { began_ns: 0, ended_ns: 1 }).is_err());
    }
}
