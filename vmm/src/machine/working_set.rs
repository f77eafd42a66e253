//! The pages that a guest touches each time it goes on from the same snapshot.
//!
//! Each that is read costs an exit. Mapped `MAP_PRIVATE`, one that is written to costs three, one after the other: the
//! guest reads it, it writes to it, and KVM lets go of the page for its copy. Copied and mapped before the guest runs,
//! they cost none.

use std::fs::File;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryBackend;

use crate::kvm::prefault;
use crate::memory::{self, FileId, Memory, Pages, Touched};
use crate::section::{SectionError, State};
use crate::snapshot::{self, FormatError};

/// The most pages of one: five times as many as a guest has been seen to touch. A start waits for all of them.
const MAX_PAGES: u64 = 8192;

/// What stands in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkingSet {
    /// The memory file that the guest goes on from.
    memory: FileId,
    /// What is written to, in its order, without overlap.
    written: Vec<Pages>,
    /// What is only read.
    read: Vec<Pages>,
}

impl State for WorkingSet {
    const KIND: &'static str = "working-set";
    const VERSION: u16 = 2;
}

/// Why it was not written down.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The guest has done more than begin.
    #[error("the guest touched {0} pages, over the limit of {MAX_PAGES}")]
    TooMany(u64),
    /// Its file.
    #[error("file of the working set: {0}")]
    Io(#[from] io::Error),
    /// The guest does not go on from a snapshot.
    #[error("only a guest that goes on from a snapshot has a working set")]
    NoSnapshot,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WorkingSetError {
    /// Its file.
    #[error("file of the working set: {0}")]
    Io(#[from] io::Error),
    /// It is in another form.
    #[error("working set: {0}")]
    Format(#[from] FormatError),
    /// What stands there is none.
    #[error("working set: {0}")]
    Section(#[from] SectionError),
}

impl WorkingSet {
    /// What a guest has touched since it went on from `snapshot`.
    pub(super) fn record(
        touched: Touched,
        snapshot: FileId,
        mut to: File,
    ) -> Result<(), RecordError> {
        let Touched { written, read } = touched;
        let set = Self { memory: snapshot, written, read };
        if set.pages() > MAX_PAGES {
            return Err(RecordError::TooMany(set.pages()));
        }
        Ok(to.write_all(&snapshot::write(&[set.to_section()]))?)
    }

    /// That of the guest whose memory file is `snapshot`.
    pub(super) fn read(file: &File, snapshot: &FileId) -> Result<Self, WorkingSetError> {
        let sections = snapshot::read(&super::state_file(file)?)?;
        let [section] = sections.as_slice() else {
            return Err(SectionError::Missing { wanted: Self::KIND }.into());
        };
        let set = Self::from_section(section)?;
        let impossible = |what: String| SectionError::Impossible { kind: Self::KIND, what };
        if set.memory != *snapshot {
            return Err(impossible("it is another snapshot's".to_owned()).into());
        }
        let pages = set.pages();
        if pages > MAX_PAGES {
            return Err(impossible(format!("{pages} pages, over the limit of {MAX_PAGES}")).into());
        }
        Ok(set)
    }

    /// How many pages they are.
    fn pages(&self) -> u64 {
        self.all().map(|pages| u64::from(pages.count)).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Pages> {
        self.written.iter().chain(&self.read)
    }

    /// Copies the pages that are written to, and has the guest find all. A host that does the one or the other not, or
    /// only for some, leaves it to the guest to ask.
    pub(super) fn fill(
        &self,
        memory: &Memory,
        vcpu: Option<&kvm_ioctls::VcpuFd>,
    ) -> Result<(), WorkingSetError> {
        let slice = |pages: &Pages| {
            let start = pages.address();
            memory.get_slice(start, pages.bytes()).map_err(|_| SectionError::Impossible {
                kind: Self::KIND,
                what: format!("no memory at {:#x}", start.0),
            })
        };
        self.read.iter().try_for_each(|pages| slice(pages).map(drop))?;
        for pages in &self.written {
            memory::copy_now(&slice(pages)?);
        }
        for pages in self.all() {
            if !vcpu.is_some_and(|vcpu| prefault(vcpu, pages)) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PAGE, Range};

    const ID: FileId = *b"sixteen letters!";
    const RAM: Range = Range { start: 0, bytes: 0x20_0000 };

    fn set(written: &[(u32, u32)]) -> WorkingSet {
        let written = written.iter().map(|&(first, count)| Pages { first, count }).collect();
        WorkingSet { memory: ID, written, read: vec![Pages { first: 50, count: 2 }] }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn written_down(set: &WorkingSet) -> File {
        file(&snapshot::write(&[set.to_section()]))
    }

    /// Which of the first pages of `memory` the process has for itself (`/proc/PID/pagemap`: bit 63 says that a page
    /// is there, bit 61 that it is a file's).
    fn own_pages(memory: &Memory) -> Vec<usize> {
        use std::os::unix::fs::FileExt;
        let address = memory.get_host_address(vm_memory::GuestAddress(0)).unwrap() as u64;
        let mut about = [0; 64 * 8];
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        pagemap.read_exact_at(&mut about, address / PAGE as u64 * 8).unwrap();
        let words = about.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let own = words.map(|word| word >> 63 == 1 && word >> 61 & 1 == 0).enumerate();
        own.filter_map(|(page, is_own)| is_own.then_some(page)).collect()
    }

    #[test]
    fn its_pages_and_no_others_are_the_guests_own_before_it_runs() {
        let saved = tempfile::tempfile().unwrap();
        saved.set_len(memory::file_bytes(RAM.bytes)).unwrap();
        memory::write(&memory::allocate(&[RAM]).unwrap(), &saved, &ID).unwrap();
        let memory = memory::map(&[RAM], saved, &ID).unwrap();
        assert!(own_pages(&memory).is_empty());
        let wanted = set(&[(3, 2), (40, 1)]);
        let read = WorkingSet::read(&written_down(&wanted), &ID).unwrap();
        assert_eq!(read, wanted);
        read.fill(&memory, None).unwrap();
        assert_eq!(own_pages(&memory), vec![3usize, 4, 40]);
    }

    #[test]
    fn one_that_is_damaged_or_anothers_or_of_no_memory_is_refused() {
        let refused =
            |file: File, id: &FileId| WorkingSet::read(&file, id).unwrap_err().to_string();
        let mut damaged = snapshot::write(&[set(&[(3, 2)]).to_section()]);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(refused(file(&damaged), &ID), "working set: section 0, working-set is damaged");
        assert_eq!(refused(file(b""), &ID), "working set: not a snapshot");
        let other = "working set: section working-set: it is another snapshot's";
        assert_eq!(refused(written_down(&set(&[])), &[7; 16]), other);
        let many = "working set: section working-set: 8193 pages, over the limit of 8192";
        assert_eq!(refused(written_down(&set(&[(0, 8190), (9000, 1)])), &ID), many);
        let memory = memory::allocate(&[RAM]).unwrap();
        for nowhere in [(0x200, 1), (0x1ff, 2), (u32::MAX, 1)] {
            let error = set(&[nowhere]).fill(&memory, None).unwrap_err().to_string();
            assert!(error.contains("no memory at 0x"), "{error}");
        }
    }
}
