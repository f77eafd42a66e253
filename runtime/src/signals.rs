//! Signals sent to us, as something to read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that stay what they are: about our own children and our own mistakes, or about the
/// terminal's jobs (`Ctrl-Z` stops `microvm`, not the container).
const OURS: [Signal; 15] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGPIPE,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGSTOP,
    Signal::SIGKILL,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// From here on, signals meant for the container wait to be read instead of acting on us.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Must come before any thread is started: a thread has the mask of the one that started it.
    pub(crate) fn catch() -> io::Result<Self> {
        let mut caught = SigSet::all();
        for signal in OURS {
            caught.remove(signal);
        }
        caught.thread_block()?;
        Ok(Self(SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// None: each does what it does to a program that says nothing about it.
    pub(crate) fn left_alone() -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&SigSet::empty(), flags)?))
    }

    /// The next signal's number that has come, `None` when there is no more.
    pub(crate) fn next(&self) -> io::Result<Option<i32>> {
        Ok(self.0.read_signal()?.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes back what a parent that catches signals gave us with its mask.
pub(crate) fn uncatch() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// The signal ends a program that does nothing about it because its user wants it to end.
pub(crate) fn asks_to_end(signal: i32) -> bool {
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]
        .iter()
        .any(|&ending| ending as i32 == signal)
}

/// The signal says that the terminal has another size.
pub(crate) fn is_resize(signal: i32) -> bool {
    signal == Signal::SIGWINCH as i32
}
