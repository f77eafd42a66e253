//! The table that tells the kernel of its processors and interrupts.
//!
//! Intel MultiProcessor Specification 1.4, chapter 4: a floating pointer that the kernel searches
//! for, a configuration table behind it, and in the table an entry for each processor, bus, I/O APIC
//! and interrupt line. `docs/adr/0001-boot-tables.md` says why this and not ACPI.

use super::layout::{IO_APIC, LOCAL_APIC, MP_TABLE};

/// Pins of an I/O APIC.
const PINS: u8 = 24;

const VERSION_1_4: u8 = 4;
/// What KVM's local APIC says in its version register.
const LOCAL_APIC_VERSION: u8 = 0x14;
/// What KVM's I/O APIC says in its version register.
const IO_APIC_VERSION: u8 = 0x11;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

const ENABLED: u8 = 1 << 0;
const BOOT_PROCESSOR: u8 = 1 << 1;
const INTERRUPT: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

/// A bus whose interrupts are edges, which is what an `eventfd` can say.
const ISA_BUS: u8 = 0;

/// The floating pointer and the table, to be put at [`MP_TABLE`].
pub(super) fn bytes(vcpus: u8) -> Vec<u8> {
    // Behind the processors' identifiers, as the specification asks.
    let io_apic = vcpus;
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut processor = [0; 20];
        processor[..4].copy_from_slice(&[ENTRY_PROCESSOR, id, LOCAL_APIC_VERSION, flags]);
        entry(&processor);
    }
    entry(&[ENTRY_BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = address(IO_APIC);
    entry(&[ENTRY_IO_APIC, io_apic, IO_APIC_VERSION, ENABLED, a, b, c, d]);
    for pin in 0..PINS {
        entry(&[ENTRY_IO_INTERRUPT, INTERRUPT, 0, 0, ISA_BUS, pin, io_apic, pin]);
    }
    entry(&[ENTRY_LOCAL_INTERRUPT, EXTERNAL, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 0]);
    entry(&[ENTRY_LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);

    let mut pointer = Vec::from(*b"_MP_");
    pointer.extend(address(MP_TABLE + 16));
    pointer.extend([1, VERSION_1_4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);

    let mut table = Vec::from(*b"PCMP");
    let length = u16::try_from(44 + entries.len()).unwrap_or(u16::MAX);
    table.extend(length.to_le_bytes());
    table.extend([VERSION_1_4, 0]);
    table.extend(b"MICROVM microvm     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(address(LOCAL_APIC));
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);

    [pointer, table].concat()
}

fn address(address: u64) -> [u8; 4] {
    // Everything the table points at lies below 4 GiB: the layout's own constants.
    (address as u32).to_le_bytes()
}

/// The byte that makes all of them sum up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::spec::MAX_VCPUS;

    #[test]
    fn two_processors_give_these_very_bytes() {
        let got = bytes(2);
        let mut want = Vec::from(*b"_MP_\x10\xfc\x09\x00\x01\x04\x8b\0\0\0\0\0");
        want.extend(b"PCMP\x34\x01\x04\xd7MICROVM microvm     \0\0\0\0\0\0");
        want.extend(b"\x1e\0\0\0\xe0\xfe\0\0\0\0");
        want.extend(b"\x00\x00\x14\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        want.extend(b"\x00\x01\x14\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        want.extend(b"\x01\x00ISA   ");
        want.extend(b"\x02\x02\x11\x01\x00\x00\xc0\xfe");
        for pin in 0..24 {
            want.extend([3, 0, 0, 0, 0, pin, 2, pin]);
        }
        want.extend(b"\x04\x03\0\0\x00\x00\xff\x00");
        want.extend(b"\x04\x01\0\0\x00\x00\xff\x01");
        assert_eq!(got, want);
    }

    #[test]
    fn the_largest_table_fits_and_sums_up_to_zero() {
        let bytes = bytes(MAX_VCPUS);
        assert!(bytes.len() as u64 <= 0xa_0000 - MP_TABLE, "{} bytes", bytes.len());
        for part in [&bytes[..16], &bytes[16..]] {
            assert_eq!(part.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0);
        }
    }
}
