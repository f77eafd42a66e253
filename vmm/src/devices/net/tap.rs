//! A tap as the kernel has it: each read and each write is one frame. One may have several queues, each with a
//! descriptor of its own, among which the kernel shares out what comes: a flow goes where its answers came from.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use super::OpenWireError;
use super::core::{HEADER, Offloads, Wire};
use crate::virtio::buffers::Buffers;

/// `_IOR('T', 210, unsigned int)`.
const TUNGETIFF: u32 = 0x8004_54d2;
/// `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
/// `_IOW('T', 217, int)`.
const TUNSETQUEUE: u32 = 0x4004_54d9;
/// `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;

/// What a tap is given to us with.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// The tap of a slot, or a queue of it.
#[derive(Debug)]
pub(super) struct Tap {
    fd: OwnedFd,
    /// Of several queues: frames come by this one.
    attends: Option<bool>,
}

impl Tap {
    pub(super) fn new(fd: OwnedFd, slot: usize) -> Result<Self, OpenWireError> {
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut about: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the kernel writes one `ifreq`, or refuses because this is no tap.
        let known = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF as _, &raw mut about) };
        // SAFETY: for this call the flags are what was written, and any bits are a number.
        let flags = libc::c_int::from(unsafe { about.ifr_ifru.ifru_flags });
        if known < 0 || flags & FLAGS != FLAGS {
            return Err(OpenWireError::NotATap { slot });
        }
        let attends = (flags & libc::IFF_MULTI_QUEUE != 0).then_some(true);
        let tap = Self { fd, attends };
        tap.prepare().map_err(|source| OpenWireError::Io { slot, source })?;
        Ok(tap)
    }

    fn prepare(&self) -> io::Result<()> {
        let header = HEADER as libc::c_int;
        // SAFETY: the kernel reads one number.
        let done =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const header) };
        outcome(done)?;
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETFL) };
        outcome(flags)?;
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: no memory is passed.
        outcome(unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETFL, flags) })
    }
}

impl Wire for Tap {
    fn send(&mut self, header: &[u8; HEADER], mut frame: Buffers<'_>) -> io::Result<()> {
        frame.write_behind(header, self.fd.as_fd())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `into` is writable for its length.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    fn attend(&mut self, attends: bool) {
        if self.attends.is_none_or(|before| before == attends) {
            return;
        }
        let flags = if attends { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the kernel reads one `ifreq`.
        let done =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETQUEUE as _, &raw const request) };
        // A tap that is gone has no queues, and there is nothing to be done about it.
        if done >= 0 {
            self.attends = Some(attends);
        }
    }

    fn offload(&mut self, offloads: Offloads) -> io::Result<()> {
        let flags = libc::c_ulong::from(offloads.0);
        // SAFETY: the third argument is a number for this call.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                TUNSETOFFLOAD as _,
                ptr::without_provenance::<u8>(flags as usize),
            )
        };
        outcome(done)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn outcome(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_no_tap_is_called_so() {
        let error = Tap::new(File::open("/dev/null").unwrap().into(), 3).unwrap_err();
        assert!(
            error.to_string().starts_with("network slot 3: the descriptor is no tap"),
            "{error}"
        );
    }
}
