//! Taps: interfaces whose other end is a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use vmm::spec::MAX_PAIRS;

/// `_IOW('T', 202, int)`.
const TUNSETIFF: u32 = 0x4004_54ca;

const PATH: &str = "/dev/net/tun";

/// Makes a tap in the calling thread's network namespace, for a VM with so many vCPUs: a descriptor for each of its
/// queues. It goes when they are closed.
pub(super) fn open(name: &str, vcpus: u8) -> io::Result<Vec<OwnedFd>> {
    let queues = usize::from(vcpus).clamp(1, MAX_PAIRS);
    (0..queues).map(|_| queue(name, queues > 1)).collect()
}

/// A tap, or one more queue of it.
fn queue(name: &str, one_of_several: bool) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(PATH);
    let file = file.map_err(|error| io::Error::new(error.kind(), format!("{PATH}: {error}")))?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let several = if one_of_several { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq`, which `request` is.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(file.into()) }
}
