use std::io;

use super::core::{Core, Image, Storage};
use super::*;
use crate::virtio::buffers::Buffers;
use crate::virtio::mock::{DATA, Driver, with_chain};
use crate::virtio::worker::Core as _;

/// A disk of two sectors.
struct Memory {
    bytes: Vec<u8>,
    read_only: bool,
    flushed: bool,
}

impl Storage for Memory {
    fn sectors(&self) -> u64 {
        self.bytes.len() as u64 / SECTOR
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, offset: u64, mut into: Buffers<'_>) -> io::Result<()> {
        into.copy_from(&self.bytes[offset as usize..]);
        Ok(())
    }
    fn write(&mut self, offset: u64, mut from: Buffers<'_>) -> io::Result<()> {
        from.copy_to(&mut self.bytes[offset as usize..]);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flushed = true;
        Ok(())
    }
}

fn disk(read_only: bool) -> Core<Memory> {
    let bytes = [[b'a'; 512], [b'b'; 512]].concat();
    Core { storage: Memory { bytes, read_only, flushed: false }, name: name(3) }
}

const HEADER: u64 = DATA;
const BODY: u64 = DATA + 0x1000;
const STATUS: u64 = DATA + 0x8000;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Asks `disk`, with `body` bytes of data in the given direction, and gives what it says it wrote and
/// the status.
fn ask<S: Storage>(
    disk: &mut Core<S>,
    guest: &mut Driver,
    kind: u32,
    sector: u64,
    body: Option<(u32, bool)>,
) -> (usize, u8) {
    let mut header = Vec::from(kind.to_le_bytes());
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    guest.write(HEADER, &header);
    guest.write(STATUS, &[0xee]);
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend(body.map(|(bytes, writable)| (BODY, bytes, writable)));
    parts.push((STATUS, 1, true));
    let written = with_chain(guest, &parts, |from, into| disk.answer(from, into));
    (written, guest.read(STATUS, 1)[0])
}

#[test]
fn what_was_written_is_read_and_a_flush_reaches_the_storage() {
    let (mut disk, mut guest) = (disk(false), Driver::new());
    guest.write(BODY, &[b'x'; 512]);
    assert_eq!(ask(&mut disk, &mut guest, 1, 1, Some((512, false))), (1, OK));
    guest.write(BODY, &[0; 1024]);
    assert_eq!(ask(&mut disk, &mut guest, 0, 0, Some((1024, true))), (1025, OK));
    assert_eq!(guest.read(BODY, 1024), [[b'a'; 512], [b'x'; 512]].concat());
    assert!(!disk.storage.flushed);
    assert_eq!(ask(&mut disk, &mut guest, 4, 0, None), (1, OK));
    assert!(disk.storage.flushed);
    assert_eq!(ask(&mut disk, &mut guest, 8, 0, Some((20, true))), (21, OK));
    assert_eq!(guest.read(BODY, 6), b"slot3\0");
}

#[test]
fn requests_that_do_not_fit_the_disk_change_nothing() {
    for (name, read_only, kind, sector, body, want) in [
        ("behind the end", false, 0, 2, Some((512, true)), IO_ERROR),
        ("over the end", false, 0, 1, Some((1024, true)), IO_ERROR),
        ("sectors beyond 64 bits", false, 0, u64::MAX, Some((512, true)), IO_ERROR),
        ("bytes beyond 64 bits", false, 0, 1 << 55, Some((512, true)), IO_ERROR),
        ("half a sector", false, 0, 0, Some((256, true)), IO_ERROR),
        ("a write behind the end", false, 1, 2, Some((512, false)), IO_ERROR),
        ("a write of half a sector", false, 1, 0, Some((100, false)), IO_ERROR),
        ("a write to a read-only disk", true, 1, 0, Some((512, false)), IO_ERROR),
        ("discard", false, 11, 0, Some((16, false)), UNSUPPORTED),
        ("no such kind", false, 0xffff_ffff, 0, None, UNSUPPORTED),
    ] {
        let (mut disk, mut guest) = (disk(read_only), Driver::new());
        guest.write(BODY, &[b'x'; 1024]);
        assert_eq!(ask(&mut disk, &mut guest, kind, sector, body), (1, want), "{name}");
        assert_eq!(disk.storage.bytes, [[b'a'; 512], [b'b'; 512]].concat(), "{name}");
        assert_eq!(guest.read(BODY, 1024), [b'x'; 1024], "{name}");
    }
}

#[test]
fn a_request_without_room_for_its_parts_is_answered_as_far_as_it_can_be() {
    let mut guest = Driver::new();
    let no_status = [(HEADER, 16, false)];
    assert_eq!(with_chain(&mut guest, &no_status, |from, into| disk(false).answer(from, into)), 0);
    let short_header = [(HEADER, 15, false), (STATUS, 1, true)];
    assert_eq!(
        with_chain(&mut guest, &short_header, |from, into| disk(false).answer(from, into)),
        1
    );
    assert_eq!(guest.read(STATUS, 1), [IO_ERROR]);
}

#[test]
fn an_empty_slot_has_no_sectors_and_refuses_everything_but_its_name() {
    let (mut slot, mut guest) = (Core { storage: Image::empty(), name: name(0) }, Driver::new());
    assert_eq!(slot.storage.sectors(), 0);
    assert_eq!(ask(&mut slot, &mut guest, 0, 0, Some((512, true))), (1, IO_ERROR));
    assert_eq!(ask(&mut slot, &mut guest, 0, 0, Some((0, true))), (1, IO_ERROR));
    assert_eq!(ask(&mut slot, &mut guest, 4, 0, None), (1, IO_ERROR));
    assert_eq!(ask(&mut slot, &mut guest, 8, 0, Some((20, true))), (21, OK));
}

#[test]
fn an_image_file_serves_what_is_in_it_and_an_error_where_it_was_cut() {
    let file = temporary(&[7; 1024]);
    let storage = Image::new(file.try_clone().unwrap(), 2, false);
    let (mut disk, mut guest) = (Core { storage, name: name(0) }, Driver::new());
    guest.write(BODY, &[9; 512]);
    assert_eq!(ask(&mut disk, &mut guest, 1, 1, Some((512, false))), (1, OK));
    assert_eq!(ask(&mut disk, &mut guest, 0, 0, Some((1024, true))), (1025, OK));
    assert_eq!(guest.read(BODY, 1024), [[7; 512], [9; 512]].concat());
    file.set_len(600).unwrap();
    assert_eq!(ask(&mut disk, &mut guest, 0, 0, Some((1024, true))), (1, IO_ERROR));
}

#[test]
fn an_image_that_ends_within_a_sector_is_refused_with_its_size() {
    let disk = Disk { image: temporary(&[0; 513]), read_only: true };
    let kicks = crate::virtio::mmio::kicks(1).unwrap();
    let mut event_loop = EventLoop::new().unwrap();
    let error = Block::new(BlockState::default(), 2, Some(disk), kicks, &mut event_loop);
    let message = error.err().unwrap().to_string();
    assert_eq!(message, "image of disk 2 is 513 bytes, not a multiple of 512");
}

#[test]
fn the_driver_hears_of_a_disk_that_was_put_into_its_empty_slot() {
    let mut event_loop = EventLoop::new().unwrap();
    let kicks = || crate::virtio::mmio::kicks(1).unwrap();
    let live = |irq: &crate::irq::Interrupt| Live {
        memory: crate::virtio::mock::memory(),
        irq: irq.clone(),
        acked_features: 0,
        queues: vec![],
    };
    let irq = crate::irq::Interrupt::new().unwrap();
    let mut empty = Block::new(BlockState::default(), 0, None, kicks(), &mut event_loop).unwrap();
    empty.activate(live(&irq));
    assert_eq!(irq.reasons(), 0, "the first driver reads it by itself");
    let saved = BlockState::from_section(&empty.save()).unwrap();
    assert_eq!(saved, BlockState { known_sectors: Some(0) });

    let disk = Disk { image: temporary(&[0; 1024]), read_only: true };
    let mut full = Block::new(saved, 0, Some(disk), kicks(), &mut event_loop).unwrap();
    full.activate(live(&irq));
    assert_eq!(irq.reasons(), 2, "the configuration changed");
    assert_eq!(full.config()[..8], 2u64.to_le_bytes());
}

fn temporary(bytes: &[u8]) -> File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
