//! Guest memory: anonymous, private to the process, in large pages where the host has them.
//!
//! Not a memory file, which no host gives large pages unless it is told to: with small ones the guest
//! leaves for each page that it touches first, thousands of times in a boot
//! (`docs/adr/0005-anonymous-guest-memory.md`).

use vm_memory::{GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

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
    /// There are not that many addresses, or the host does not promise that much.
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
    let mut regions = Vec::with_capacity(ranges.len());
    for &Range { start, bytes } in ranges {
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let region = GuestRegionMmap::from_range(GuestAddress(start), size, None)
            .map_err(|source| MemoryError::Map { start, bytes, source })?;
        ask_for_large_pages(&region);
        regions.push(region);
    }
    Ok(Memory::from_regions(regions)?)
}

/// A host that has none gives small ones.
fn ask_for_large_pages(region: &GuestRegionMmap<()>) {
    let Ok(address) = region.get_host_address(MemoryRegionAddress(0)) else { return };
    // SAFETY: the pages are the region's, which is mapped; the advice changes nothing in them.
    unsafe { libc::madvise(address.cast(), region.len() as usize, libc::MADV_HUGEPAGE) };
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
