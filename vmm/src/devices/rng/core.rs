//! Fills requests with random bytes.

use std::io;

use crate::virtio::buffers::Buffers;
use crate::virtio::worker;

/// The most bytes one request gets. A guest asks for some dozens; this keeps one that asks for
/// gigabytes from holding up the event loop.
const REQUEST_BYTES: usize = 64 << 10;

/// Where random bytes come from.
pub(super) trait Source: Send {
    /// Fills `bytes`, 256 at most.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The kernel's own generator, the same that `/dev/urandom` is.
pub(super) struct Kernel;

impl Source for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        // Up to 256 bytes come whole or not at all (getrandom(2)).
        // SAFETY: `bytes` is writable for its length.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(got) if got == bytes.len() => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

pub(super) struct Core<S> {
    pub(super) source: S,
}

impl<S: Source> worker::Core for Core<S> {
    fn answer(&mut self, _: Buffers<'_>, mut writable: Buffers<'_>) -> usize {
        let mut request = writable.split_to(REQUEST_BYTES);
        let mut bytes = [0; 256];
        let mut written = 0;
        while !request.is_empty() {
            let part = request.len().min(bytes.len());
            if self.source.fill(&mut bytes[..part]).is_err() {
                break;
            }
            written += request.copy_from(&bytes[..part]);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{DATA, Driver, with_chain};
    use crate::virtio::worker::Core as _;

    /// Counts upwards, and fails after so many calls.
    struct Counting(u8, usize);

    impl Source for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
            self.1 = self.1.checked_sub(1).ok_or(io::ErrorKind::Other)?;
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    fn ask(source: Counting, parts: &[(u64, u32, bool)]) -> (usize, Driver) {
        let mut guest = Driver::new();
        let mut core = Core { source };
        let written = with_chain(&mut guest, parts, |from, into| core.answer(from, into));
        (written, guest)
    }

    #[test]
    fn a_request_is_filled_over_all_its_parts() {
        let parts = [(DATA, 3, true), (DATA + 0x100, 5, true)];
        let (written, guest) = ask(Counting(1, 9), &parts);
        assert_eq!(written, 8);
        assert_eq!(guest.read(DATA, 4), [1, 2, 3, 0]);
        assert_eq!(guest.read(DATA + 0x100, 6), [4, 5, 6, 7, 8, 0]);
    }

    #[test]
    fn a_giant_request_gets_no_more_than_its_share() {
        let (written, _) = ask(Counting(0, 9999), &[(DATA, 0x10_0000, true)]);
        assert_eq!(written, REQUEST_BYTES);
    }

    #[test]
    fn a_source_that_dries_up_gives_what_there_was() {
        let (written, _) = ask(Counting(0, 2), &[(DATA, 1000, true)]);
        assert_eq!(written, 512);
    }

    #[test]
    fn the_kernel_gives_other_bytes_each_time() {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        Kernel.fill(&mut first).unwrap();
        Kernel.fill(&mut second).unwrap();
        assert_ne!(first, second);
    }
}
