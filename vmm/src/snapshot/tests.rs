//! What is written is read back, and nothing else is.

use proptest::prelude::*;

use super::*;

fn any_section() -> impl Strategy<Value = Section> {
    ("[a-z0-9-]{1,64}", any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(kind, version, bytes)| Section { kind, version, bytes })
}

fn sections() -> Vec<Section> {
    ["vcpu", "virtio-rng"]
        .map(|kind| Section { kind: kind.into(), version: 3, bytes: vec![1, 2, 3, 4] })
        .into()
}

/// A file whose header says something else and has the checksum for it.
fn with_header(word: usize, value: u32) -> Vec<u8> {
    let mut file = write(&sections());
    let at = MAGIC.len() + 4 * word;
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let crc = crc32fast::hash(&file[..HEADER_BYTES]);
    file[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
    file
}

proptest! {
    #[test]
    fn every_list_of_sections_comes_back_as_it_was(
        sections in proptest::collection::vec(any_section(), 0..20)
    ) {
        prop_assert_eq!(read(&write(&sections)), Ok(sections));
    }

    #[test]
    fn bytes_from_nowhere_are_refused_and_nothing_worse(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000), keep in 0..60usize
    ) {
        // Half a real file with rubbish behind it gets further than rubbish alone.
        let mut file = write(&sections());
        file.truncate(keep);
        file.extend(bytes);
        if let Ok(read) = read(&file) {
            prop_assert_eq!(write(&read), file);
        }
    }
}

#[test]
fn a_single_changed_bit_anywhere_is_noticed() {
    let file = write(&sections());
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            assert!(read(&changed).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_file_that_ends_early_anywhere_is_noticed() {
    let file = write(&sections());
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_by_name() {
    let good = write(&sections());
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let cases = [
        (b"\x7fELF and so on, for long enough".to_vec(), "not a snapshot"),
        (vec![], "not a snapshot"),
        (with_header(0, 7), "snapshot of format 7, not 1"),
        (with_header(1, 183 + 62 - ARCHITECTURE), "snapshot of a machine of ELF architecture "),
        (with_header(2, 4000), "snapshot of 4000 sections, over the limit of 128"),
        (with_header(2, 1), "26 bytes behind the snapshot's last section"),
        (with_header(2, 3), "the snapshot ends in section 2"),
        (good[..good.len() - 1].to_vec(), "the snapshot ends in section 1, virtio-rng"),
        (damaged, "section 1, virtio-rng is damaged"),
        (vec![0; MAX_BYTES + 1], "snapshot of 4194305 bytes, over the limit of 4194304"),
    ];
    for (file, want) in cases {
        let message = read(&file).unwrap_err().to_string();
        assert!(message.starts_with(want), "{message}, not {want}");
    }
}
