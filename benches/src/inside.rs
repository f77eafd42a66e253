//! This program in a container: where it is there, and how it gets there.

use anyhow::{Context, Result};

/// Where it is in a container.
pub(crate) const PROGRAM: &str = "/stopwatch";

/// Where it is on the host.
pub(crate) fn on_host() -> Result<String> {
    Ok(std::env::current_exe().context("this program")?.display().to_string())
}

/// What `-v` is told.
pub(crate) fn binding() -> Result<String> {
    Ok(format!("{}:{PROGRAM}:ro", on_host()?))
}

/// Words as those who run a command take them.
pub(crate) fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
