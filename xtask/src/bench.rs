//! Stopwatches, run in the deterministic host: the figures of one run there, as tables here.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::{build, host, paths, step};

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
    let start = OsStr::new("start");
    let words = [stopwatch.as_os_str(), start, OsStr::new("--outputs"), outputs.as_os_str()];
    let mut race = Vec::new();
    let code = host::run_deterministic(&outputs, &words, &mut race)?;
    ensure!(code == 0, "the stopwatch ended with {code}");
    let figures = paths::target().join("bench-start.json");
    for file in [Some(&figures), json.as_ref()].into_iter().flatten() {
        fs::write(file, &race).with_context(|| file.display().to_string())?;
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
