//! A terminal for somebody else: a pseudoterminal whose master goes to the caller's console socket, and
//! whose other end becomes our own standard streams.
//!
//! It is in raw mode: the terminal with line editing and Ctrl-C is the one in the guest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use proto::spec::{Stdio, TerminalSize};
use rustix::fs::{Mode, OFlags};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::descriptors;

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// There is none to be had.
    #[error("process.terminal is true, and there is neither --console-socket nor a terminal here")]
    Nowhere,
    /// There should be none.
    #[error("--console-socket is given, and process.terminal is not true")]
    NotWanted,
    /// Nobody listens.
    #[error("--console-socket {}", path.display())]
    Socket {
        /// Where somebody should.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel gives no pseudoterminal.
    #[error("terminal")]
    Terminal(#[source] io::Error),
}

/// Whether a first process with `stdio` can have its terminal: at `socket`, or as the caller's `own`.
pub(super) fn judge(stdio: &Stdio, socket: Option<&Path>, own: bool) -> Result<(), ConsoleError> {
    match (stdio, socket) {
        (Stdio::Terminal { .. }, None) if !own => Err(ConsoleError::Nowhere),
        (Stdio::Pipes { .. }, Some(_)) => Err(ConsoleError::NotWanted),
        _ => Ok(()),
    }
}

/// Makes a terminal, sends its master to `socket`, and takes its other end for our standard streams and
/// our controlling terminal. We must lead a session.
pub(super) fn take(socket: &Path, size: TerminalSize) -> Result<(), ConsoleError> {
    let at_socket = |source| ConsoleError::Socket { path: socket.to_owned(), source };
    let receiver = UnixStream::connect(socket).map_err(at_socket)?;
    let (master, slave) = pair(size).map_err(ConsoleError::Terminal)?;
    let name = ptsname(&master, vec![]).map_err(|error| ConsoleError::Terminal(error.into()))?;
    descriptors::send(&receiver, name.as_bytes(), Some(master.as_fd())).map_err(at_socket)?;
    become_ours(&slave).map_err(ConsoleError::Terminal)
}

fn pair(size: TerminalSize) -> io::Result<(impl AsFd, File)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(ptsname(&master, vec![])?, flags, Mode::empty())?;
    let mut mode = tcgetattr(&slave)?;
    mode.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &mode)?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size)?;
    Ok((master, File::from(slave)))
}

fn become_ours(slave: &File) -> io::Result<()> {
    ioctl_tiocsctty(slave)?;
    dup2_stdin(slave)?;
    dup2_stdout(slave)?;
    dup2_stderr(slave)?;
    Ok(())
}
