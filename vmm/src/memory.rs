//! Guest memory: private to the process; anonymous, in large pages where the host has them, or a file's
//! that was saved before.
//!
//! A machine that boots has no memory file, which no host gives large pages unless it is told to: with small ones the guest
//! leaves for each page that it touches first, thousands of times in a boot
//! (`docs/adr/0005-anonymous-guest-memory.md`).

mod touched;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use vm_memory::mmap::{MmapRegion, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, VolatileSlice,
};

pub use self::touched::{Touched, Watch};

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
    /// The host does not map a file as memory.
    #[error("mapping {bytes} bytes of the memory file: {source}")]
    MapFile {
        /// The part's length.
        bytes: u64,
        /// What went wrong.
        source: MmapRegionError,
    },
    /// The file cannot be read, or not be written.
    #[error("memory file: {0}")]
    File(#[from] io::Error),
    /// The file holds less than the machine, or more.
    #[error("memory file of {bytes} bytes, not {wanted}")]
    Length {
        /// Its length.
        bytes: u64,
        /// What it should have.
        wanted: u64,
    },
    /// The file belongs to another state.
    #[error("the memory file is not this snapshot's")]
    NotTheSame,
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

/// Names a memory file in the state that belongs to it.
pub type FileId = [u8; 16];

/// A page of the guest's, and of a file behind the last of them, which has the file's name.
pub const PAGE: usize = 4096;

/// Pages behind one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// The first one's guest-physical address, divided by [`PAGE`].
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Pages {
    /// Where they begin.
    pub fn address(&self) -> GuestAddress {
        GuestAddress(u64::from(self.first) * PAGE as u64)
    }

    /// How long they are together.
    pub fn bytes(&self) -> usize {
        self.count as usize * PAGE
    }
}

/// How long a file is that holds memory of `ram_bytes`.
pub fn file_bytes(ram_bytes: u64) -> u64 {
    ram_bytes + PAGE as u64
}

/// Whether `file` holds memory of `ram_bytes` and is the one called `id`.
pub fn check(file: &File, ram_bytes: u64, id: &FileId) -> Result<(), MemoryError> {
    let wanted = ram_bytes.saturating_add(PAGE as u64);
    let bytes = file.metadata()?.len();
    // Behind a file's end there is a page that kills who touches it.
    if bytes != wanted {
        return Err(MemoryError::Length { bytes, wanted });
    }
    let mut said = FileId::default();
    file.read_exact_at(&mut said, ram_bytes)?;
    if said == *id { Ok(()) } else { Err(MemoryError::NotTheSame) }
}

/// Memory at `ranges` as `file` has it, one part behind the other. Nothing is copied: a page is the file's,
/// and shared with everybody who maps it, until the guest writes there.
pub fn map(ranges: &[Range], file: File, id: &FileId) -> Result<Memory, MemoryError> {
    check(&file, ranges.iter().map(|range| range.bytes).sum(), id)?;
    let file = std::sync::Arc::new(file);
    let (mut regions, mut offset) = (Vec::with_capacity(ranges.len()), 0);
    for &Range { start, bytes } in ranges {
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let part = FileOffset::from_arc(file.clone(), offset);
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
        let region = MmapRegion::build(Some(part), size, protection, flags)
            .map_err(|source| MemoryError::MapFile { bytes, source })?;
        regions.extend(GuestRegionMmap::new(region, GuestAddress(start)));
        offset += bytes;
    }
    Ok(Memory::from_regions(regions)?)
}

/// Writes `memory`, which nobody changes meanwhile, into `file`, which is empty but as long as
/// [`file_bytes`] says. Pages of zeros are left out: they stay holes.
pub fn write(memory: &Memory, file: &File, id: &FileId) -> Result<(), MemoryError> {
    let mut offset = 0;
    for region in memory.iter() {
        let len = region.len() as usize;
        // SAFETY: the region is mapped for as long as it is borrowed. Nobody writes there: the vCPUs stand
        // still, and who serves the devices is the caller.
        let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), len) };
        write_pages(bytes, file, offset)?;
        offset += region.len();
    }
    Ok(file.write_all_at(id, offset)?)
}

/// The most that is written by one call.
const RUN_PAGES: usize = 256;

fn write_pages(bytes: &[u8], file: &File, offset: u64) -> io::Result<()> {
    let mut run = 0..0;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let at = index * PAGE;
        let full = run.len() == RUN_PAGES * PAGE;
        let zeros = page == &[0; PAGE][..page.len()];
        if (zeros || full) && !run.is_empty() {
            file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
            run = at..at;
        }
        run = if zeros {
            0..0
        } else {
            (if run.is_empty() { at } else { run.start })..at + page.len()
        };
    }
    if run.is_empty() {
        Ok(())
    } else {
        file.write_all_at(&bytes[run.clone()], offset + run.start as u64)
    }
}

/// Makes pages of a private mapping the process's own, as a write to each would. A host that cannot (Linux before
/// 5.14) does it when they are written to.
pub fn copy_now(pages: &VolatileSlice<'_>) {
    let guard = pages.ptr_guard_mut();
    // SAFETY: the pages are mapped for as long as the slice lives; the advice changes nothing in them.
    unsafe { libc::madvise(guard.as_ptr().cast(), guard.len(), libc::MADV_POPULATE_WRITE) };
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

    const ID: FileId = *b"sixteen letters!";

    fn saved(memory: &Memory) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(file_bytes(memory.iter().map(|region| region.len()).sum())).unwrap();
        write(memory, &file, &ID).unwrap();
        file
    }

    #[test]
    fn memory_comes_back_page_for_page_and_zeros_take_no_room() {
        use std::os::unix::fs::MetadataExt;
        let parts =
            [Range { start: 0, bytes: 0x80_0000 }, Range { start: 1 << 32, bytes: 0x20_0000 }];
        let memory = allocate(&parts).unwrap();
        // Alone, in a row longer than what is written at once, at the end of one part and the start of the next.
        let pages = [3].into_iter().chain(100..700).chain([2047]);
        let low: Vec<u64> = pages.map(|page| page * PAGE as u64 + 5).collect();
        for &at in low.iter().chain(&[1 << 32, (1 << 32) + 0x1f_fff8]) {
            memory.write_obj(at | 1, GuestAddress(at)).unwrap();
        }
        let file = saved(&memory);
        assert!(file.metadata().unwrap().blocks() * 512 < 0x40_0000, "604 pages of 2560");
        let again = map(&parts, file.try_clone().unwrap(), &ID).unwrap();
        for (old, new) in memory.iter().zip(again.iter()) {
            let [mut was, mut is] = [(); 2].map(|()| vec![0; old.len() as usize]);
            memory.read_slice(&mut was, old.start_addr()).unwrap();
            again.read_slice(&mut is, new.start_addr()).unwrap();
            assert!(was == is, "{:?}", old.start_addr());
        }
        again.write_obj(0xeeu8, GuestAddress(0x3000)).unwrap();
        let other = map(&parts, file, &ID).unwrap();
        assert_eq!(other.read_obj::<u8>(GuestAddress(0x3000)).unwrap(), 0, "a write is one's own");
    }

    #[test]
    fn a_memory_file_that_is_another_or_was_cut_is_refused() {
        let parts = [Range { start: 0, bytes: 0x20_0000 }];
        let file = saved(&allocate(&parts).unwrap());
        let refused = |parts: &[Range], id| {
            map(parts, file.try_clone().unwrap(), id).unwrap_err().to_string()
        };
        assert_eq!(refused(&parts, &[7; 16]), "the memory file is not this snapshot's");
        let larger = [Range { start: 0, bytes: 0x40_0000 }];
        assert_eq!(refused(&larger, &ID), "memory file of 2101248 bytes, not 4198400");
        file.set_len(0x20_0000).unwrap();
        assert_eq!(refused(&parts, &ID), "memory file of 2097152 bytes, not 2101248");
    }

    #[test]
    fn more_memory_than_addresses_is_an_error_with_the_number_in_it() {
        let error = allocate(&[Range { start: 0, bytes: u64::MAX }]).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
    }
}
