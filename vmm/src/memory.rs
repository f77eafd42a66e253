//! Guest memory: one memfd, mapped shared.
//!
//! A memfd rather than anonymous memory, so that a snapshot is a file and a restore can map it. The
//! kernel's pages are mapped over it and are not in it (`mapped`): who saves memory reads it here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

/// Guest memory as every floor above sees it. A clone is another handle to the same bytes.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// A stretch of guest-physical addresses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel gave no memory file, or not of that size.
    #[error("{bytes} bytes of guest memory: {source}")]
    File {
        /// How many were wanted.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory file could not be mapped.
    #[error("mapping {bytes} bytes of guest memory at {start:#x}: {source}")]
    Map {
        /// Guest-physical start of the part.
        start: u64,
        /// Its length.
        bytes: u64,
        /// What went wrong.
        source: vm_memory::mmap::FromRangesError,
    },
    /// The parts overlap or are none.
    #[error("guest memory layout: {0}")]
    Layout(#[from] vm_memory::GuestRegionCollectionError),
}

/// Memory at `ranges`, zeroed, taken from the host as the guest touches it.
pub fn allocate(ranges: &[Range]) -> Result<Memory, MemoryError> {
    let total = ranges.iter().map(|range| range.bytes).sum();
    let file = memory_file(total).map_err(|source| MemoryError::File { bytes: total, source })?;
    let file = std::sync::Arc::new(file);
    let mut offset = 0;
    let mut regions = Vec::with_capacity(ranges.len());
    for &Range { start, bytes } in ranges {
        let part = FileOffset::from_arc(file.clone(), offset);
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let region = GuestRegionMmap::from_range(GuestAddress(start), size, Some(part))
            .map_err(|source| MemoryError::Map { start, bytes, source })?;
        regions.push(region);
        offset += bytes;
    }
    Ok(Memory::from_regions(regions)?)
}

fn memory_file(bytes: u64) -> io::Result<File> {
    // SAFETY: the name is a C string, and nothing else is passed by address.
    let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    debug_assert!(fd.as_raw_fd() >= 0);
    // SAFETY: `fd` was made just now and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn the_hole_between_two_parts_is_not_memory() {
        let parts = [Range { start: 0, bytes: 0x20_0000 }, Range { start: 1 << 32, bytes: 0x1000 }];
        let memory = allocate(&parts).unwrap();
        memory.write_obj(7u32, GuestAddress(1 << 32)).unwrap();
        assert_eq!(memory.read_obj::<u32>(GuestAddress(1 << 32)).unwrap(), 7);
        assert!(!memory.address_in_range(GuestAddress(0x20_0000)));
        assert!(memory.write_obj(7u32, GuestAddress(0x20_0000 - 2)).is_err());
    }

    #[test]
    fn more_memory_than_addresses_is_an_error_with_the_number_in_it() {
        let error = allocate(&[Range { start: 0, bytes: u64::MAX }]).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
    }
}
