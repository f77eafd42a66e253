//! What every container finds in `/dev`, whatever its image holds.

use std::os::fd::AsFd;
use std::path::Path;

use proto::spec::Mount;
use rustix::fs::{AtFlags, FileType, Mode, makedev, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::mounts;
use super::options::{Bind, Options};
use super::within::Within;
use crate::process::terminal::Terminal;

/// Name, major and minor number of the default devices of the OCI specification.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Names that lead to a process's own descriptors.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A part of `/dev` that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("/dev/{name}: {}", crate::words::words(*.errno))]
pub(crate) struct DeviceError {
    name: &'static str,
    errno: Errno,
}

/// Makes devices and links. What is there already stays, but for `ptmx`: only the one of the
/// container's own `devpts` gives terminals it can use. A `/dev` that is somebody else's, by a bind
/// mount, is left alone.
pub(crate) fn make(root: &Within<'_>, mounts: &[Mount]) -> Result<(), DeviceError> {
    if mounts.iter().any(is_foreign_dev) {
        return Ok(());
    }
    let wrong = |name| move |errno| DeviceError { name, errno };
    let dev = root.make_directory(Path::new("/dev")).map_err(wrong(""))?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let made = mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor));
        unless_there(made).map_err(wrong(name))?;
    }
    for (name, target) in LINKS {
        unless_there(symlinkat(target, &dev, name)).map_err(wrong(name))?;
    }
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(wrong("ptmx")(errno)),
    }
    symlinkat("pts/ptmx", &dev, "ptmx").map_err(wrong("ptmx"))
}

/// Makes `/dev/console` the container's terminal.
pub(crate) fn console(root: &Within<'_>, terminal: &Terminal) -> Result<(), DeviceError> {
    let bind = || {
        let tree = mounts::copy_of(&terminal.slave, Path::new(""), Bind::One)?;
        let place = root.make_file(Path::new("/dev/console"))?;
        mounts::attach(tree.as_fd(), place.as_fd())
    };
    bind().map_err(|errno| DeviceError { name: "console", errno })
}

fn is_foreign_dev(mount: &Mount) -> bool {
    let is_bind = || mount.kind.as_deref() == Some("bind");
    mount.destination == Path::new("/dev")
        && (is_bind() || Options::parse(&mount.options).bind.is_some())
}

fn unless_there(made: Result<(), Errno>) -> Result<(), Errno> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
