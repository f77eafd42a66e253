//! Parts of the Rust toolchain that a machine may lack: `rustup` does not add them by itself where
//! RUSTUP_AUTO_INSTALL is 0.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{paths, step};

/// Static, so that the same files run here, in the emulated host and in the guest.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-musl";

/// Makes sure that there is a standard library for [`TRIPLE`].
pub(crate) fn add_target() -> Result<()> {
    let mut sysroot = Command::new("rustc");
    sysroot.args(["--print", "sysroot"]).current_dir(paths::checkout());
    let sysroot = step::read("finding the Rust toolchain", &mut sysroot)?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TRIPLE).is_dir() {
        return Ok(());
    }
    rustup(&["target", "add", TRIPLE])
}

/// Makes sure that there are `cargo fmt` and `cargo clippy`.
pub(crate) fn add_components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let mut version = step::cargo();
        version.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().is_ok_and(|status| status.success()) {
            rustup(&["component", "add", component])?;
        }
    }
    Ok(())
}

fn rustup(words: &[&str]) -> Result<()> {
    let what = format!("rustup {}", words.join(" "));
    step::quiet(&what, Command::new("rustup").args(words).current_dir(paths::checkout()))
}
