//! The emulated KVM host.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;

/// What to do with the host.
#[derive(Subcommand)]
pub(crate) enum Wish {
    /// Start it unless it is up
    Up,
    /// Run a command in it, starting it if need be
    Exec {
        /// In a fresh machine whose clock counts instructions, with nothing but the outputs in it
        #[arg(long)]
        deterministic: bool,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// A shell in it
    Shell,
    /// End it, and forget all that was written in it
    Down,
    /// Say whether it is up
    Status,
}

/// Does it. The answer of `Exec` is the command's exit code.
pub(crate) fn run(_wish: &Wish) -> Result<ExitCode> {
    bail!("the emulated host is not built yet")
}
