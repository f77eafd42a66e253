//! The core, with a host that takes and gives what the test says.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::rc::Rc;

use super::super::connection::{BACKLOG_BYTES, Stream};
use super::super::core::Core;
use super::super::packet::{Credit, HEADER_BYTES, Halves, Header, Operation, Ports, RawHeader};
use crate::event_loop::Readiness;
use crate::virtio::buffers::Buffers;
use crate::virtio::mock::{DATA, Driver, with_chain};

/// The host's end of a stream.
#[derive(Default)]
struct Host {
    /// What it has been sent, and how much more it takes.
    got: Vec<u8>,
    takes: usize,
    /// What it says, each at one go; then nothing, or the end.
    says: VecDeque<Vec<u8>>,
    ended: bool,
    gone: bool,
    told_end: bool,
    told_not_to_send: bool,
}

#[derive(Clone, Default)]
struct HostStream(Rc<RefCell<Host>>);

impl Stream for HostStream {
    fn send(&mut self, from: &mut Buffers<'_>) -> io::Result<usize> {
        let mut bytes = vec![0; from.len().min(self.0.borrow().takes)];
        if !bytes.is_empty() {
            from.copy_to(&mut bytes);
        }
        self.send_bytes(if bytes.is_empty() { b"?" } else { &bytes })
    }
    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut host = self.0.borrow_mut();
        if host.gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(host.takes);
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        host.takes -= taken;
        host.got.extend(&bytes[..taken]);
        Ok(taken)
    }
    fn receive(&mut self, into: &mut Buffers<'_>, limit: usize) -> io::Result<usize> {
        let mut host = self.0.borrow_mut();
        match host.says.pop_front() {
            Some(mut said) => {
                let rest = said.split_off(said.len().min(limit));
                if !rest.is_empty() {
                    host.says.push_front(rest);
                }
                Ok(into.copy_from(&said))
            }
            None if host.ended || host.gone => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
    fn finish_sending(&mut self) {
        self.0.borrow_mut().told_end = true;
    }
    fn finish_receiving(&mut self) {
        self.0.borrow_mut().told_not_to_send = true;
    }
}

const PORT: u32 = 1024;
const PORTS: Ports = Ports { host: PORT, guest: 5000 };
const GUEST_CREDIT: Credit = Credit { buf_alloc: 1 << 18, fwd_cnt: 0 };
const ID: u32 = 77;
const SEND: Halves = Halves { receive: false, send: true };
const RECEIVE: Halves = Halves { receive: true, send: false };

/// The core between a guest and one host.
struct Between {
    core: Core<HostStream>,
    host: HostStream,
    guest: Driver,
}

impl Between {
    /// Nothing has happened.
    fn start() -> Self {
        let host = HostStream::default();
        host.0.borrow_mut().takes = usize::MAX;
        let core = Core::new(3, BTreeMap::from([(PORT, host.clone())]));
        Self { core, host, guest: Driver::new() }
    }

    /// The guest has dialled, and was answered.
    fn open() -> Self {
        let mut between = Self::start();
        assert_eq!(between.guest_sends(Operation::Request, b""), Some(PORT));
        assert_eq!(between.next(), Some((PORTS, Operation::Response)));
        between
    }

    fn guest_sends(&mut self, operation: Operation, data: &[u8]) -> Option<u32> {
        self.guest_says(PORTS, operation, GUEST_CREDIT, data)
    }

    fn guest_says(
        &mut self,
        ports: Ports,
        operation: Operation,
        credit: Credit,
        data: &[u8],
    ) -> Option<u32> {
        let raw = super::turned(Header { ports, operation, credit }.to_bytes(3));
        self.guest.write(DATA, data);
        let core = &mut self.core;
        let parts = [(DATA, data.len() as u32, false)];
        with_chain(&mut self.guest, &parts, |data, _| core.packet(RawHeader(raw), data, ID))
    }

    fn guest_sends_data(&mut self, data: &[u8]) {
        self.guest_sends(Operation::Data(data.len()), data);
    }

    /// The next packet for the guest.
    fn next(&mut self) -> Option<(Ports, Operation)> {
        self.next_with_room(4096).map(|header| (header.ports, header.operation))
    }

    fn next_with_room(&mut self, room: u32) -> Option<Header> {
        let core = &mut self.core;
        let parts = [(DATA, HEADER_BYTES as u32, true), (DATA + 0x100, room, true)];
        let written = with_chain(&mut self.guest, &parts, |_, mut into| {
            let header = into.split_to(HEADER_BYTES);
            core.next_packet(header, into)
        })?;
        let raw = self.guest.read(DATA, HEADER_BYTES).try_into().unwrap();
        let header = RawHeader(super::turned(raw)).check(3, room as usize).unwrap();
        if let Operation::Data(bytes) = header.operation {
            assert_eq!(written, HEADER_BYTES + bytes);
        } else {
            assert_eq!(written, HEADER_BYTES);
        }
        Some(header)
    }

    fn ready(&mut self, readiness: Readiness) {
        self.core.ready(ID, readiness);
    }

    fn got(&self) -> Vec<u8> {
        self.host.0.borrow().got.clone()
    }
}

#[test]
fn a_port_can_be_dialled_once_and_others_not_at_all() {
    let mut between = Between::open();
    let other = Ports { host: PORT, guest: 5001 };
    assert_eq!(between.guest_says(other, Operation::Request, GUEST_CREDIT, b""), None);
    assert_eq!(between.next(), Some((other, Operation::Reset)));
    let unknown = Ports { host: 22, guest: 5002 };
    assert_eq!(between.guest_says(unknown, Operation::Request, GUEST_CREDIT, b""), None);
    assert_eq!(between.next(), Some((unknown, Operation::Reset)));
    assert_eq!(between.next(), None);
}

#[test]
fn packets_that_belong_to_no_stream_are_answered_with_a_reset_but_for_a_reset() {
    for operation in [
        Operation::Response,
        Operation::Data(0),
        Operation::Shutdown(Halves::BOTH),
        Operation::CreditUpdate,
        Operation::CreditRequest,
    ] {
        let mut between = Between::start();
        between.guest_sends(operation, b"");
        assert_eq!(between.next(), Some((PORTS, Operation::Reset)), "{operation:?}");
    }
    let mut between = Between::start();
    between.guest_sends(Operation::Reset, b"");
    assert_eq!(between.next(), None);
}

#[test]
fn a_flood_of_packets_is_not_taken_beyond_what_can_be_answered() {
    let mut between = Between::start();
    let mut taken = 0;
    while between.core.takes_packets() {
        between.guest_sends(Operation::Data(0), b"");
        taken += 1;
    }
    assert_eq!(taken, 256);
    assert!(between.next().is_some());
    assert!(between.core.takes_packets());
}

#[test]
fn bytes_from_the_guest_reach_the_host_in_order_whatever_it_takes_at_once() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 3;
    between.guest_sends_data(b"hello ");
    between.guest_sends_data(b"world");
    assert_eq!(between.got(), b"hel");
    assert!(!between.core.is_drained());
    for takes in [1, 4, 100] {
        between.host.0.borrow_mut().takes = takes;
        between.ready(Readiness::WRITABLE);
    }
    assert_eq!(between.got(), b"hello world");
    assert!(between.core.is_drained());
}

#[test]
fn a_guest_that_sends_more_than_its_credit_is_reset() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 0;
    let packet = vec![1; 64 << 10];
    for _ in 0..4 {
        between.guest_sends_data(&packet);
    }
    assert_eq!(between.next(), None, "all of that was allowed");
    between.guest_sends_data(b"!");
    assert_eq!(between.next(), Some((PORTS, Operation::Reset)));
    assert!(between.core.is_drained(), "nothing of the stream is left");
}

#[test]
fn the_guest_is_told_of_new_credit_before_it_runs_out() {
    let mut between = Between::open();
    let packet = vec![1; 32 << 10];
    between.guest_sends_data(&packet);
    assert_eq!(between.next(), None, "not worth a packet yet");
    between.guest_sends_data(&packet);
    let header = between.next_with_room(0).unwrap();
    assert_eq!(header.operation, Operation::CreditUpdate);
    assert_eq!(header.credit, Credit { buf_alloc: BACKLOG_BYTES, fwd_cnt: 64 << 10 });
    between.guest_sends(Operation::CreditRequest, b"");
    assert_eq!(between.next(), Some((PORTS, Operation::CreditUpdate)));
}

#[test]
fn the_host_is_read_only_as_far_as_the_guest_gives_credit() {
    let mut between = Between::open();
    let credit = |buf_alloc, fwd_cnt| Credit { buf_alloc, fwd_cnt };
    between.guest_says(PORTS, Operation::CreditUpdate, credit(6, 0), b"");
    between.host.0.borrow_mut().says = [b"abcdefghij".to_vec()].into();
    between.ready(Readiness::READABLE);
    assert_eq!(between.next(), Some((PORTS, Operation::Data(6))));
    assert_eq!(between.guest.read(DATA + 0x100, 6), b"abcdef");
    assert_eq!(between.next(), None);
    between.guest_says(PORTS, Operation::CreditUpdate, credit(6, 1), b"");
    assert_eq!(between.next(), Some((PORTS, Operation::Data(1))));
    // It cannot have passed on more than it was sent.
    between.guest_says(PORTS, Operation::CreditUpdate, credit(6, 1000), b"");
    assert_eq!(between.next(), None);
}

#[test]
fn a_stream_with_much_to_say_does_not_silence_another() {
    let mut between = Between::open();
    let caller = HostStream::default();
    caller.0.borrow_mut().takes = usize::MAX;
    between.core.dial(ID + 1, 52, caller.clone());
    let (ports, operation) = between.next().unwrap();
    assert_eq!(operation, Operation::Request);
    between.guest_says(ports, Operation::Response, GUEST_CREDIT, b"");
    for host in [&between.host, &caller] {
        host.0.borrow_mut().says = vec![vec![7; 4096]; 3].into();
    }
    between.ready(Readiness::READABLE);
    between.core.ready(ID + 1, Readiness::READABLE);
    let turns: Vec<_> = std::iter::from_fn(|| between.next()).map(|(ports, _)| ports).collect();
    assert_eq!(turns, [ports, PORTS, ports, PORTS, ports, PORTS]);
}

#[test]
fn a_caller_is_greeted_once_the_guest_takes_the_call() {
    let mut between = Between::start();
    let caller = HostStream::default();
    caller.0.borrow_mut().takes = usize::MAX;
    caller.0.borrow_mut().says = [b"early".to_vec()].into();
    between.core.dial(ID, 52, caller.clone());
    let (ports, operation) = between.next().unwrap();
    assert_eq!((ports.guest, operation), (52, Operation::Request));
    assert_eq!(between.next(), None, "nothing before the answer");
    between.guest_says(ports, Operation::Response, GUEST_CREDIT, b"");
    let greeting = format!("OK {}\n", ports.host);
    assert_eq!(caller.0.borrow().got, greeting.as_bytes());
    assert_eq!(between.next(), Some((ports, Operation::Data(5))));
}

#[test]
fn a_call_nobody_takes_is_hung_up() {
    let mut between = Between::start();
    let caller = HostStream::default();
    between.core.dial(ID, 52, caller.clone());
    let (ports, _) = between.next().unwrap();
    between.guest_says(ports, Operation::Reset, GUEST_CREDIT, b"");
    assert!(between.core.stream(ID).is_none());
    assert!(caller.0.borrow().got.is_empty());
}

#[test]
fn the_guests_half_close_comes_after_its_last_byte_and_the_other_half_goes_on() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 2;
    between.guest_sends_data(b"last");
    between.guest_sends(Operation::Shutdown(SEND), b"");
    assert!(!between.host.0.borrow().told_end, "two bytes are still to come");
    between.host.0.borrow_mut().takes = 100;
    between.ready(Readiness::WRITABLE);
    assert_eq!(between.got(), b"last");
    assert!(between.host.0.borrow().told_end);
    between.host.0.borrow_mut().says = [b"answer".to_vec()].into();
    between.ready(Readiness::READABLE);
    assert_eq!(between.next(), Some((PORTS, Operation::Data(6))));
    between.guest_sends_data(b"more");
    assert_eq!(between.next(), Some((PORTS, Operation::Reset)), "that was its last byte");
}

#[test]
fn the_hosts_half_close_comes_after_its_last_byte_and_the_other_half_goes_on() {
    let mut between = Between::open();
    {
        let mut host = between.host.0.borrow_mut();
        host.says = [b"bye".to_vec()].into();
        host.ended = true;
    }
    between.ready(Readiness::READABLE);
    assert_eq!(between.next(), Some((PORTS, Operation::Data(3))));
    between.ready(Readiness::READABLE);
    assert_eq!(between.next(), Some((PORTS, Operation::Shutdown(SEND))));
    assert_eq!(between.next(), None, "said once");
    between.guest_sends_data(b"still here");
    assert_eq!(between.got(), b"still here");
}

#[test]
fn a_host_that_is_gone_is_told_of_after_what_it_said_last() {
    let mut between = Between::open();
    {
        let mut host = between.host.0.borrow_mut();
        host.says = [b"last words".to_vec()].into();
        host.gone = true;
    }
    between.guest_sends_data(b"into the void");
    between.ready(Readiness::GONE);
    assert_eq!(between.next(), Some((PORTS, Operation::Data(10))));
    assert_eq!(between.next(), Some((PORTS, Operation::Shutdown(Halves::BOTH))));
    between.guest_sends_data(b"more");
    assert_eq!(between.next(), None, "it cannot know yet, and is not punished");
    between.guest_sends(Operation::Shutdown(Halves::BOTH), b"");
    assert_eq!(between.next(), Some((PORTS, Operation::Reset)));
}

#[test]
fn a_host_that_goes_after_it_has_ended_its_half_is_told_of() {
    let mut between = Between::open();
    between.host.0.borrow_mut().ended = true;
    between.core.ready(ID, Readiness::READABLE);
    assert_eq!(between.next(), Some((PORTS, Operation::Shutdown(SEND))));
    between.host.0.borrow_mut().gone = true;
    between.core.ready(ID, Readiness::GONE);
    assert_eq!(between.next(), Some((PORTS, Operation::Shutdown(Halves::BOTH))));
    assert_eq!(between.next(), None);
}

#[test]
fn a_guest_that_closes_is_answered_when_its_last_byte_is_out() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 0;
    between.guest_sends_data(b"tail");
    between.guest_sends(Operation::Shutdown(Halves::BOTH), b"");
    assert_eq!(between.next(), None);
    assert!(between.host.0.borrow().told_not_to_send);
    between.host.0.borrow_mut().takes = 100;
    between.ready(Readiness::WRITABLE);
    assert_eq!(between.got(), b"tail");
    assert_eq!(between.next(), Some((PORTS, Operation::Reset)));
    assert!(between.core.stream(ID).is_none());
}

#[test]
fn a_guest_that_forgets_a_stream_still_has_its_last_bytes_delivered() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 0;
    between.guest_sends_data(b"tail");
    between.guest_sends(Operation::Reset, b"");
    between.host.0.borrow_mut().takes = 100;
    between.ready(Readiness::WRITABLE);
    assert_eq!(between.got(), b"tail");
    assert!(between.host.0.borrow().told_end);
    assert_eq!(between.next(), None, "nobody waits for an answer");
    assert!(between.core.stream(ID).is_none());
}

#[test]
fn a_guest_that_wants_to_hear_no_more_stops_the_host() {
    let mut between = Between::open();
    between.guest_sends(Operation::Shutdown(RECEIVE), b"");
    assert!(between.host.0.borrow().told_not_to_send);
    between.host.0.borrow_mut().says = [b"unheard".to_vec()].into();
    between.ready(Readiness::READABLE);
    assert_eq!(between.next(), None);
    between.guest_sends_data(b"but I talk");
    assert_eq!(between.got(), b"but I talk");
}

#[test]
fn the_end_of_the_machine_leaves_only_what_has_to_go_out() {
    let mut between = Between::open();
    between.host.0.borrow_mut().takes = 0;
    between.guest_sends_data(b"tail");
    between.core.orphan_all();
    assert!(!between.core.is_drained());
    between.host.0.borrow_mut().takes = 100;
    between.ready(Readiness::WRITABLE);
    assert!(between.core.is_drained());
    assert_eq!(between.got(), b"tail");
}

#[test]
fn answers_and_requests_out_of_turn_reset_the_stream() {
    for operation in [Operation::Response, Operation::Request] {
        let mut between = Between::open();
        between.guest_sends(operation, b"");
        assert_eq!(between.next(), Some((PORTS, Operation::Reset)), "{operation:?}");
        assert!(between.core.stream(ID).is_none());
    }
}
