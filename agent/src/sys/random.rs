//! The kernel's random generator, by the two calls that are its owner's.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::checked;

/// `_IOW('R', 0x03, int[2])`: adds bytes and counts them as random (random(4)).
const RNDADDENTROPY: u64 = 0x4008_5203;
/// `_IO('R', 0x07)`: makes the next key of what was added, at once.
const RNDRESEEDCRNG: u64 = 0x5207;

/// `struct rand_pool_info` with its bytes.
#[repr(C)]
struct Pool<const N: usize> {
    entropy_bits: i32,
    bytes: i32,
    seed: [u8; N],
}

/// Adds `seed`, all of it random, and has the generator go on from there: nothing it gave before tells of
/// what it gives from now on, to any process and on any processor.
pub(crate) fn reseed<const N: usize>(generator: OwnedFd, seed: &[u8; N]) -> Result<(), Errno> {
    let bytes = i32::try_from(N).map_err(|_| Errno::INVAL)?;
    let pool = Pool { entropy_bits: bytes * 8, bytes, seed: *seed };
    // SAFETY: `pool` is readable, and as long as it says.
    checked(unsafe { libc::ioctl(generator.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) })?;
    // SAFETY: nothing is passed by address.
    checked(unsafe { libc::ioctl(generator.as_raw_fd(), RNDRESEEDCRNG as _) })?;
    Ok(())
}
