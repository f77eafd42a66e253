//! QEMU's command line: a PC whose emulated CPU has AMD's virtualisation.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::image::Image;
use crate::packages;

/// What a machine needs of this one.
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-common", "openssh-client"];

const QEMU: &str = "qemu-system-x86_64";

/// How a machine keeps time.
#[derive(Clone, Copy)]
pub(super) enum Clock {
    /// As this machine does; two CPUs at a time.
    Real,
    /// A nanosecond for an instruction, whatever else this machine does; waiting takes no time.
    Instructions,
}

/// A machine that is not started: the image with what is written to it going to a file that has no
/// name, and `words` on the kernel's command line. Type, memory and serial ports are the caller's
/// to add.
pub(super) fn machine(image: &Image, clock: Clock, words: &str) -> Result<Command> {
    packages::install(PACKAGES)?;
    let mut qemu;
    let repeatable = match clock {
        Clock::Real => {
            // A session of its own: it outlives us, and Ctrl-C at our terminal is not for it.
            qemu = Command::new("setsid");
            qemu.args([QEMU, "-accel", "tcg,thread=multi,tb-size=512", "-smp", "2"]);
            ""
        }
        Clock::Instructions => {
            // It never outlives us.
            qemu = Command::new("setpriv");
            qemu.args(["--pdeathsig", "KILL", QEMU]);
            qemu.args(["-accel", "tcg,thread=single,tb-size=512", "-smp", "1"]);
            qemu.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
            qemu.args(["-rtc", "base=2026-01-01,clock=vm"]);
            "nokaslr norandmaps"
        }
    };
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-cpu", "max,+svm,+npt"]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-append").arg(format!(
        "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off audit=0 {repeatable} {words}"
    ));
    // The one kind of disk that Debian's kernel needs no module for. Of two, either could be the
    // first.
    drive(&mut qemu, "root", &image.disk);
    qemu.args(["-device", "nvme,drive=root,serial=root"]);
    Ok(qemu)
}

/// Adds a disk whose content stays as it is: `/dev/vda` and so on in the machine, in the order of
/// the calls.
pub(super) fn disk(qemu: &mut Command, name: &str, file: &Path) {
    drive(qemu, name, file);
    qemu.args(["-device", &format!("virtio-blk-pci,drive={name}")]);
}

fn drive(qemu: &mut Command, name: &str, file: &Path) {
    let file = escaped(file);
    qemu.arg("-drive").arg(format!(
        "if=none,id={name},format=raw,snapshot=on,cache=unsafe,discard=unmap,file={file}"
    ));
}

/// A path as QEMU's option lists take it: a comma is doubled.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
