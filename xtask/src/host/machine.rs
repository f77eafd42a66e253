//! QEMU's command line: a PC whose emulated CPU has AMD's virtualisation.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::image::Image;
use crate::packages;

/// What a machine needs of this one.
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-common", "openssh-client"];

const QEMU: &str = "qemu-system-x86_64";

/// How a machine keeps time.
#[derive(Clone, Copy)]
pub(super) enum Clock {
    /// As this machine does.
    Real,
    /// A nanosecond for an instruction, whatever else this machine does; waiting takes no time.
    Instructions,
}

/// Installs what a machine needs of this one, its file server among it.
pub(super) fn install() -> Result<()> {
    packages::install(PACKAGES)
}

/// A machine that is not started: a copy of the image, and `words` on the kernel's command line.
/// Type, memory and serial ports are the caller's to add.
pub(super) fn machine(image: &Image, clock: Clock, words: &str) -> Result<Command> {
    install()?;
    let mut qemu;
    let root = match clock {
        Clock::Real => {
            // A session of its own: it outlives us, and Ctrl-C at our terminal is not for it.
            qemu = Command::new("setsid");
            // One CPU: with two, QEMU 7.2 executes what one has translated while the other writes it
            // (KVM patches itself at each start: "int3: 0000"), and now and then gives a guest the
            // host's registers when its virtual CPU moves to the other.
            // A VM that starts is 60 MB of code for QEMU to translate, and a full buffer is
            // emptied of everybody's.
            qemu.args([QEMU, "-accel", "tcg,tb-size=1024", "-smp", "1"]);
            // What is written goes to a file that has no name and ends with the machine.
            qemu.args(["-device", "nvme,drive=root,serial=root", "-drive"]).arg(format!(
                "if=none,id=root,format=raw,snapshot=on,cache=unsafe,discard=unmap,file={}",
                escaped(&image.disk)
            ));
            "root=/dev/nvme0n1"
        }
        Clock::Instructions => {
            // It never outlives us.
            qemu = Command::new("setpriv");
            qemu.args(["--pdeathsig", "KILL", QEMU]);
            qemu.args(["-accel", "tcg,thread=single,tb-size=512", "-smp", "1"]);
            qemu.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
            qemu.args(["-rtc", "base=2026-01-01,clock=vm"]).arg("-initrd").arg(&image.initrd);
            memory_disk(&mut qemu, "root", &image.disk)?;
            "nokaslr norandmaps"
        }
    };
    // Without fast string instructions a kernel moves eight bytes at a time, and not one: an emulated
    // CPU takes a step for each.
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-cpu", "max,+svm,+npt,-erms,-fsrm"]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-append");
    let usual = "rw console=ttyS0 quiet panic=-1 mitigations=off audit=0";
    qemu.arg(format!("{root} {usual} {words}"));
    Ok(qemu)
}

/// Adds a disk that is memory. What is written to it does not reach the file. Which of several
/// comes first is not known: they are told apart by the labels of their file systems.
pub(super) fn memory_disk(qemu: &mut Command, name: &str, file: &Path) -> Result<()> {
    let bytes = fs::metadata(file).with_context(|| file.display().to_string())?.len();
    let path = escaped(file);
    qemu.arg("-object").arg(format!(
        "memory-backend-file,id={name},share=off,reserve=off,size={bytes},mem-path={path}"
    ));
    qemu.args(["-device", &format!("nvdimm,memdev={name},id={name}-disk")]);
    Ok(())
}

/// A path as QEMU's option lists take it: a comma is doubled.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
