//! `struct boot_params`, as far as a kernel entered at its 64-bit entry point reads it.
//!
//! Linux, `Documentation/arch/x86/zero-page.rst` and `boot.rst`.

use super::layout::{COMMAND_LINE, KERNEL, MP_TABLE};
use crate::memory::Range;

/// Size of the structure.
const BYTES: usize = 4096;

const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_BYTES: usize = 20;

const E820_RAM: u32 = 1;
const LOADER_WITHOUT_A_NUMBER: u8 = 0xff;

/// The structure for a machine with memory at `ram`, its initramfs at `initramfs` and a command line
/// of `command_line_bytes` at the usual place.
pub(super) fn bytes(ram: &[Range], initramfs: Range, command_line_bytes: u32) -> [u8; BYTES] {
    let mut params = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
    put(BOOT_FLAG, &0xaa55u16.to_le_bytes());
    put(HEADER, b"HdrS");
    put(TYPE_OF_LOADER, &[LOADER_WITHOUT_A_NUMBER]);
    // Both lie below 3 GiB: the loader placed them there.
    put(RAMDISK_IMAGE, &(initramfs.start as u32).to_le_bytes());
    put(RAMDISK_SIZE, &(initramfs.bytes as u32).to_le_bytes());
    put(CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
    put(CMDLINE_SIZE, &command_line_bytes.to_le_bytes());

    let map = usable(ram);
    put(E820_ENTRIES, &[map.len() as u8]);
    for (index, range) in map.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &range.bytes.to_le_bytes());
        put(at + 16, &E820_RAM.to_le_bytes());
    }
    params
}

/// Memory the kernel may use: everything but the place of the MP table and of a PC's ROMs.
fn usable(ram: &[Range]) -> Vec<Range> {
    ram.iter()
        .flat_map(|&range| match range.start {
            0 => vec![
                Range { start: 0, bytes: MP_TABLE },
                Range { start: KERNEL, bytes: range.bytes - KERNEL },
            ],
            _ => vec![range],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::layout;
    use super::*;

    #[test]
    fn the_kernel_is_told_of_all_memory_but_the_holes() {
        let ram = layout::memory(4 << 30);
        let params = bytes(&ram, Range { start: 0xb000_0000, bytes: 0x1234 }, 17);
        assert_eq!(params[E820_ENTRIES], 3);
        let mut want = Vec::new();
        for (start, bytes) in
            [(0u64, 0x9_fc00u64), (1 << 20, (3 << 30) - (1 << 20)), (4 << 30, 1 << 30)]
        {
            want.extend(start.to_le_bytes());
            want.extend(bytes.to_le_bytes());
            want.extend(1u32.to_le_bytes());
        }
        assert_eq!(params[0x2d0..0x2d0 + 60], want);
        assert_eq!(params[0x218..0x220], [0, 0, 0, 0xb0, 0x34, 0x12, 0, 0]);
        assert_eq!(params[0x202..0x206], *b"HdrS");
    }
}
