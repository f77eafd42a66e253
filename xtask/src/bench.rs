//! Stopwatches, run in the deterministic host.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Wish {
    /// `crun run`, `runc run` and `microvm run` of busybox `/bin/true`
    Start {
        /// Write the figures to this file too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// Measures and prints a table.
pub(crate) fn run(wish: &Wish) -> Result<()> {
    let Wish::Start { json: _ } = wish;
    bail!("there is no stopwatch yet")
}
