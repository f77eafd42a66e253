//! A terminal from the container's own `devpts`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::spec::TerminalSize;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::container::within::Within;

/// Where a new terminal comes from. Not `/dev/ptmx`, which an image could have replaced.
const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// Both sides of a terminal.
pub(crate) struct Terminal {
    /// For the agent.
    pub(crate) master: OwnedFd,
    /// For the process: its descriptors 0, 1 and 2.
    pub(crate) slave: OwnedFd,
}

/// No terminal could be had.
#[derive(Debug, thiserror::Error)]
#[error("terminal: {MULTIPLEXER}: {}", crate::words::words(*.0))]
pub(crate) struct TerminalError(#[from] Errno);

impl Terminal {
    /// Makes a terminal of `size` in the container whose root this is.
    pub(crate) fn open(root: &Within<'_>, size: TerminalSize) -> Result<Self, TerminalError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = root.open(MULTIPLEXER, flags)?;
        rustix::pty::unlockpt(&master)?;
        let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer)?;
        resize(master.as_fd(), size)?;
        Ok(Self { master, slave })
    }
}

/// Tells the terminal its size; the kernel tells its processes.
pub(crate) fn resize(master: BorrowedFd<'_>, size: TerminalSize) -> Result<(), Errno> {
    let TerminalSize { rows, columns } = size;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size)
}
