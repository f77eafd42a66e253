//! A machine whose clock counts instructions: a stopwatch that does not see the neighbours.
//!
//! Its time goes on by a nanosecond for an instruction and stands still for all else, so two runs of
//! the same command print the same figures. Nothing in it waits for this machine: what the command
//! needs is copied to a disk beforehand, disks are memory, and output leaves through serial ports,
//! which QEMU serves at once.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use super::machine::{self, Clock};
use super::{image, ssh};
use crate::{cache, packages, paths, step};

/// RAM, of which half is what a file system in memory can hold, and room for the two disks beside it.
const MEMORY: &str = "6G,slots=2,maxmem=64G";

/// Sparse, so that its size costs nothing.
const DISK_BYTES: u64 = 4 << 30;

/// The command as a file of the scratch directory.
const SCRIPT: &str = "main.sh";

/// How long a command may take on this machine: twice as long as the longest there is.
///
/// Some never end. When a hypervisor in QEMU 7.2 gives its guest an interrupt (`VMRUN` with `EVENTINJ`), QEMU delivers
/// it, and keeps its number as one that is to be delivered. If the next thing to happen is that the clock comes to a
/// timer, it is delivered again, whether the guest has interrupts switched off or not; and a guest in the midst of the
/// first waits for a lock that is its own. The clocks of other machines have no such moments, and the same command has
/// the same ones each time.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs `words` in a fresh machine and prints what they print: on `stdout`, and on this process's
/// standard error. In there the content of `directory` is at the same path as here, read-only and
/// first in `PATH`; standard input is empty. The answer is the command's exit code.
pub(crate) fn run<W: AsRef<OsStr>>(
    directory: &Path,
    words: &[W],
    stdout: &mut (impl Write + Send),
) -> Result<u8> {
    packages::install(&["e2fsprogs"])?;
    let image = image::image()?;
    let scratch = paths::cache()?.join("deterministic");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let name = |kind: &str| scratch.join(kind);
    // One at a time: what a killed one left behind is then in the way of nobody.
    let _lock = cache::lock(&name("lock"), "deterministic host")?;
    let disk = name("files.ext4");
    write_script(directory, words, &name(SCRIPT))?;
    make_disk(directory, &scratch, &disk)?;

    let mut qemu = machine::machine(&image, Clock::Instructions, "serve=main")?;
    qemu.args(["-machine", "q35,nvdimm=on", "-m", MEMORY]);
    machine::memory_disk(&mut qemu, "files", &disk)?;
    qemu.arg("-serial").arg(format!("file:{}", name("console.log").display()));
    let out = Port::add(&mut qemu, "out")?;
    let err = Port::add(&mut qemu, "err")?;
    let code = Port::add(&mut qemu, "code")?;
    let mut qemu = qemu.stdin(Stdio::null()).spawn().context("starting QEMU")?;
    let (mut out, mut err, mut code) = (out.ours(), err.ours(), code.ours());

    let mut answer = String::new();
    let number = Pid::from_child(&qemu);
    let (over, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| -> io::Result<()> {
        scope.spawn(move || {
            if is_over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // It is not waited for before this thread has ended: the number is its own.
                let _ = kill_process(number, Signal::KILL);
            }
        });
        let out = scope.spawn(move || io::copy(&mut out, stdout));
        let err = scope.spawn(move || io::copy(&mut err, &mut io::stderr()));
        let read = code.read_to_string(&mut answer);
        drop(over);
        read?;
        for copy in [out, err] {
            copy.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(())
    })
    .context("the deterministic host's output")?;
    let status = qemu.wait().context("waiting for QEMU")?;
    match answer.trim_end().parse::<u8>() {
        Ok(code) => Ok(code),
        Err(_) => {
            step::show_last_lines(&fs::read(name("console.log")).unwrap_or_default());
            bail!("the deterministic host ended before the command did, QEMU: {status}")
        }
    }
}

/// A serial port of the machine, with its other end here.
struct Port {
    ours: UnixStream,
    _theirs: UnixStream,
}

impl Port {
    fn add(qemu: &mut Command, name: &str) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // QEMU inherits it; see [`Port::ours`].
        fcntl_setfd(&theirs, FdFlags::empty())?;
        qemu.args(["-chardev", &format!("socket,id={name},fd={}", theirs.as_raw_fd())]);
        qemu.args(["-serial", &format!("chardev:{name}")]);
        Ok(Self { ours, _theirs: theirs })
    }

    /// Our end, once QEMU was started. It ends when QEMU does, since nobody else has the other.
    fn ours(self) -> UnixStream {
        self.ours
    }
}

/// A file system with the content of `directory`, and the script that is in `scratch` as `.main`.
fn make_disk(directory: &Path, scratch: &Path, disk: &Path) -> Result<()> {
    File::create(disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .with_context(|| disk.display().to_string())?;
    step::quiet(
        "deterministic host: copying files",
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-L", "files", "-d"])
            .args([directory, disk]),
    )?;
    let mut add = Command::new("debugfs");
    add.current_dir(scratch).args(["-w", "-R", &format!("write {SCRIPT} .main")]).arg(disk);
    step::read("adding the command to the deterministic host's disk", &mut add)?;
    Ok(())
}

fn write_script<W: AsRef<OsStr>>(directory: &Path, words: &[W], script: &Path) -> Result<()> {
    let mount_point = ssh::quoted(directory.as_os_str());
    let mut text = OsString::from("mkdir -p ");
    text.push(&mount_point);
    text.push(" && mount --bind /mnt ");
    text.push(&mount_point);
    text.push(" && ");
    text.push(ssh::script(paths::checkout(), directory, words));
    fs::write(script, text.as_bytes()).with_context(|| script.display().to_string())
}
