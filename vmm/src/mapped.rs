//! A file whose reads into guest memory are mappings.
//!
//! A kernel is 13 MB, of which a boot touches a part and changes less. Copying it costs more than
//! anything else before the first instruction. So its whole pages are mapped over guest memory,
//! private to this VM: what is only read is the page cache's, shared by all VMs of the host; what the
//! guest writes becomes its own. The file must not be cut while the VM runs, as with any program's.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

const PAGE: u64 = 4096;

/// Wraps a file, for a loader that reads from where it has sought.
#[derive(Debug)]
pub struct Mapped<'a> {
    file: &'a mut File,
    bytes: u64,
}

impl<'a> Mapped<'a> {
    /// The file as long as it is now.
    pub fn new(file: &'a mut File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Maps the whole pages of the file from `offset` on that fit into `into`, and gives their bytes:
    /// none if the two do not begin on a page each.
    fn map<B: BitmapSlice>(&self, offset: u64, into: &VolatileSlice<'_, B>) -> io::Result<u64> {
        let room = self.bytes.saturating_sub(offset).min(into.len() as u64);
        let whole = room - room % PAGE;
        let place = into.ptr_guard_mut().as_ptr();
        if whole == 0 || !offset.is_multiple_of(PAGE) || !(place as u64).is_multiple_of(PAGE) {
            return Ok(0);
        }
        // SAFETY: the pages replaced lie in `into`, which is guest memory: mapped by us, addressed by
        // nobody but through volatile slices, and unmapped as a whole in the end. The file has as many
        // bytes from `offset` on.
        let mapped = unsafe {
            libc::mmap(
                place.cast(),
                whole as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(whole) }
    }
}

impl Read for Mapped<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl Seek for Mapped<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl ReadVolatile for Mapped<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        into: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let offset = self.file.stream_position().map_err(VolatileMemoryError::IOError)?;
        let mapped = self.map(offset, into).map_err(VolatileMemoryError::IOError)?;
        self.file.seek(SeekFrom::Start(offset + mapped)).map_err(VolatileMemoryError::IOError)?;
        // `map` gave no more than there is room for.
        let mut rest = into.offset(mapped as usize)?;
        Ok(mapped as usize + self.file.read_volatile(&mut rest)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Range, allocate};
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn guest_memory_has_the_files_bytes_and_the_file_none_of_the_guests() {
        let bytes: Vec<u8> = (0..3 * 4096 + 5).map(|index| (index / 5) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for (address, offset) in [(0x4000, 0), (0x4000, 4096), (0x4100, 0), (0x4000, 7)] {
            let memory = allocate(&[Range { start: 0, bytes: 0x1_0000 }]).unwrap();
            memory.write_slice(&[0xee; 0x1_0000], GuestAddress(0)).unwrap();
            let mut mapped = Mapped::new(&mut file).unwrap();
            mapped.seek(SeekFrom::Start(offset)).unwrap();
            let wanted = bytes.len() - offset as usize;
            memory.read_exact_volatile_from(GuestAddress(address), &mut mapped, wanted).unwrap();
            let mut got = vec![0; wanted + 2];
            memory.read_slice(&mut got, GuestAddress(address - 1)).unwrap();
            assert_eq!((got[0], got[wanted + 1]), (0xee, 0xee), "{address:#x}, {offset}");
            assert!(got[1..=wanted] == bytes[offset as usize..], "{address:#x}, {offset}");
            memory.write_slice(&[0xdd; 0x4000], GuestAddress(address)).unwrap();
        }
        file.rewind().unwrap();
        let mut unchanged = Vec::new();
        file.read_to_end(&mut unchanged).unwrap();
        assert!(unchanged == bytes);
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        let memory = allocate(&[Range { start: 0, bytes: 0x1_0000 }]).unwrap();
        let mut mapped = Mapped::new(&mut file).unwrap();
        mapped.rewind().unwrap();
        let read = memory.read_exact_volatile_from(GuestAddress(0), &mut mapped, 9000);
        assert!(read.is_err());
    }
}
