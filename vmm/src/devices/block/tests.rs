use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::core::{Core, Range, Storage};
use super::*;
use crate::irq::Interrupt;
use crate::spec::Rate;
use crate::virtio::buffers::Buffers;
use crate::virtio::mock::{DATA, Driver, memory, with_chain};

/// A disk of two sectors.
struct Memory {
    bytes: Vec<u8>,
    read_only: bool,
    flushed: bool,
    discarded: Vec<Range>,
    zeroed: Vec<(Range, bool)>,
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
    fn discard(&mut self, range: Range) -> io::Result<()> {
        self.discarded.push(range);
        Ok(())
    }
    fn zero(&mut self, range: Range, unmap: bool) -> io::Result<()> {
        self.zeroed.push((range, unmap));
        Ok(())
    }
}

fn disk(read_only: bool) -> Core<Memory> {
    let bytes = [[b'a'; 512], [b'b'; 512]].concat();
    let (discarded, zeroed) = (vec![], vec![]);
    Core { storage: Memory { bytes, read_only, flushed: false, discarded, zeroed }, name: name(3) }
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
        ("a discard by a read-only disk", true, 11, 0, Some((16, false)), IO_ERROR),
        ("zeros for a read-only disk", true, 13, 0, Some((16, false)), IO_ERROR),
        ("a discard of nothing", false, 11, 0, None, IO_ERROR),
        ("a discard of a range and a half", false, 11, 0, Some((24, false)), IO_ERROR),
        ("zeros for too many ranges", false, 13, 0, Some((33 * 16, false)), IO_ERROR),
        ("a discard by half a gigabyte of ranges", false, 11, 0, Some((0x7000, false)), IO_ERROR),
        ("no such kind", false, 0xffff_ffff, 0, None, UNSUPPORTED),
    ] {
        let (mut disk, mut guest) = (disk(read_only), Driver::new());
        guest.write(BODY, &[b'x'; 1024]);
        assert_eq!(ask(&mut disk, &mut guest, kind, sector, body), (1, want), "{name}");
        assert_eq!(disk.storage.bytes, [[b'a'; 512], [b'b'; 512]].concat(), "{name}");
        assert_eq!(guest.read(BODY, 1024), [b'x'; 1024], "{name}");
    }
}

/// A range as a guest writes it: sector, sectors, flags.
fn range((sector, sectors, flags): (u64, u32, u32)) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn ranges_are_discarded_and_zeroed_all_or_none_of_them() {
    type Ranges = &'static [(u64, u32, u32)];
    const DISCARD: u32 = 11;
    const ZEROES: u32 = 13;
    let cases: [(&str, u32, Ranges, u8); 11] = [
        ("two", DISCARD, &[(0, 1, 0), (1, 1, 0)], OK),
        ("an empty one", DISCARD, &[(2, 0, 0)], OK),
        ("zeros", ZEROES, &[(0, 2, 0)], OK),
        ("zeros that may be holes", ZEROES, &[(0, 1, 1), (1, 1, 0)], OK),
        ("the second over the end", DISCARD, &[(0, 1, 0), (1, 2, 0)], IO_ERROR),
        ("the second behind the end", ZEROES, &[(0, 1, 0), (3, 0, 0)], IO_ERROR),
        ("sectors beyond 64 bits", DISCARD, &[(u64::MAX, 1, 0)], IO_ERROR),
        ("more than is done at once", DISCARD, &[(0, u32::MAX, 0)], IO_ERROR),
        ("a discard that is to unmap", DISCARD, &[(0, 1, 0), (0, 1, 1)], UNSUPPORTED),
        ("a flag nobody knows", ZEROES, &[(0, 1, 0), (0, 1, 2)], UNSUPPORTED),
        ("all flags", ZEROES, &[(0, 1, u32::MAX)], UNSUPPORTED),
    ];
    for (name, kind, ranges, want) in cases {
        let (mut disk, mut guest) = (disk(false), Driver::new());
        let bytes: Vec<u8> = ranges.iter().copied().flat_map(range).collect();
        guest.write(BODY, &bytes);
        let body = Some((bytes.len() as u32, false));
        assert_eq!(ask(&mut disk, &mut guest, kind, 0, body), (1, want), "{name}");
        let done: Vec<_> = (ranges.iter().filter(|_| want == OK))
            .map(|&(sector, sectors, flags)| {
                let (offset, bytes) = (sector * 512, u64::from(sectors) * 512);
                (Range { offset, bytes }, flags == 1)
            })
            .collect();
        let storage = disk.storage;
        let discarded = storage.discarded.into_iter().map(|range| (range, false));
        assert_eq!(discarded.chain(storage.zeroed).collect::<Vec<_>>(), done, "{name}");
    }
}

#[test]
fn what_is_discarded_from_a_file_is_room_again_and_zeros_are_zeros() {
    const SECTORS: u64 = 4096;
    let file = temporary(&vec![7; (SECTORS * SECTOR) as usize]);
    let image = Image::new(file.try_clone().unwrap(), SECTORS, false);
    let (mut disk, mut guest) = (Core { storage: image, name: name(0) }, Driver::new());
    let mut told = |kind, (sector, sectors, flags)| {
        guest.write(BODY, &range((sector, sectors, flags)));
        assert_eq!(ask(&mut disk, &mut guest, kind, 0, Some((16, false))), (1, OK));
        file.metadata().unwrap().blocks()
    };
    let whole = file.metadata().unwrap().blocks();
    let discarded = told(11, (0, 1024, 0));
    assert!(discarded <= whole - 1000, "{whole} and then {discarded}");
    let unmapped = told(13, (1024, 1024, 1));
    assert!(unmapped <= discarded - 1000, "{discarded} and then {unmapped}");
    let zeroed = told(13, (2048, 1024, 0));
    assert!(zeroed >= unmapped, "{unmapped} and then {zeroed}");
    let mut bytes = vec![1; (SECTORS * SECTOR) as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let (zeros, rest) = bytes.split_at(3072 * 512);
    assert!(zeros.iter().all(|&byte| byte == 0) && rest.iter().all(|&byte| byte == 7));
    assert_eq!(file.metadata().unwrap().len(), SECTORS * SECTOR);
}

#[test]
fn a_hostile_guest_changes_no_byte_of_a_read_only_disk() {
    let file = temporary(&[7; 4096]);
    let image = open(0, Disk::of(read_only(&file), true)).unwrap();
    let (mut disk, mut guest) = (Core { storage: image, name: name(0) }, Driver::new());
    for kind in 0..32 {
        guest.write(BODY, &range((0, 8, 0)).repeat(256));
        for bytes in [16, 512, 4096] {
            ask(&mut disk, &mut guest, kind, 0, Some((bytes, false)));
            ask(&mut disk, &mut guest, kind, 0, Some((bytes, true)));
        }
    }
    // And if the core were wrong: the kernel refuses, because of the descriptor.
    let mut storage = Image::new(read_only(&file), 8, false);
    let all = Range { offset: 0, bytes: 4096 };
    assert!(storage.discard(all).is_err());
    assert!(storage.zero(all, true).is_err() && storage.zero(all, false).is_err());
    with_chain(&mut guest, &[(BODY, 512, false)], |from, _| {
        assert!(storage.write(0, from).is_err());
    });
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

#[test]
fn an_image_that_is_open_for_something_else_is_refused() {
    let file = temporary(&[0; 512]);
    for (image, read_only, want) in [
        (file.try_clone().unwrap(), true, "image of disk 1 is not open for reading alone"),
        (read_only(&file), false, "image of disk 1 is not open for reading and writing"),
    ] {
        let refused = open(1, Disk::of(image, read_only)).err().unwrap();
        assert_eq!(refused.to_string(), want);
    }
}

#[test]
fn a_request_over_the_limit_waits_for_its_time_and_is_answered_then() {
    let rate = Rate { per_second: 500, burst: 2 };
    let limits = Limits { bytes: None, requests: Some(rate) };
    let disk = Disk { limits, ..Disk::of(temporary(&[7; 4096]), false) };
    let mut event_loop = EventLoop::new().unwrap();
    let kicks = crate::virtio::mmio::kicks(1).unwrap();
    let (mut block, _) =
        Block::new(BlockState::default(), 0, Some(disk), kicks.clone(), &mut event_loop).unwrap();
    let mut guest = Driver::new();
    guest.write(HEADER, &[0; 16]);
    for _ in 0..4 {
        guest.offer(&[(HEADER, 16, false), (BODY, 512, true), (STATUS, 1, true)]);
    }
    let live = Live {
        memory: guest.memory.clone(),
        irq: Interrupt::new().unwrap(),
        acked_features: 0,
        queues: vec![guest.queue()],
    };
    block.activate(live);
    kicks[0].write(1).unwrap();
    event_loop.turn().unwrap();
    assert_eq!(guest.used().len(), 2, "the burst");
    while guest.used().len() < 4 {
        event_loop.turn().unwrap();
    }
    assert_eq!(guest.used()[3].1, 513);
    assert_eq!((guest.read(BODY, 512), guest.read(STATUS, 1)), (vec![7; 512], vec![OK]));
}

#[test]
fn a_disk_with_threads_of_its_own_is_served_by_nobody_else_and_each_queue_by_itself() {
    let disk = Disk { own_threads: true, ..Disk::of(temporary(&[7; 4096]), false) };
    let mut event_loop = EventLoop::new().unwrap();
    let kicks = crate::virtio::mmio::kicks(2).unwrap();
    let (mut block, own) =
        Block::new(BlockState::default(), 0, Some(disk), kicks.clone(), &mut event_loop).unwrap();
    assert_eq!((own.len(), block.queue_sizes()), (2, &[256, 256][..]));
    assert_eq!(block.config()[34..36], [2, 0]);
    let memory = memory();
    let mut guests = [0, 0x8000].map(|base| Driver::at(base, memory.clone()));
    guests[0].write(HEADER, &[0; 16]);
    for guest in &mut guests {
        guest.offer(&[(HEADER, 16, false), (BODY, 512, true), (STATUS, 1, true)]);
    }
    let queues = guests.iter().map(Driver::queue).collect();
    let irq = Interrupt::new().unwrap();
    block.activate(Live { memory, irq, acked_features: 0, queues });
    kicks.iter().for_each(|kick| kick.write(1).unwrap());
    own[1].turn().unwrap();
    assert_eq!((guests[0].used().len(), guests[1].used().len()), (0, 1));
    own[0].turn().unwrap();
    assert_eq!(guests[0].used(), [(0, 513)]);
    assert_eq!(block.save_queues().len(), 2);
    assert_eq!(block.reset().len(), 2);
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
    let disk = Disk::of(temporary(&[0; 513]), false);
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
    let (mut empty, _) =
        Block::new(BlockState::default(), 0, None, kicks(), &mut event_loop).unwrap();
    empty.activate(live(&irq));
    assert_eq!(irq.reasons(), 0, "the first driver reads it by itself");
    let saved = BlockState::from_section(&empty.save()).unwrap();
    assert_eq!(saved, BlockState { known_sectors: Some(0) });

    let disk = Disk::of(temporary(&[0; 1024]), false);
    let (mut full, _) = Block::new(saved, 0, Some(disk), kicks(), &mut event_loop).unwrap();
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

fn read_only(file: &File) -> File {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

impl Disk {
    fn of(image: File, read_only: bool) -> Self {
        Self { image, read_only, own_threads: false, limits: Limits::default() }
    }
}
