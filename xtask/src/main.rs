//! The one door for developers: `cargo xtask …`.
//!
//! Each subcommand has a file of its own name. It builds with Debian's packages and cargo alone,
//! names whatever it installs, and knows nothing of what the crates of this house contain.

mod bench;
mod build;
mod cache;
mod ci;
mod conformance;
mod demo;
mod host;
mod images;
mod kernel;
mod packages;
mod paths;
mod registry;
mod rootfs;
mod run;
mod services;
mod step;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and tests microvm.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Xtask {
    #[command(subcommand)]
    wish: Wish,
}

#[derive(Subcommand)]
enum Wish {
    /// Build all that `microvm` needs into `target/microvm`
    Build,
    /// Run `microvm` with these arguments, where KVM is real or in the emulated host
    Run {
        /// What `microvm` is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the unit tests, and the VM tests where KVM is real or in the emulated host
    Test(test::Args),
    /// Everything that must hold before a change is taken
    Ci,
    /// The rules of the house that no compiler knows
    Tidy,
    /// Run the conformance suites on runc, crun and microvm, side by side
    Conformance(conformance::Args),
    /// Stopwatches
    Bench(bench::Wish),
    /// The emulated KVM host
    #[command(subcommand)]
    Host(host::Wish),
    /// Build the guest kernel and print where it is
    Kernel,
}

fn main() -> ExitCode {
    let done = match Xtask::parse().wish {
        Wish::Build => build::everything().map(|_| ExitCode::SUCCESS),
        Wish::Run { args } => run::microvm(&args),
        Wish::Test(args) => test::run(&args),
        Wish::Ci => ci::run().map(|()| ExitCode::SUCCESS),
        Wish::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
        Wish::Conformance(args) => conformance::run(&args),
        Wish::Bench(wish) => bench::run(&wish),
        Wish::Host(wish) => host::run(&wish),
        Wish::Kernel => kernel::print().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
