//! The stopwatch: how long a container's start takes, beside its peers, on one clock.
//!
//! `stopwatch start` runs where KVM is and prints what it measured as JSON; `stopwatch report` turns
//! that into tables anywhere. `cargo xtask bench start` does both, the first of them in the emulated
//! host whose clock counts instructions.
//!
//! It drives built files as a person would, and knows nothing of their inside.

mod budget;
mod exits;
mod figures;
mod race;
mod report;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "stopwatch", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    wish: Wish,
}

#[derive(Subcommand)]
enum Wish {
    /// Time the start and end of busybox `/bin/true` under crun, runc and microvm; figures on
    /// standard output
    Start(start::Arguments),
    /// Print figures as tables, and hold them against a budget
    Report {
        /// What `stopwatch start` printed
        #[arg(long, value_name = "FILE")]
        figures: PathBuf,
        /// The goals
        #[arg(long, value_name = "FILE")]
        budget: PathBuf,
        /// Exit with 1 if a goal is missed
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match fulfil(Arguments::parse().wish) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stopwatch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fulfil(wish: Wish) -> Result<ExitCode> {
    match wish {
        Wish::Start(arguments) => {
            let figures = start::measure(&arguments)?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(ExitCode::SUCCESS)
        }
        Wish::Report { figures, budget, check } => {
            let figures: figures::Figures = read(&figures)?;
            let goals: Vec<budget::Goal> = read(&budget)?;
            let verdicts = budget::judge(&goals, &figures);
            print!("{}", report::tables(&figures, &verdicts));
            let missed = verdicts.iter().any(|verdict| !verdict.is_kept());
            Ok(if check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
