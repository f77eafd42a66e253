//! Stopwatches, run in the deterministic host: the figures of one run there, as tables here.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::{build, paths, step};

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Wish {
    /// `crun run`, `runc run` and `microvm run` of busybox `/bin/true`
    Start {
        /// Write the figures to this file too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Fail if a goal of `benches/budget.json` is missed
        #[arg(long)]
        check: bool,
    },
}

/// Measures and prints tables.
pub(crate) fn run(wish: &Wish) -> Result<ExitCode> {
    let Wish::Start { json, check } = wish;
    let outputs = build::everything()?.directory;
    let stopwatch = build::binary("benches", "stopwatch", "release")?;
    let stopwatch = build::place(&stopwatch, outputs.join("stopwatch"))?;

    step::say("racing in the deterministic host (a few minutes)");
    // Through our own front door: what is measured is what anyone can run.
    let mut host = Command::new(std::env::current_exe().context("finding xtask")?);
    host.args(["host", "exec", "--deterministic", "--"]).arg(&stopwatch).arg("start");
    host.arg("--outputs").arg(&outputs);
    let race = host.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("the race")?;
    if !race.status.success() {
        bail!("the race: {}", race.status);
    }
    let figures = paths::target().join("bench-start.json");
    for file in [Some(&figures), json.as_ref()].into_iter().flatten() {
        fs::write(file, &race.stdout).with_context(|| file.display().to_string())?;
    }

    let mut report = Command::new(&stopwatch);
    report.arg("report").arg("--figures").arg(&figures);
    report.arg("--budget").arg(paths::checkout().join("benches/budget.json"));
    if *check {
        report.arg("--check");
    }
    let status = report.status().context("the report")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
