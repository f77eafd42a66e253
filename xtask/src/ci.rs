//! `cargo xtask ci`: all that must hold before a change is taken.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::host::{self, Instance};
use crate::{step, test, tidy, toolchain};

/// Runs every check, from the quickest to the slowest, and stops at the first that does not hold.
/// Nothing that it started goes on afterwards.
pub(crate) fn run() -> Result<()> {
    let checked = checks();
    let ended = Instance::all_of_checkout().and_then(host::down);
    checked?;
    ended?;
    Ok(())
}

fn checks() -> Result<()> {
    let began = Instant::now();
    toolchain::add_components()?;
    cargo("format", &["fmt", "--all", "--check"])?;
    step::say("tidy");
    tidy::run()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    cargo("lints", &clippy)?;
    let tested = test::run(&test::Args::default())?;
    ensure!(tested == ExitCode::SUCCESS, "tests: not all passed");
    step::say(&format!("all holds, after {} s", began.elapsed().as_secs()));
    Ok(())
}

fn cargo(what: &str, words: &[&str]) -> Result<()> {
    step::say(what);
    step::open(what, step::cargo().args(words))
}
