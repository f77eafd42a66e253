//! Where things are.
//!
//! ```text
//!   0x0_0500  GDT                      the first megabyte is what a PC's firmware
//!   0x0_7000  boot_params              would have left behind
//!   0x0_9000  page tables, 3 pages
//!   0x2_0000  kernel command line
//!   0x9_fc00  MP table, to 0xa_0000
//!   0x10_0000 kernel
//!   ...
//!   below the end of low memory: initramfs
//!   3 GiB     hole: devices, I/O APIC, local APICs, KVM's private pages
//!   4 GiB     the rest of memory
//! ```

use std::ops::RangeInclusive;

use crate::memory::Range;

/// Global descriptor table: four entries of eight bytes.
pub(super) const GDT: u64 = 0x500;
/// The kernel's `struct boot_params` ("zero page").
pub(super) const BOOT_PARAMS: u64 = 0x7000;
/// Top of a small stack, which the kernel leaves at once.
pub(super) const BOOT_STACK: u64 = 0x8ff0;
/// Page map level 4; the two tables under it follow, a page each.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Linux's `COMMAND_LINE_SIZE`, the terminating zero included.
pub(super) const COMMAND_LINE_BYTES: usize = 2048;
/// The last KiB of base memory, the second place where Linux looks for an MP table.
pub(super) const MP_TABLE: u64 = 0x9_fc00;
/// Where kernels are linked to run from, and what a PC calls extended memory.
pub(super) const KERNEL: u64 = 0x10_0000;

/// Devices, a page each from here on.
pub const DEVICES: u64 = HOLE.start;
/// Bytes each device has.
pub const DEVICE_BYTES: u64 = 0x1000;
/// Interrupts devices can have: the I/O APIC's pins that no ghost of a PC claims.
pub const DEVICE_INTERRUPTS: RangeInclusive<u32> = 5..=23;

/// First port of the serial line.
pub const SERIAL_PORT: u64 = 0x3f8;
/// Ports of the serial line.
pub const SERIAL_PORTS: u64 = 8;
/// First port of the keyboard controller, whose reset line is the way to end the machine.
pub const KEYBOARD_PORT: u64 = 0x60;
/// Ports of the keyboard controller: data, and command four further.
pub const KEYBOARD_PORTS: u64 = 5;

/// I/O APIC (Intel 82093AA).
pub(super) const IO_APIC: u64 = 0xfec0_0000;
/// Local APICs (Intel SDM volume 3, 11.4.1).
pub(super) const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages that KVM keeps for itself.
pub const KVM_PRIVATE_PAGES: u64 = 0xfffb_d000;

/// The last GiB that 32 bits can name.
const HOLE: Range = Range { start: 3 << 30, bytes: 1 << 30 };

/// The parts that `ram_bytes` of memory fall into around the hole.
pub fn memory(ram_bytes: u64) -> Vec<Range> {
    let low = Range { start: 0, bytes: ram_bytes.min(HOLE.start) };
    let high = Range { start: HOLE.start + HOLE.bytes, bytes: ram_bytes - low.bytes };
    [low, high].into_iter().filter(|range| range.bytes > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole_and_none_is_lost() {
        let gib = 1 << 30;
        assert_eq!(memory(gib), [Range { start: 0, bytes: gib }]);
        assert_eq!(memory(3 * gib), [Range { start: 0, bytes: 3 * gib }]);
        assert_eq!(
            memory(8 * gib),
            [Range { start: 0, bytes: 3 * gib }, Range { start: 4 * gib, bytes: 5 * gib }]
        );
    }
}
