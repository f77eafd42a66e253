//! The emulated KVM host: a QEMU machine with AMD's virtualisation, for where there is none.
//!
//! One such machine belongs to a checkout, and more where tests have processors for them. It is started
//! when it is first needed and stays up, so that a command in it costs its own time and not a boot; all
//! that is written in it is gone when it ends.

mod deterministic;
mod image;
mod instance;
mod machine;
mod qmp;
mod session;
mod share;
mod ssh;

use std::ffi::OsStr;
use std::io::{IsTerminal, stdin, stdout};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Subcommand;

pub(crate) use deterministic::run as run_deterministic;
use instance::Found;
pub(crate) use instance::{Instance, Up};
pub(crate) use session::Session;
pub(crate) use share::share;

use crate::paths;

/// What to do with the host.
#[derive(Subcommand)]
pub(crate) enum Wish {
    /// Start it unless it is up
    Up,
    /// Run a command in it, starting it if need be
    Exec {
        /// In a fresh machine whose clock counts instructions, with a copy of `target/microvm`
        #[arg(long)]
        deterministic: bool,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// A shell in it
    Shell,
    /// End it, and forget all that was written in it
    Down {
        /// Those of all checkouts, the ones that are gone included
        #[arg(long)]
        all: bool,
    },
    /// Say whether it is up
    Status,
}

/// Does it. The answer of `Exec` is the command's exit code.
pub(crate) fn run(wish: &Wish) -> Result<ExitCode> {
    let instance = Instance::of_checkout()?;
    match wish {
        Wish::Up => {
            instance.up()?;
        }
        Wish::Exec { deterministic: false, command } => return instance.up()?.exec(command),
        Wish::Exec { deterministic: true, command } => {
            let code = run_deterministic(&paths::outputs(), command, &mut stdout())?;
            return Ok(ExitCode::from(code));
        }
        Wish::Shell => return instance.up()?.exec(&["bash", "--login"]),
        Wish::Down { all } => {
            let ended = down(if *all { Instance::all()? } else { Instance::all_of_checkout()? })?;
            println!("{ended} ended");
        }
        Wish::Status => match instance.find()? {
            Found::Nothing => println!("down"),
            Found::Half(pid) => println!("half up: QEMU is process {pid}"),
            Found::Up(up) => println!("up: QEMU is process {}", up.pid),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends hosts, and says how many were up.
pub(crate) fn down(instances: Vec<Instance>) -> Result<u32> {
    let mut ended = 0;
    for instance in instances {
        ended += u32::from(instance.down()?);
    }
    Ok(ended)
}

impl Up {
    /// Runs a command at the root of the checkout with this process's standard streams, and a
    /// terminal of its own if that is what they are. The answer is its exit code.
    pub(crate) fn exec<W: AsRef<OsStr>>(&self, words: &[W]) -> Result<ExitCode> {
        if stdin().is_terminal() && stdout().is_terminal() {
            // In our place: whatever happens to us is then ssh's to handle, which it does well.
            let error = ssh::command_in_terminal(self, paths::checkout(), words).exec();
            return Err(error).context("ssh");
        }
        let session = self.session(words, Stdio::inherit(), Stdio::inherit())?;
        session.finish().map(ExitCode::from)
    }

    /// The same without a terminal and with other streams; standard error is this process's.
    pub(crate) fn session<W: AsRef<OsStr>>(
        &self,
        words: &[W],
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Session<'_>> {
        Session::start(self, words, stdin, stdout)
    }

    /// A command that is a step of ours.
    pub(crate) fn command<W: AsRef<OsStr>>(&self, words: &[W]) -> Command {
        ssh::command(self, paths::checkout(), words)
    }
}
