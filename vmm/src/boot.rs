//! Kernel and initramfs into memory.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use crate::arch;
use crate::memory::{Memory, Range};

const PAGE: u64 = 4096;

/// Where an ELF file says which class it is (System V ABI, `EI_CLASS`).
const ELF_CLASS: usize = 4;
const ELF_CLASS_64: u8 = 2;

/// Why a kernel is not ready to be entered.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is something else.
    #[error("kernel file is not a 64-bit ELF file")]
    NotAKernel,
    /// The file says it is a kernel, and has a part that is wrong or does not fit.
    #[error("kernel file: {0}")]
    Kernel(#[from] linux_loader::loader::Error),
    /// The kernel or the initramfs could not be read.
    #[error("{what} file: {source}")]
    Read {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no memory left for it.
    #[error(
        "initramfs of {bytes} bytes does not fit into the {room} bytes of memory above the kernel"
    )]
    InitramfsTooLarge {
        /// Its size.
        bytes: u64,
        /// Bytes there are between the kernel and the end of low memory.
        room: u64,
    },
    /// It was there when measured, and is not now.
    #[error("initramfs file: {0}")]
    Initramfs(vm_memory::GuestMemoryError),
    /// The tables beside it.
    #[error(transparent)]
    Tables(#[from] arch::boot::BootTablesError),
}

/// Loads `kernel` and `initramfs` and writes what the kernel finds beside them. Gives the address to
/// enter the kernel at.
pub fn load(
    memory: &Memory,
    ram: &[Range],
    vcpus: u8,
    kernel: &mut File,
    initramfs: &mut File,
    command_line: &str,
) -> Result<u64, BootError> {
    let (entry, kernel_end) = load_kernel(memory, kernel)?;
    let initramfs = load_initramfs(memory, ram, kernel_end, initramfs)?;
    arch::boot::write_tables(memory, ram, vcpus, initramfs, command_line)?;
    Ok(entry)
}

fn load_kernel(memory: &Memory, kernel: &mut File) -> Result<(u64, u64), BootError> {
    let mut start = [0; ELF_CLASS + 1];
    let read = kernel
        .read_at(&mut start, 0)
        .map_err(|source| BootError::Read { what: "kernel", source })?;
    if read < start.len() || !start.starts_with(b"\x7fELF") || start[ELF_CLASS] != ELF_CLASS_64 {
        return Err(BootError::NotAKernel);
    }
    let lowest = GuestAddress(arch::boot::LOWEST_KERNEL_ADDRESS);
    let loaded = Elf::load(memory, None, kernel, Some(lowest))?;
    Ok((loaded.kernel_load.0, loaded.kernel_end))
}

/// As high in low memory as it fits, out of the way of a kernel that unpacks itself.
fn load_initramfs(
    memory: &Memory,
    ram: &[Range],
    kernel_end: u64,
    initramfs: &mut File,
) -> Result<Range, BootError> {
    let unread = |source| BootError::Read { what: "initramfs", source };
    let bytes = initramfs.metadata().map_err(unread)?.len();
    // Whoever wrote it may have left it at its end.
    initramfs.rewind().map_err(unread)?;
    let low_end = ram.first().map_or(0, |low| low.bytes);
    let room = low_end.saturating_sub(kernel_end);
    let start = match low_end.checked_sub(bytes.next_multiple_of(PAGE)) {
        Some(start) if start >= kernel_end => start,
        _ => return Err(BootError::InitramfsTooLarge { bytes, room }),
    };
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(GuestAddress(start), initramfs, size)
        .map_err(BootError::Initramfs)?;
    Ok(Range { start, bytes })
}
