//! Stopwatches, run in the deterministic host: the figures of one run there, as tables here, and as files in
//! `docs/bench`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{build, demo, host, images, paths, step};

/// What is measured, and what becomes of it.
#[derive(Args)]
pub(crate) struct Wish {
    /// One benchmark; without it all of them
    which: Option<Which>,
    /// Fail if a goal of `benches/budget.json` is missed
    #[arg(long)]
    check: bool,
}

/// A benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// `crun`, `runc` and `microvm` from start to exit of busybox `/bin/true`, in one command and in three
    Start,
    /// Fifty containers at once: how long they take, and what each has in memory
    Crowd,
    /// Files on the host, on a VM's own disk and through virtio-fs
    Disks,
    /// Images pulled and unpacked by `podman`, containerd and `microvm`: time, and room on the disk
    Images,
    /// TCP between a container and the host, and what a start costs, by the network that the container is on
    Network,
}

impl Which {
    /// As the stopwatch calls it, and its files.
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Crowd => "crowd",
            Self::Disks => "disks",
            Self::Images => "images",
            Self::Network => "network",
        }
    }
}

/// Measures, prints tables, and writes `docs/bench/NAME.json`, and of starts a picture.
pub(crate) fn run(wish: &Wish) -> Result<ExitCode> {
    let outputs = build::everything()?;
    demo::large()?;
    let stopwatch = build::binary("benches", "stopwatch", "release")?;
    let stopwatch = build::place(&stopwatch, outputs.directory.join("stopwatch"))?;
    let place = paths::checkout().join("docs/bench");
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let mut report = Command::new(&stopwatch);
    report.arg("report").arg("--budget").arg(paths::checkout().join("benches/budget.json"));
    for which in Which::value_variants() {
        if wish.which.is_none_or(|wanted| wanted == *which) {
            // What is not needed takes its time to be carried there.
            let carried = match which {
                Which::Images => images::directory(&outputs, &stopwatch)?,
                _ => outputs.directory.clone(),
            };
            let file = measure(*which, &carried, &place)?;
            report.arg(format!("--{}", which.name())).arg(file);
        }
    }
    if wish.which.is_none_or(|wanted| wanted == Which::Start) {
        report.arg("--svg").arg(place.join("start.svg"));
    }
    if wish.check {
        report.arg("--check");
    }
    let status = report.status().context("the report")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(which: Which, outputs: &Path, place: &Path) -> Result<PathBuf> {
    let name = which.name();
    step::say(&format!("{name}: measuring in the deterministic host (a few minutes)"));
    let figures = match which {
        Which::Disks => each_way(outputs)?,
        _ => run_stopwatch(name, outputs, &[])?,
    };
    let file = place.join(format!("{name}.json"));
    fs::write(&file, &figures).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// What the stopwatch says of `name`.
fn run_stopwatch(name: &str, outputs: &Path, more: &[&str]) -> Result<Vec<u8>> {
    let stopwatch = outputs.join("stopwatch");
    let mut words: Vec<&OsStr> =
        vec![stopwatch.as_ref(), name.as_ref(), "--outputs".as_ref(), outputs.as_ref()];
    words.extend(more.iter().map(|word| -> &OsStr { word.as_ref() }));
    let mut figures = Vec::new();
    let code = host::run_deterministic(outputs, &words, &mut figures)?;
    ensure!(code == 0, "the stopwatch ended with {code}");
    Ok(figures)
}

/// What each way to use files costs on each ground, every pair measured in a host of its own, where the other pairs
/// cannot be in the way. One whose host does not end ([`crate::host`]) has no figure.
fn each_way(outputs: &Path) -> Result<Vec<u8>> {
    let mut ways = Command::new(outputs.join("stopwatch"));
    let ways = step::read("the ways to use files", ways.arg("ways"))?;
    let mut rows: Vec<Value> = Vec::new();
    for (way, on) in ways.lines().filter_map(|line| line.split_once(' ')) {
        let words = ["--only", way, "--on", on];
        let figures = match run_stopwatch(Which::Disks.name(), outputs, &words) {
            Ok(figures) => figures,
            Err(error) => {
                step::say(&format!("{way} on {on} has no figure: {error:#}"));
                continue;
            }
        };
        let mut figures: Value = serde_json::from_slice(&figures).context("figures")?;
        let mut row = figures["rows"][0].take();
        match rows.iter_mut().find(|known| known["way"] == row["way"]) {
            Some(known) => known["guest"][on] = row["guest"][on].take(),
            None => rows.push(row),
        }
    }
    Ok(format!("{:#}\n", json!({ "rows": rows })).into())
}
