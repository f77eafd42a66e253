//! The whole device: a driver's queues on one side, a socket that plays the wire on the other.

mod several;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::core::{HEADER, MAX_FRAME, Offloads};
use super::*;
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::spec::Rate;
use crate::virtio::buffers::Buffers;
use crate::virtio::mmio;
use crate::virtio::mock::{DATA, Driver, END, SIZE, memory};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Where the guest has room for frames, and where those are that it sends.
const ROOM: u64 = DATA;
const SENT: u64 = DATA + 0x10_0000;

/// No offload was said yet.
const UNSAID: u32 = u32::MAX;

struct Pretence {
    socket: OwnedFd,
    said: Arc<AtomicU32>,
}

impl Wire for Pretence {
    fn send(&mut self, header: &[u8; HEADER], mut frame: Buffers<'_>) -> io::Result<()> {
        frame.write_behind(header, self.socket.as_fd())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        receive(&self.socket, into)
    }

    fn offload(&mut self, offloads: Offloads) -> io::Result<()> {
        self.said.store(offloads.0, Ordering::Relaxed);
        Ok(())
    }
}

impl AsFd for Pretence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is writable for its length.
    let got = unsafe { libc::read(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

fn sockets() -> [OwnedFd; 2] {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: there is room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: they were made just now and belong to nobody else.
    pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Rig {
    device: Net,
    event_loop: EventLoop,
    irq: Interrupt,
    kicks: Kicks,
    memory: Memory,
    receiving: Driver,
    sending: Driver,
    other_end: OwnedFd,
    said: Arc<AtomicU32>,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self::at_rest(NetState::default());
        rig.activate(rig.device.features());
        rig
    }

    fn at_rest(state: NetState) -> Self {
        Self::limited(state, Default::default())
    }

    fn limited(state: NetState, limits: [Limits; 2]) -> Self {
        let [socket, other_end] = sockets();
        let said = Arc::new(AtomicU32::new(UNSAID));
        let wires = Wires::One(Box::new(Pretence { socket, said: said.clone() }));
        let kicks = mmio::kicks(queue_sizes(1).len()).unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        let (device, _) =
            Net::with(state, wires, limits, (MAC, 1500), kicks.clone(), &mut event_loop).unwrap();
        let memory = memory();
        let [receiving, sending] = [0, 0x4000].map(|base| Driver::at(base, memory.clone()));
        let irq = Interrupt::new().unwrap();
        Self { device, event_loop, irq, kicks, memory, receiving, sending, other_end, said }
    }

    fn activate(&mut self, acked_features: u64) {
        self.device.activate(Live {
            memory: self.memory.clone(),
            irq: self.irq.clone(),
            acked_features,
            queues: [&self.receiving, &self.sending].map(Driver::queue).into(),
        });
    }

    /// Lets the device look at both queues.
    fn turn(&mut self) {
        self.kicks.iter().for_each(|kick| kick.write(1).unwrap());
        self.event_loop.turn().unwrap();
    }

    /// What the guest sent and nobody has heard yet.
    fn heard(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2 * MAX_FRAME];
        let length = receive(&self.other_end, &mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    /// Sends `bytes`, header included, to the guest.
    fn say(&self, bytes: &[u8]) {
        // SAFETY: `bytes` is readable for its length.
        let sent =
            unsafe { libc::write(self.other_end.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()));
    }

    /// The guest sends a frame behind `header`; what the wire gets of it.
    fn send(&mut self, header: [u8; HEADER], frame: &[u8]) -> Option<Vec<u8>> {
        self.sending.write(SENT, &header);
        self.sending.write(SENT + 0x100, frame);
        let bytes = u32::try_from(frame.len()).unwrap();
        self.sending.offer(&[(SENT, HEADER as u32, false), (SENT + 0x100, bytes, false)]);
        self.turn();
        self.heard()
    }
}

/// Flags, kind of segments, length of headers, length of a segment, checksum's start and place.
fn header(flags: u8, kind: u8, numbers: [u16; 4]) -> [u8; HEADER] {
    let mut header = [0xff; HEADER];
    [header[0], header[1]] = [flags, kind];
    for (at, number) in numbers.into_iter().enumerate() {
        header[2 + 2 * at..][..2].copy_from_slice(&number.to_le_bytes());
    }
    header
}

fn frame(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| at as u8).collect()
}

#[test]
fn a_frame_of_the_guests_goes_out_whole_with_the_words_it_may_say() {
    let mut rig = Rig::new();
    let plain = rig.send(header(0, 0, [1, 2, 3, 4]), &frame(60)).unwrap();
    assert_eq!(plain, [&[0; HEADER][..], &frame(60)].concat(), "what means nothing is not said");
    let checksum = rig.send(header(1, 0, [9, 9, 34, 16]), &frame(60)).unwrap();
    let words = header(1, 0, [0, 0, 34, 16]);
    assert_eq!(checksum, [&words[..10], &[0; 2], &frame(60)].concat());
    let segments = rig.send(header(1, 1 | 0x80, [54, 1448, 34, 16]), &frame(9000)).unwrap();
    let words = header(1, 0x81, [54, 1448, 34, 16]);
    assert_eq!(segments, [&words[..10], &[0; 2], &frame(9000)].concat());
    assert_eq!(rig.sending.used().len(), 3);
    assert_eq!(rig.irq.reasons(), 1);
}

#[test]
fn a_frame_that_lies_is_lost_and_the_next_one_is_sent() {
    let mut rig = Rig::new();
    let cases = [
        ("nothing behind the header", header(0, 0, [0; 4]), 0),
        ("less than Ethernet's header", header(0, 0, [0; 4]), 13),
        ("longer than any packet", header(0, 0, [0; 4]), MAX_FRAME + 1),
        ("a checksum behind the frame", header(1, 0, [0, 0, 59, 0]), 60),
        ("a checksum far behind the frame", header(1, 0, [0, 0, u16::MAX, u16::MAX]), 60),
        ("a checksum in Ethernet's header", header(1, 0, [0, 0, 13, 4]), 60),
        ("segments of nothing", header(1, 1, [54, 0, 34, 16]), 60),
        ("headers longer than the frame", header(1, 4, [61, 1000, 34, 16]), 60),
        ("segments without checksum", header(0, 1, [54, 1000, 34, 16]), 60),
        ("segments of UDP, never offered", header(1, 3, [54, 1000, 34, 16]), 60),
        ("segments of nobody", header(1, 0x7f, [54, 1000, 34, 16]), 60),
        ("congestion of nothing", header(1, 0x80, [54, 1000, 34, 16]), 60),
    ];
    for (number, (name, header, bytes)) in cases.into_iter().enumerate() {
        assert_eq!(rig.send(header, &frame(bytes)), None, "{name}");
        assert_eq!(rig.sending.used().len(), 2 * number + 1, "{name} comes back");
        assert!(rig.send([0; HEADER], &frame(60)).is_some(), "after {name}");
    }
    assert!(!rig.irq.is_broken());
}

#[test]
fn half_a_header_and_a_frame_outside_of_memory_are_lost() {
    let mut rig = Rig::new();
    rig.sending.offer(&[(SENT, 11, false)]);
    rig.sending.offer(&[(SENT, 12, false), (END - 8, 60, false)]);
    rig.sending.offer(&[(SENT, 100, true)]);
    rig.turn();
    assert_eq!(rig.heard(), None);
    assert_eq!(rig.sending.used().len(), 3);
}

#[test]
fn what_was_not_agreed_on_is_not_sent_nor_asked_for() {
    let bare = FEATURE_VERSION_1;
    let mut rig = Rig::at_rest(NetState::default());
    rig.activate(bare);
    assert_eq!(rig.said.load(Ordering::Relaxed), 0);
    assert_eq!(rig.send(header(1, 0, [0, 0, 34, 16]), &frame(60)), None);
    assert_eq!(rig.send(header(1, 1, [54, 1000, 34, 16]), &frame(60)), None);
    let mut rig = Rig::at_rest(NetState::default());
    rig.activate(bare | feature::GUEST_CSUM | feature::GUEST_TSO6 | feature::GUEST_ECN);
    assert_eq!(rig.said.load(Ordering::Relaxed), 0b1101);
    let mut rig = Rig::at_rest(NetState::default());
    rig.activate(bare | feature::GUEST_TSO4 | feature::GUEST_ECN);
    assert_eq!(rig.said.load(Ordering::Relaxed), 0, "segments need checksums");
    let rig = Rig::new();
    assert_eq!(rig.said.load(Ordering::Relaxed), 0b1111);
}

#[test]
fn a_frame_lies_over_as_many_buffers_as_it_takes() {
    let mut rig = Rig::new();
    for at in 0..6 {
        rig.receiving
            .offer(&[(ROOM + 0x1000 * at, 40, true), (ROOM + 0x1000 * at + 0x100, 60, true)]);
    }
    let coming = [&header(1, 0, [0, 0, 34, 16])[..], &frame(238)].concat();
    rig.say(&coming);
    rig.say(&coming[..50]);
    rig.turn();
    assert_eq!(rig.receiving.used(), [(0, 100), (2, 100), (4, 50), (6, 50)]);
    let mut got = Vec::new();
    for at in 0..3 {
        got.extend(rig.receiving.read(ROOM + 0x1000 * at, 40));
        got.extend(rig.receiving.read(ROOM + 0x1000 * at + 0x100, 60));
    }
    assert_eq!(got[10..12], [3, 0], "in three buffers");
    got[10..12].copy_from_slice(&coming[10..12]);
    assert_eq!(got[..250], coming);
    assert_eq!(rig.receiving.read(ROOM + 0x3000 + 10, 2), [1, 0], "the other in one");
    assert_eq!(rig.irq.reasons(), 1);
}

#[test]
fn a_frame_without_room_waits_for_it() {
    let mut rig = Rig::new();
    let coming = [&[0; HEADER][..], &frame(188)].concat();
    rig.say(&coming);
    rig.receiving.offer(&[(ROOM, 100, true)]);
    rig.turn();
    assert_eq!(rig.receiving.used(), []);
    rig.receiving.offer(&[(ROOM + 0x1000, 100, true)]);
    rig.turn();
    assert_eq!(rig.receiving.used(), [(0, 100), (1, 100)]);
    assert_eq!(rig.receiving.read(ROOM + 0x1000, 100), coming[100..]);
}

#[test]
fn a_frame_that_no_driver_could_take_holds_up_none_that_comes_later() {
    let mut rig = Rig::new();
    for _ in 0..SIZE {
        rig.receiving.offer(&[(ROOM, 3, true)]);
    }
    rig.say(&[0; 100]);
    rig.say(&[0; 20]);
    rig.turn();
    let used = rig.receiving.used();
    assert_eq!(used.len(), 7, "three bytes in each, of the second frame");
    assert_eq!(used[6], (6, 2));

    let mut rig = Rig::at_rest(NetState::default());
    rig.activate(FEATURE_VERSION_1);
    rig.receiving.offer(&[(ROOM, 50, true)]);
    rig.receiving.offer(&[(ROOM, 50, true)]);
    rig.say(&[0; 51]);
    rig.say(&[[1; 10], [0; 10]].concat());
    rig.turn();
    assert_eq!(rig.receiving.used(), [(0, 20)], "one buffer for each, where no more was agreed on");
    assert_eq!(rig.receiving.read(ROOM, 1), [0], "nor hears it that the checksum was right");
}

#[test]
fn room_that_is_a_lie_breaks_the_device_and_not_the_host() {
    let mut rig = Rig::new();
    rig.receiving.offer(&[(END, 4096, true)]);
    rig.say(&[0; 100]);
    rig.turn();
    assert!(rig.irq.is_broken());
    rig.turn();
    assert_eq!(rig.receiving.used(), []);
}

#[test]
fn a_flood_goes_on_in_the_next_turn() {
    let mut rig = Rig::new();
    for _ in 0..SIZE {
        rig.sending.offer(&[(SENT, 12 + 60, false)]);
    }
    rig.turn();
    assert_eq!(rig.sending.used().len(), usize::from(SIZE));
    rig.sending.offer(&[(SENT, 12 + 60, false)]);
    rig.event_loop.turn().unwrap();
    assert_eq!(rig.sending.used().len(), usize::from(SIZE) + 1, "without another kick");
}

#[test]
fn what_a_wire_has_no_room_for_waits_in_the_queue() {
    let mut rig = Rig::new();
    let frames = 8;
    for _ in 0..frames {
        rig.sending.offer(&[(SENT, 12 + 60_000, false)]);
    }
    rig.turn();
    let gone = rig.sending.used().len();
    assert!((1..frames).contains(&gone), "{gone}");
    let mut heard = 0;
    while heard < frames {
        while let Some(frame) = rig.heard() {
            assert_eq!(frame.len(), 12 + 60_000);
            heard += 1;
        }
        if rig.sending.used().len() < frames {
            rig.event_loop.turn().unwrap();
        }
    }
    assert_eq!((heard, rig.sending.used().len()), (frames, frames));
}

#[test]
fn a_driver_that_was_saved_is_told_of_a_link_that_has_come_up() {
    let kicks = mmio::kicks(queue_sizes(1).len()).unwrap();
    let (mut empty, _) =
        Net::new(NetState::default(), 2, None, kicks, &mut EventLoop::new().unwrap()).unwrap();
    assert_eq!(empty.config(), [2, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0xff, 0xff]);
    let (memory, irq) = (memory(), Interrupt::new().unwrap());
    let queues = [0, 0x4000].map(|base| Driver::at(base, memory.clone()).queue()).into();
    let acked_features = empty.features();
    empty.activate(Live { memory, irq: irq.clone(), acked_features, queues });
    assert_eq!(irq.reasons(), 0);

    let state = NetState::from_section(&empty.save()).unwrap();
    let mut rig = Rig::at_rest(state);
    assert_eq!(rig.device.config()[6..8], [1, 0]);
    rig.activate(acked_features);
    assert_eq!(rig.irq.reasons(), 2);
    let state = NetState::from_section(&rig.device.save()).unwrap();
    let mut again = Rig::at_rest(state);
    again.activate(acked_features);
    assert_eq!(again.irq.reasons(), 0, "nothing has changed");
}

#[test]
fn an_empty_slot_takes_frames_and_gives_none() {
    let kicks = mmio::kicks(queue_sizes(1).len()).unwrap();
    let mut event_loop = EventLoop::new().unwrap();
    let (mut empty, _) =
        Net::new(NetState::default(), 0, None, kicks.clone(), &mut event_loop).unwrap();
    let (memory, irq) = (memory(), Interrupt::new().unwrap());
    let [mut receiving, mut sending] = [0, 0x4000].map(|base| Driver::at(base, memory.clone()));
    let queues = [&receiving, &sending].map(Driver::queue).into();
    let acked_features = empty.features();
    empty.activate(Live { memory, irq, acked_features, queues });
    receiving.offer(&[(ROOM, 4096, true)]);
    sending.offer(&[(SENT, 12 + 60, false)]);
    kicks.iter().for_each(|kick| kick.write(1).unwrap());
    event_loop.turn().unwrap();
    assert_eq!((receiving.used().len(), sending.used().len()), (0, 1));
    assert_eq!(empty.reset().len(), 2);
}

#[test]
fn frames_over_the_limit_wait_for_their_time_and_come_then() {
    let limits = Limits { bytes: None, requests: Some(Rate { per_second: 500, burst: 2 }) };
    let mut rig = Rig::limited(NetState::default(), [limits; 2]);
    rig.activate(rig.device.features());
    for at in 0..4 {
        rig.sending.offer(&[(SENT, 12 + 60, false)]);
        rig.say(&[at; HEADER + 20]);
    }
    // Room comes one by one: a frame that found none has paid already.
    rig.receiving.offer(&[(ROOM, 100, true)]);
    rig.turn();
    assert_eq!((rig.sending.used().len(), rig.receiving.used().len()), (2, 1), "the bursts");
    for at in 1..5 {
        rig.receiving.offer(&[(ROOM + 0x1000 * at, 100, true)]);
    }
    rig.turn();
    assert_eq!(rig.receiving.used().len(), 2);
    while rig.sending.used().len() < 4 || rig.receiving.used().len() < 4 {
        rig.event_loop.turn().unwrap();
    }
    let got: Vec<_> = (0..4).map(|at| rig.receiving.read(ROOM + 0x1000 * at + 12, 1)[0]).collect();
    assert_eq!(got, [0, 1, 2, 3]);
    assert_eq!((0..4).filter_map(|_| rig.heard()).count(), 4);
}

#[test]
fn bytes_are_those_of_the_frame_and_each_direction_has_its_own() {
    let bytes = |burst| Limits { bytes: Some(Rate { per_second: 1, burst }), requests: None };
    let mut rig = Rig::limited(NetState::default(), [bytes(20), bytes(60)]);
    rig.activate(rig.device.features());
    rig.say(&[0; HEADER + 20]);
    rig.say(&[0; HEADER + 20]);
    rig.receiving.offer(&[(ROOM, 100, true)]);
    rig.receiving.offer(&[(ROOM, 100, true)]);
    rig.sending.offer(&[(SENT, 12 + 60, false)]);
    rig.sending.offer(&[(SENT, 12 + 60, false)]);
    rig.turn();
    assert_eq!((rig.sending.used().len(), rig.receiving.used().len()), (1, 1));
}

#[test]
fn a_driver_at_work_hears_that_its_wire_is_taken_and_that_there_is_another() {
    let link = |rig: &Rig| rig.device.config()[6];
    let mut rig = Rig::new();
    let slot = rig.device.slot(0);
    assert_eq!((link(&rig), rig.irq.reasons()), (1, 0));
    slot.plug(None).unwrap();
    // Its configuration has changed.
    assert_eq!((link(&rig), rig.irq.reasons()), (0, 2));
    rig.irq.acknowledge(2);
    assert_eq!(rig.send([0; HEADER], &frame(60)), Some(vec![]), "the wire is closed");
    assert_eq!(rig.sending.used().len(), 1, "and the frame is lost");

    let (wire, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
    slot.plug(Some(Plug::Stream(wire.into()))).unwrap();
    assert_eq!((link(&rig), rig.irq.reasons() & 2), (1, 2));
    rig.send([0; HEADER], &frame(60));
    let mut got = [0; 64];
    io::Read::read_exact(&mut peer, &mut got).unwrap();
    assert_eq!(got[4..], frame(60));
    rig.receiving.offer(&[(ROOM, 100, true)]);
    io::Write::write_all(&mut peer, &got).unwrap();
    rig.turn();
    assert_eq!(rig.receiving.used(), [(0, 72)]);
    let nothing = std::fs::File::open("/dev/null").unwrap();
    assert!(slot.plug(Some(Plug::Tap(vec![nothing.into()]))).is_err());
    assert_eq!(link(&rig), 1, "what is no wire takes nobody's place");
}
