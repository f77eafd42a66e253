//! Whole-house tests: what a story needs to be told.
//!
//! A story drives the built `microvm` file as a person would and knows nothing of its inside. Each has
//! a [`House`] of its own (state directory, environment) and shares one image store, and when it is
//! over the house checks that nothing was left behind.
//!
//! Two things come from outside: `MICROVM`, the file under test, and `MICROVM_DEMO`, the demo image's
//! archive. `MICROVM_SERVICES` may name a store of images of services for the stories about them, and
//! `MICROVM_CHAPTER` the one chapter that is told. Without the first, or where that file finds no usable KVM,
//! no story can run, and the runner counts each as ignored.

pub mod belongings;
mod beside;
mod bundle;
mod engine;
mod guest;
mod house;
mod namespace;
mod noise;
mod stepper;
mod systemd;
mod terminal;
mod tmpfs;

pub use beside::Beside;
pub use bundle::Bundle;
pub use guest::{initramfs_of_this_program, kernel_of_instructions};
pub use house::{House, Outcome, Running, clear_store, end_everybody, services_store};
pub use namespace::{Namespace, ip};
pub use noise::Noise;
pub use stepper::{Step, Way, kill_at};
pub use systemd::Systemd;
pub use terminal::Terminal;
pub use tmpfs::Tmpfs;

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The `microvm` file under test, from `MICROVM`.
pub fn program() -> Option<PathBuf> {
    env::var_os("MICROVM").map(PathBuf::from)
}

/// A store with images of services in it, from `MICROVM_SERVICES`.
pub fn services() -> Option<PathBuf> {
    env::var_os("MICROVM_SERVICES").map(PathBuf::from)
}

/// Whether a chapter is told: all are, unless `MICROVM_CHAPTER` names one.
pub fn is_told(chapter: &str) -> bool {
    env::var_os("MICROVM_CHAPTER").is_none_or(|only| only == chapter)
}

/// Whether stories that go on and on do so for as long as they should, from `MICROVM_SOAK`: it takes an
/// hour. Without it they go on for a while.
pub fn soaks() -> bool {
    env::var_os("MICROVM_SOAK").is_some()
}

/// A number that is one when it soaks, and another else.
pub fn when_it_soaks(it: usize, usually: usize) -> usize {
    if soaks() { it } else { usually }
}

/// The longest a story can take.
pub fn longest() -> Duration {
    Duration::from_secs(60 * if soaks() { 60 } else { 10 })
}

/// The first of `tools` that is not on this machine.
pub fn missing<'a>(tools: &[&'a str]) -> Option<&'a str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| env::split_paths(&path).any(|place| place.join(tool).is_file());
    tools.iter().find(|tool| !there(tool)).copied()
}

/// Why no story can run here, in a sentence, or `None` if they can.
pub fn cannot_run() -> Option<String> {
    let Some(program) = program() else {
        return Some("MICROVM does not name the file under test".to_owned());
    };
    match Command::new(&program).arg("doctor").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "`microvm doctor` finds no usable KVM here:\n{}",
            String::from_utf8_lossy(&output.stdout)
        )),
        Err(error) => Some(format!("{}: {error}", program.display())),
    }
}
