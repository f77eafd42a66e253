//! Descriptors on their way from one process to another: by inheritance, and by message.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// As many descriptors has every process.
pub(crate) const STANDARD: u32 = 3;

/// Closes every descriptor behind the standard ones but the first `preserved` and `kept`, which is behind
/// those. For a process that has just begun: nothing in it owns one of them, and whoever started it may wait
/// for the end of files it would otherwise keep open.
pub(crate) fn close_inherited(preserved: u32, kept: Option<RawFd>) -> io::Result<()> {
    let first = STANDARD + preserved;
    let Some(kept) = kept.and_then(|fd| u32::try_from(fd).ok()) else {
        return close_range(first, u32::MAX);
    };
    if kept > first {
        close_range(first, kept - 1)?;
    }
    close_range(kept + 1, u32::MAX)
}

/// Lets the next program that is executed have it, or not.
pub(crate) fn pass_on(descriptor: &OwnedFd, on: bool) -> io::Result<()> {
    let flags = if on { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is passed, and no descriptor in the range has an owner in this process.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends `words`, and `descriptor` along with them. A receiver that is gone is an error and no signal.
pub(crate) fn send(
    socket: impl AsFd,
    words: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !descriptor.as_slice().is_empty() {
        along.push(SendAncillaryMessage::ScmRights(descriptor.as_slice()));
    }
    sendmsg(socket, &[IoSlice::new(words)], &mut along, SendFlags::NOSIGNAL)?;
    Ok(())
}
