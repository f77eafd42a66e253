//! Which pages of a guest's memory were touched, where a file gives them.
//!
//! The process's own page tables say it (Linux, admin-guide/mm/pagemap): a page that was written to is a copy, one that
//! was only read is the file's. But to the pages around one that is read the host helps itself, and one cannot tell
//! those from the others. It does not beyond the end of a mapping: so each page of the file is made one of its own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::{Memory, PAGE, Pages};

/// A process may have some 65,000 mappings (`vm.max_map_count`). Beyond this, what was read is not told.
const MOST_PAGES: usize = 50_000;

/// Of a page's eight bytes: it is there, it is elsewhere, and it is the file's.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Looks at a memory from when it was mapped.
#[derive(Debug)]
pub struct Watch {
    pagemap: File,
    /// Which pages of each region would be told of if they were read.
    told: Vec<Vec<Range<usize>>>,
}

/// What was touched, each in its order and without overlap.
#[derive(Debug, PartialEq, Eq)]
pub struct Touched {
    /// Pages that were written to.
    pub written: Vec<Pages>,
    /// Pages of the file that were only read.
    pub read: Vec<Pages>,
}

impl Watch {
    /// Looks at `memory`, of which nobody has touched anything yet.
    pub fn start(memory: &Memory) -> io::Result<Self> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut told: Vec<_> = memory.iter().map(data_of).collect();
        let pages: usize = told.iter().flatten().map(Range::len).sum();
        let mut all = memory
            .iter()
            .zip(&told)
            .flat_map(|(region, data)| data.iter().map(move |data| (region, data)));
        if pages > MOST_PAGES || !all.all(|(region, data)| make_single(region, data)) {
            told.iter_mut().for_each(Vec::clear);
        }
        Ok(Self { pagemap, told })
    }

    /// What was touched until now.
    pub fn touched(&self, memory: &Memory) -> io::Result<Touched> {
        let mut touched = Touched { written: vec![], read: vec![] };
        for (region, told) in memory.iter().zip(&self.told) {
            let base = region.start_addr().0 / PAGE as u64;
            let mut words = vec![0; pages_of(region) * size_of::<u64>()];
            let place = region.as_ptr().addr() / PAGE * size_of::<u64>();
            self.pagemap.read_exact_at(&mut words, place as u64)?;
            for (page, word) in words.as_chunks().0.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                let number = u32::try_from(base + page as u64).unwrap_or(u32::MAX);
                if word & (PRESENT | SWAPPED) == 0 {
                    continue;
                }
                if word & OF_FILE == 0 {
                    add(&mut touched.written, number);
                } else if told.iter().any(|data| data.contains(&page)) {
                    add(&mut touched.read, number);
                }
            }
        }
        Ok(touched)
    }
}

fn pages_of(region: &GuestRegionMmap) -> usize {
    usize::try_from(region.len()).unwrap_or(usize::MAX) / PAGE
}

fn add(to: &mut Vec<Pages>, page: u32) {
    match to.last_mut() {
        Some(last) if last.first + last.count == page => last.count += 1,
        _ => to.push(Pages { first: page, count: 1 }),
    }
}

/// The pages of `region` that its file has; the others are holes.
fn data_of(region: &GuestRegionMmap) -> Vec<Range<usize>> {
    let Some(file) = region.file_offset() else { return vec![] };
    let (from, to) = (file.start(), file.start().saturating_add(region.len()));
    let seek = |at: u64, what| {
        let at = libc::off_t::try_from(at).ok()?;
        // SAFETY: no memory is passed. Nobody reads this file by where it stands.
        u64::try_from(unsafe { libc::lseek(file.file().as_raw_fd(), at, what) }).ok()
    };
    let page = |at: u64| usize::try_from(at - from).unwrap_or(usize::MAX) / PAGE;
    let (mut data, mut at) = (vec![], from);
    while let Some(begin) = seek(at, libc::SEEK_DATA).filter(|begin| *begin < to) {
        let end = seek(begin, libc::SEEK_HOLE).unwrap_or(to).min(to);
        data.push(page(begin)..page(end.next_multiple_of(PAGE as u64)));
        at = end;
    }
    data
}

/// Makes each of `pages` a mapping of its own: two that lie side by side are one unless advice sets them apart.
fn make_single(region: &GuestRegionMmap, pages: &Range<usize>) -> bool {
    pages.clone().step_by(2).all(|page| {
        let Ok(address) = region.get_host_address(MemoryRegionAddress((page * PAGE) as u64)) else {
            return false;
        };
        // SAFETY: the page is the region's, which is mapped; the advice changes nothing in it.
        unsafe { libc::madvise(address.cast(), PAGE, libc::MADV_RANDOM) == 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Range, allocate, file_bytes, map, write};
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn what_was_read_and_what_was_written_to_is_told_apart_and_from_all_around_it() {
        const RAM: Range = Range { start: 0, bytes: 0x10_0000 };
        let at = |page: u64| GuestAddress(page * PAGE as u64);
        let saved = tempfile::tempfile().unwrap();
        saved.set_len(file_bytes(RAM.bytes)).unwrap();
        let full = allocate(&[RAM]).unwrap();
        (16..128).for_each(|page| full.write_obj(page, at(page)).unwrap());
        write(&full, &saved, &[7; 16]).unwrap();
        let memory = map(&[RAM], saved, &[7; 16]).unwrap();
        let watch = Watch::start(&memory).unwrap();
        let nothing = Touched { written: vec![], read: vec![] };
        assert_eq!(watch.touched(&memory).unwrap(), nothing);
        for page in [20, 21, 64] {
            assert_eq!(memory.read_obj::<u64>(at(page)).unwrap(), page);
        }
        for page in [21, 100, 200] {
            memory.write_obj(1, at(page)).unwrap();
        }
        let pages = |first, count| Pages { first, count };
        let touched = watch.touched(&memory).unwrap();
        assert_eq!(touched.read, [pages(20, 1), pages(64, 1)]);
        assert_eq!(touched.written, [pages(21, 1), pages(100, 1), pages(200, 1)]);
    }
}
