//! What a kernel finds in memory when it is entered.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{
    BOOT_PARAMS, COMMAND_LINE, COMMAND_LINE_BYTES, DEVICE_BYTES, GDT, KERNEL, MP_TABLE, PAGE_TABLES,
};
use super::{boot_params, mp_table};
use crate::memory::{Memory, Range};

/// Entries of the GDT, in order: none, none, 64-bit code, data (Intel SDM volume 3, 3.4.5).
pub(super) const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// The lowest address a kernel can be loaded to.
pub const LOWEST_KERNEL_ADDRESS: u64 = KERNEL;

/// Why the tables for the kernel could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BootTablesError {
    /// The whole command line is longer than a kernel reads.
    #[error("kernel command line of {bytes} bytes, over the limit of {}", COMMAND_LINE_BYTES - 1)]
    CommandLineTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Memory ends before the tables do.
    #[error("boot tables: {0}")]
    Write(#[from] GuestMemoryError),
}

/// The machine's own part of the kernel command line.
///
/// * `reboot=k panic=-1`: the end, wanted or not, is a reset by the keyboard controller, at once.
/// * `earlyprintk=…,keep`: without a serial driver in the kernel this is the only way for a panic to
///   be heard; `quiet` keeps everything else off it, since each character costs two exits.
/// * `tsc=reliable`: KVM vouches for the clock. No watchdog over it, and no test, while a processor is
///   brought up, of whether its clock and the first one's agree.
pub const COMMAND_LINE_OF_MACHINE: &str =
    "reboot=k panic=-1 earlyprintk=serial,0x3f8,115200,keep quiet tsc=reliable";

/// The command line's words for a device at `base` with interrupt `gsi`.
pub fn command_line_of_device(base: u64, gsi: u32) -> String {
    format!("virtio_mmio.device={}K@{base:#x}:{gsi}", DEVICE_BYTES >> 10)
}

/// Writes everything a kernel finds besides itself and its initramfs.
pub fn write_tables(
    memory: &Memory,
    ram: &[Range],
    vcpus: u8,
    initramfs: Range,
    command_line: &str,
) -> Result<(), BootTablesError> {
    let bytes = command_line.len();
    if bytes >= COMMAND_LINE_BYTES {
        return Err(BootTablesError::CommandLineTooLong { bytes });
    }
    memory.write_slice(command_line.as_bytes(), GuestAddress(COMMAND_LINE))?;
    memory.write_slice(&[0], GuestAddress(COMMAND_LINE + bytes as u64))?;
    let params = boot_params::bytes(ram, initramfs, bytes as u32);
    memory.write_slice(&params, GuestAddress(BOOT_PARAMS))?;
    memory.write_slice(&mp_table::bytes(vcpus), GuestAddress(MP_TABLE))?;
    Ok(write_processor_tables(memory)?)
}

/// Writes what the processor itself looks at before a kernel has tables of its own.
pub fn write_processor_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    memory.write_slice(&words(SEGMENTS), GuestAddress(GDT))?;
    write_page_tables(memory)
}

/// The first GiB, mapped to itself in large pages: the kernel brings its own tables soon.
fn write_page_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    let [level4, level3, level2] = [0, 1, 2].map(|page| PAGE_TABLES + page * 0x1000);
    memory.write_slice(&words([level3 | PRESENT_WRITABLE]), GuestAddress(level4))?;
    memory.write_slice(&words([level2 | PRESENT_WRITABLE]), GuestAddress(level3))?;
    let pages = std::array::from_fn::<u64, 512, _>(|index| {
        (index as u64 * LARGE_PAGE_BYTES) | PRESENT_WRITABLE | LARGE_PAGE
    });
    memory.write_slice(&words(pages), GuestAddress(level2))
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
