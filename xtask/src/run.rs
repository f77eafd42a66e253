//! `cargo xtask run`: `microvm`, where KVM is real.

use std::ffi::OsStr;
use std::iter;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build::{self, Outputs};
use crate::cache::Key;
use crate::host::{Instance, Up};
use crate::step;

/// Builds, then runs `microvm` with `args`, the demo image being in its store. The answer is its
/// exit code.
pub(crate) fn microvm(args: &[String]) -> Result<ExitCode> {
    let outputs = build::everything()?;
    if kvm_is_real(&outputs)? {
        let mut load = Command::new(&outputs.microvm);
        step::read("loading the demo image", load.arg("load").arg(&outputs.demo))?;
        let error = Command::new(&outputs.microvm).args(args).exec();
        return Err(error).with_context(|| outputs.microvm.display().to_string());
    }
    let up = Instance::of_checkout()?.up()?;
    load_demo(&up, &outputs)?;
    let words: Vec<_> = iter::once("microvm").chain(args.iter().map(String::as_str)).collect();
    up.exec(&words)
}

/// Whether this machine's KVM can run a VM. `microvm doctor` knows: that `/dev/kvm` is there does
/// not say so. If not, one line says that the emulated host is used.
pub(crate) fn kvm_is_real(outputs: &Outputs) -> Result<bool> {
    let doctor = Command::new(&outputs.microvm)
        .arg("doctor")
        .stdin(Stdio::null())
        .output()
        .with_context(|| outputs.microvm.display().to_string())?;
    let real = doctor.status.success();
    if !real {
        step::say("no usable KVM here (`microvm doctor` says why): in the emulated host");
    }
    Ok(real)
}

/// A host that was just started has an empty store; one that was not may have the image as it was
/// before a change.
fn load_demo(up: &Up, outputs: &Outputs) -> Result<()> {
    let demo = Key::new().file("demo", &outputs.demo)?.short();
    up.once("demo", &demo, || {
        let words = [OsStr::new("microvm"), OsStr::new("load"), outputs.demo.as_os_str()];
        step::quiet("loading the demo image into the emulated host", &mut up.command(&words))
    })
}
