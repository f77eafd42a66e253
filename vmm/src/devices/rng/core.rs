//! Fills requests with random bytes.

use std::io;

use crate::virtio::chain::Buffers;
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
