//! The stopwatch: how long a container's start takes, beside its peers, on one clock.
//!
//! `stopwatch start`, `crowd`, `disks`, `images` and `network` run where KVM is and print what they measured as JSON;
//! `stopwatch report` turns that into tables and a picture anywhere. `cargo xtask bench` does both, the first in the
//! emulated host whose clock counts instructions.
//!
//! It drives built files as a person would, and knows nothing of their inside.

mod budget;
mod bundle;
mod crowd;
mod daemon;
mod disks;
mod exercise;
mod exits;
mod figures;
mod images;
mod inside;
mod network;
mod race;
mod report;
mod start;
mod svg;
mod talk;
mod virtiofsd;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

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
    /// Start many containers at once and weigh them; figures on standard output
    Crowd(crowd::Arguments),
    /// Read, write, make and remove files on the host and in VMs; figures on standard output
    Disks(disks::Arguments),
    /// Say in which ways files are used and what they are on, a line for each pair
    Ways,
    /// Pull images with microvm, podman and containerd; figures on standard output
    Images(images::Arguments),
    /// Talk over the networks of containers, and start some on each; figures on standard output
    Network(network::Arguments),
    /// Do something to files, and print how many nanoseconds it took
    Exercise(exercise::Arguments),
    /// Connect to a peer, and do what it says
    Talk(talk::Arguments),
    /// Print figures as tables, and hold them against a budget
    Report {
        /// What `stopwatch start` printed
        #[arg(long, value_name = "FILE")]
        start: Option<PathBuf>,
        /// What `stopwatch crowd` printed
        #[arg(long, value_name = "FILE")]
        crowd: Option<PathBuf>,
        /// What `stopwatch disks` printed
        #[arg(long, value_name = "FILE")]
        disks: Option<PathBuf>,
        /// What `stopwatch images` printed
        #[arg(long, value_name = "FILE")]
        images: Option<PathBuf>,
        /// What `stopwatch network` printed
        #[arg(long, value_name = "FILE")]
        network: Option<PathBuf>,
        /// The goals
        #[arg(long, value_name = "FILE")]
        budget: PathBuf,
        /// Draw the timeline of a start to this file
        #[arg(long, value_name = "FILE", requires = "start")]
        svg: Option<PathBuf>,
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
        Wish::Start(arguments) => print(&start::measure(&arguments)?),
        Wish::Crowd(arguments) => print(&crowd::measure(&arguments)?),
        Wish::Disks(arguments) => print(&disks::measure(&arguments)?),
        Wish::Ways => {
            for way in exercise::Way::value_variants() {
                for on in disks::Ground::value_variants() {
                    println!("{} {}", way.name(), on.name());
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Wish::Images(arguments) => print(&images::measure(&arguments)?),
        Wish::Network(arguments) => print(&network::measure(&arguments)?),
        Wish::Exercise(arguments) => print(&exercise::exercise(&arguments)?),
        Wish::Talk(arguments) => talk::talk(&arguments).map(|()| ExitCode::SUCCESS),
        Wish::Report { start, crowd, disks, images, network, budget, svg, check } => {
            let goals: Vec<budget::Goal> = read(&budget)?;
            let mut verdicts = Vec::new();
            if let Some(file) = &start {
                let figures: figures::Figures = read(file)?;
                let judged = budget::judge(&goals, &figures);
                print!("{}", report::tables(&figures, &judged));
                if let Some(svg) = &svg {
                    let picture = svg::timeline(&figures.timeline);
                    std::fs::write(svg, picture).with_context(|| svg.display().to_string())?;
                }
                verdicts.extend(judged);
            }
            if let Some(file) = &crowd {
                let figures: crowd::Crowd = read(file)?;
                let judged = budget::judge_crowd(&goals, &figures);
                print!("{}", report::crowd(&figures, &judged));
                verdicts.extend(judged);
            }
            if let Some(file) = &disks {
                print!("{}", disks::table(&read(file)?));
            }
            if let Some(file) = &images {
                print!("{}", images::table(&read(file)?));
            }
            if let Some(file) = &network {
                print!("{}", network::table(&read(file)?));
            }
            let missed = verdicts.iter().any(|verdict| !verdict.is_kept());
            Ok(if check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

fn print(figures: &impl serde::Serialize) -> Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(figures)?);
    Ok(ExitCode::SUCCESS)
}

fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
