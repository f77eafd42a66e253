//! The whole device: queues in memory on one side, Unix sockets on the other.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;

use super::super::core::MAX_CONNECTIONS;
use super::super::packet::{Credit, HEADER_BYTES, Halves, Header, Operation, Ports, RawHeader};
use super::super::*;
use crate::irq::Interrupt;
use crate::virtio::mmio;
use crate::virtio::mock::{Driver, memory};

const PORT: u32 = 1024;
const PORTS: Ports = Ports { host: PORT, guest: 5000 };
/// Where the guest keeps what it sends, and what it is sent.
const OUT: u64 = 0x2_0000;
const IN: u64 = 0x8_0000;

/// A guest with a working device, and a host with a socket at `PORT` and a place to call from.
struct Rig {
    device: Vsock,
    event_loop: EventLoop,
    irq: Interrupt,
    kicks: Kicks,
    rx: Driver,
    tx: Driver,
    event: Driver,
    offered: u64,
    received: usize,
    socket: UnixStream,
    listener: String,
    dialled: Arc<Mutex<Vec<u32>>>,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new(state: VsockState) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls").to_str().unwrap().to_owned();
        let (socket, far) = UnixStream::pair().unwrap();
        let dialled = Arc::new(Mutex::new(vec![]));
        let told = dialled.clone();
        let connections = Connections {
            guest_cid: 3,
            listener: UnixListener::bind(&path).unwrap().into(),
            host_ports: BTreeMap::from([(PORT, far.into())]),
            dialled: Box::new(move |port| told.lock().unwrap().push(port)),
        };
        let kicks = mmio::kicks(QUEUE_SIZES.len()).unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        let mut device = Vsock::new(state, connections, kicks.clone(), &mut event_loop).unwrap();
        let memory = memory();
        let [rx, tx, event] = [0, 0x4000, 0x8000].map(|base| Driver::at(base, memory.clone()));
        let irq = Interrupt::new().unwrap();
        device.activate(Live {
            memory,
            irq: irq.clone(),
            acked_features: device.features(),
            queues: [&rx, &tx, &event].map(Driver::queue).into(),
        });
        Self {
            device,
            event_loop,
            irq,
            kicks,
            rx,
            tx,
            event,
            offered: 0,
            received: 0,
            socket,
            listener: path,
            dialled,
            _directory: directory,
        }
    }

    /// A stream is open, and the guest has had the answer.
    fn open() -> Self {
        let mut rig = Self::new(VsockState::default());
        rig.give_buffers(4, 4096);
        rig.offer(Operation::Request, &[]);
        rig.kick(1);
        assert_eq!(rig.receive(), [(PORTS, Operation::Response)]);
        rig
    }

    fn give_buffers(&mut self, count: u64, bytes: u32) {
        for index in 0..count {
            self.rx.offer(&[(IN + index * 0x1_0000, bytes, true)]);
        }
    }

    /// Puts a packet into the transmit queue, with its data in `parts` of so many bytes each.
    fn offer(&mut self, operation: Operation, parts: &[u32]) {
        self.offer_between(PORTS, operation, parts);
    }

    fn offer_between(&mut self, ports: Ports, operation: Operation, parts: &[u32]) {
        let credit = Credit { buf_alloc: 1 << 20, fwd_cnt: 0 };
        let header = super::turned(Header { ports, operation, credit }.to_bytes(3));
        self.offered += 1;
        let at = OUT - 0x100 * (self.offered % 64);
        self.tx.write(at, &header);
        let mut chain = vec![(at, HEADER_BYTES as u32, false)];
        let mut next = OUT;
        for &bytes in parts {
            chain.push((next, bytes, false));
            next += u64::from(bytes);
        }
        self.tx.offer(&chain);
    }

    fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).unwrap();
        self.event_loop.turn().unwrap();
    }

    /// The packets that came since this was last asked.
    fn receive(&mut self) -> Vec<(Ports, Operation)> {
        let used = self.rx.used();
        let new = &used[std::mem::replace(&mut self.received, used.len())..];
        new.iter()
            .filter(|&&(_, written)| written > 0)
            .map(|&(head, written)| {
                let at = IN + u64::from(head) * 0x1_0000;
                let raw = self.rx.read(at, HEADER_BYTES).try_into().unwrap();
                let header = RawHeader(super::turned(raw)).check(3, written as usize).unwrap();
                (header.ports, header.operation)
            })
            .collect()
    }
}

#[test]
fn the_guest_reaches_the_port_it_was_given_and_the_owner_hears_of_it() {
    let rig = Rig::open();
    assert_eq!(*rig.dialled.lock().unwrap(), [PORT]);
    assert_eq!(rig.irq.reasons(), 1, "the guest was interrupted");
}

#[test]
fn packets_in_two_halves_reach_a_slow_reader_whole() {
    let mut rig = Rig::open();
    let data: Vec<u8> = (0..0x1_0000).map(|index| (index / 7) as u8).collect();
    rig.tx.write(OUT, &data);
    // Four times what Linux sends since 6.17: 64 KiB behind its header, in two descriptors.
    for _ in 0..4 {
        rig.offer(Operation::Data(data.len()), &[0x8000, 0x8000]);
    }
    rig.kick(1);
    assert_eq!(rig.tx.used().len(), 5, "credit allows it all, whatever the socket takes");
    rig.socket.set_nonblocking(true).unwrap();
    let mut got: Vec<u8> = Vec::new();
    let mut piece = [0; 10_000];
    while got.len() < 4 * data.len() {
        match rig.socket.read(&mut piece) {
            Ok(bytes) => got.extend(&piece[..bytes]),
            // It is empty, so there is room, and the device hears of it.
            Err(_) => rig.event_loop.turn().unwrap(),
        }
    }
    assert!(got == data.repeat(4), "a byte is not where it belongs");
}

#[test]
fn what_stands_in_the_queue_when_the_guest_ends_arrives_whole() {
    let mut rig = Rig::open();
    rig.tx.write(OUT, b"famous last words");
    rig.offer(Operation::Data(17), &[17]);
    rig.offer(Operation::Shutdown(Halves::BOTH), &[]);
    // No kick: the guest's last act was a reset, and nobody has looked yet.
    let leave = rig.device.leave();
    leave.hang_up();
    assert!(leave.is_drained());
    let mut got = String::new();
    rig.socket.read_to_string(&mut got).unwrap();
    assert_eq!(got, "famous last words");
}

#[test]
fn what_stands_in_the_queue_when_the_driver_resets_the_device_arrives_whole() {
    let mut rig = Rig::open();
    rig.tx.write(OUT, b"famous last words");
    rig.offer(Operation::Data(17), &[17]);
    assert_eq!(rig.device.reset().len(), QUEUE_SIZES.len());
    let mut got = String::new();
    rig.socket.read_to_string(&mut got).unwrap();
    assert_eq!(got, "famous last words");
}

#[test]
fn a_caller_gets_through_with_one_write_and_hears_its_answer() {
    let mut rig = Rig::new(VsockState::default());
    rig.give_buffers(4, 4096);
    let mut caller = UnixStream::connect(&rig.listener).unwrap();
    caller.write_all(b"CONNECT 52\nhello").unwrap();
    rig.event_loop.turn().unwrap();
    rig.event_loop.turn().unwrap();
    let (ports, operation) = rig.receive()[0];
    assert_eq!((ports.guest, operation), (52, Operation::Request));
    rig.offer_between(ports, Operation::Response, &[]);
    rig.kick(1);
    assert_eq!(rig.receive(), [(ports, Operation::Data(5))]);
    assert_eq!(rig.rx.read(IN + 0x1_0000 + HEADER_BYTES as u64, 5), b"hello");
    let mut greeting = [0; 64];
    let bytes = caller.read(&mut greeting).unwrap();
    assert_eq!(greeting[..bytes], *format!("OK {}\n", ports.host).as_bytes());
}

#[test]
fn a_caller_that_talks_nonsense_is_shown_out() {
    let rig = Rig::new(VsockState::default());
    let mut caller = UnixStream::connect(&rig.listener).unwrap();
    caller.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    rig.event_loop.turn().unwrap();
    rig.event_loop.turn().unwrap();
    // Either way it is the end; what it wrote and nobody read makes it a hard one.
    assert!(matches!(caller.read(&mut [0; 8]), Ok(0) | Err(_)));
}

#[test]
fn callers_beyond_the_limit_are_shown_out_and_the_others_stay() {
    let rig = Rig::new(VsockState::default());
    let mut callers = Vec::new();
    for _ in 0..=MAX_CONNECTIONS {
        callers.push(UnixStream::connect(&rig.listener).unwrap());
        rig.event_loop.turn().unwrap();
    }
    let mut last = callers.pop().unwrap();
    while last.set_nonblocking(true).is_ok() && last.read(&mut [0; 8]).is_err() {
        rig.event_loop.turn().unwrap();
    }
    for caller in &mut callers {
        caller.set_nonblocking(true).unwrap();
        let error = caller.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn packets_wait_for_a_guest_without_buffers_and_small_buffers_go_back_empty() {
    let mut rig = Rig::new(VsockState::default());
    rig.offer(Operation::Request, &[]);
    rig.kick(1);
    assert_eq!(rig.receive(), []);
    rig.give_buffers(1, HEADER_BYTES as u32 - 1);
    rig.kick(0);
    assert_eq!(rig.rx.used(), [(0, 0)]);
    rig.rx.offer(&[(IN + 0x1_0000, 4096, true)]);
    rig.kick(0);
    assert_eq!(rig.receive(), [(PORTS, Operation::Response)]);
}

#[test]
fn a_queue_that_lies_stops_the_device_until_it_is_reset() {
    let mut rig = Rig::open();
    rig.tx.set_offered(1000);
    rig.kick(1);
    assert!(rig.irq.is_broken());
    rig.socket.write_all(b"unheard").unwrap();
    rig.event_loop.turn().unwrap();
    assert_eq!(rig.receive(), []);
    let queues = rig.device.reset();
    assert_eq!(queues.iter().map(QueueT::max_size).collect::<Vec<_>>(), [16; 3]);
}

#[test]
fn a_guest_that_wakes_up_elsewhere_is_told_that_its_streams_are_gone() {
    let rig = Rig::open();
    let saved = VsockState::from_section(&rig.device.save()).unwrap();
    assert_eq!(saved, VsockState { reset_to_tell: true });
    let mut woken = Rig::new(saved);
    woken.event.offer(&[(OUT, 8, true)]);
    woken.tx.write(OUT, &[0xee; 8]);
    woken.kick(2);
    assert_eq!(woken.event.used(), [(0, 4)]);
    assert_eq!(woken.tx.read(OUT, 5), [0, 0, 0, 0, 0xee]);
    woken.event.offer(&[(OUT, 8, true)]);
    woken.kick(2);
    assert_eq!(woken.event.used().len(), 1, "told once");
}
