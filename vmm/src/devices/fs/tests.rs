//! The whole device: queues in memory on one side, a server's socket on the other.

use std::os::fd::{AsRawFd, FromRawFd};

use super::core::{MAX_MESSAGE, REPLY_HEADER, REQUEST_HEADER};
use super::*;
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::virtio::mmio;
use crate::virtio::mock::{DATA, Driver, SIZE, memory};

/// Where the guest has its requests, and where it wants the replies.
const ASK: u64 = DATA;
const ANSWER: u64 = DATA + 0x10_0000;
const EIO: i32 = -libc::EIO;

struct Rig {
    device: Fs,
    event_loop: EventLoop,
    irq: Interrupt,
    kicks: Kicks,
    memory: Memory,
    first: Driver,
    requests: Driver,
    server: Option<OwnedFd>,
}

/// A message: length as said, opcode or error, number, and what follows.
fn message(said: usize, word: i32, number: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(u32::try_from(said).unwrap().to_le_bytes());
    bytes.extend(word.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn request(number: u64, rest: &[u8]) -> Vec<u8> {
    let rest = [&[0; REQUEST_HEADER - 16][..], rest].concat();
    message(16 + rest.len(), 1, number, &rest)
}

fn reply(number: u64, rest: &[u8]) -> Vec<u8> {
    message(REPLY_HEADER + rest.len(), 0, number, rest)
}

fn number(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[8..16].try_into().unwrap())
}

fn sockets() -> [OwnedFd; 2] {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: they were made just now and belong to nobody else.
    pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Rig {
    fn new() -> Self {
        let [socket, server] = sockets();
        Self::with(Some(socket), Some(server))
    }

    fn with(socket: Option<OwnedFd>, server: Option<OwnedFd>) -> Self {
        let kicks = mmio::kicks(QUEUE_SIZES.len()).unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        let server_side = Server { tag: "files".into(), socket };
        let device = Fs::new(FsState {}, server_side, kicks.clone(), &mut event_loop).unwrap();
        let memory = memory();
        let [first, requests] = [0, 0x4000].map(|base| Driver::at(base, memory.clone()));
        let irq = Interrupt::new().unwrap();
        let mut rig = Self { device, event_loop, irq, kicks, memory, first, requests, server };
        rig.activate();
        rig
    }

    fn activate(&mut self) {
        self.device.activate(Live {
            memory: self.memory.clone(),
            irq: self.irq.clone(),
            acked_features: self.device.features(),
            queues: [&self.first, &self.requests].map(Driver::queue).into(),
        });
    }

    /// Offers a request with room for an answer of `room` bytes, and lets the device see it.
    fn ask(&mut self, bytes: &[u8], room: u32) {
        self.requests.write(ASK, bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.requests.offer(&[(ASK, length, false), (ANSWER, room, true)]);
        self.kick();
    }

    fn kick(&mut self) {
        self.kicks[1].write(1).unwrap();
        self.turn();
    }

    /// One turn of the event loop, which a kick of the first queue keeps from waiting.
    fn turn(&mut self) {
        self.kicks[0].write(1).unwrap();
        self.event_loop.turn().unwrap();
    }

    fn hear(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2 * MAX_MESSAGE];
        let server = self.server.as_ref().unwrap().as_raw_fd();
        // SAFETY: `bytes` is writable for its length.
        let got = unsafe {
            libc::recv(server, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT)
        };
        bytes.truncate(usize::try_from(got).ok()?);
        Some(bytes)
    }

    fn say(&mut self, bytes: &[u8]) {
        let server = self.server.as_ref().unwrap().as_raw_fd();
        // SAFETY: `bytes` is readable for its length.
        let sent = unsafe { libc::send(server, bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(usize::try_from(sent).unwrap(), bytes.len());
        self.turn();
    }

    fn answer(&self, bytes: usize) -> Vec<u8> {
        self.requests.read(ANSWER, bytes)
    }
}

#[test]
fn a_request_in_odd_parts_comes_whole_and_so_does_its_reply() {
    let mut rig = Rig::new();
    let asked = request(0xdead_beef, b"name\0");
    rig.requests.write(ASK, &asked[..7]);
    rig.requests.write(ASK + 0x1000, &asked[7..41]);
    rig.requests.write(ASK + 0x2000, &asked[41..]);
    rig.requests.offer(&[
        (ASK, 7, false),
        (ASK + 0x1000, 34, false),
        (ASK + 0x2000, 4, false),
        (ANSWER, 3, true),
        (ANSWER + 0x1000, 20, true),
    ]);
    rig.kick();
    let heard = rig.hear().unwrap();
    assert_eq!(heard.len(), asked.len());
    assert_eq!((&heard[..8], &heard[16..]), (&asked[..8], &asked[16..]));
    assert_ne!(number(&heard), 0xdead_beef, "the server is told a number of ours");
    assert!(rig.requests.used().is_empty());
    rig.say(&reply(number(&heard), b"here"));
    assert_eq!(rig.requests.used(), [(0, 20)]);
    let got = [rig.requests.read(ANSWER, 3), rig.requests.read(ANSWER + 0x1000, 17)].concat();
    assert_eq!(got, reply(0xdead_beef, b"here"));
    assert_ne!(rig.irq.reasons(), 0);
}

#[test]
fn a_slot_that_nobody_serves_answers_every_request_with_an_error_and_owes_nothing() {
    let mut rig = Rig::with(None, None);
    rig.ask(&request(7, b"name"), 64);
    rig.turn();
    assert_eq!(rig.requests.used(), [(0, REPLY_HEADER as u32)]);
    assert_eq!(rig.answer(REPLY_HEADER), message(REPLY_HEADER, -libc::EIO, 7, b""));
    assert_eq!(rig.device.owes(), 0);
}

#[test]
fn what_the_server_has_not_answered_is_owed() {
    let mut rig = Rig::new();
    rig.ask(&request(7, b"name"), 64);
    assert_eq!(rig.device.owes(), 1);
    let heard = rig.hear().unwrap();
    rig.say(&reply(number(&heard), b""));
    assert_eq!(rig.device.owes(), 0);
}

#[test]
fn replies_find_their_requests_in_any_order_even_of_one_number() {
    let mut rig = Rig::new();
    for room in [ANSWER, ANSWER + 0x1000] {
        rig.requests.write(ASK, &request(5, b""));
        rig.requests.offer(&[(ASK, REQUEST_HEADER as u32, false), (room, 64, true)]);
        rig.kick();
    }
    let [first, second] = [rig.hear().unwrap(), rig.hear().unwrap()];
    rig.say(&reply(number(&second), b"two"));
    rig.say(&reply(number(&first), b"one"));
    assert_eq!(rig.requests.used(), [(2, 19), (0, 19)]);
    assert_eq!(rig.requests.read(ANSWER, 19), reply(5, b"one"));
    assert_eq!(rig.requests.read(ANSWER + 0x1000, 19), reply(5, b"two"));
}

#[test]
fn what_wants_no_answer_comes_back_at_once() {
    let mut rig = Rig::new();
    rig.first.write(ASK, &request(0, &[0; 8]));
    rig.first.offer(&[(ASK, 48, false)]);
    rig.turn();
    assert_eq!(rig.first.used(), [(0, 0)]);
    let number = number(&rig.hear().unwrap());
    rig.say(&reply(number, b"thanks"));
    assert_eq!((rig.first.used().len(), rig.requests.used().len()), (1, 0));
}

#[test]
fn a_request_that_lies_about_its_length_gets_an_error_and_the_server_never_hears_of_it() {
    let mut rig = Rig::new();
    let short = message(REQUEST_HEADER - 1, 1, 9, &[0; REQUEST_HEADER - 17]);
    let long = message(MAX_MESSAGE + 1, 1, 9, &vec![0; MAX_MESSAGE + 1 - 16]);
    let less = message(REQUEST_HEADER, 1, 9, &[0; REQUEST_HEADER]);
    let more = message(REQUEST_HEADER + 1, 1, 9, &[0; REQUEST_HEADER - 16]);
    for lie in [&short, &long, &less, &more] {
        rig.ask(lie, 64);
        assert_eq!(rig.requests.used().last().unwrap().1, REPLY_HEADER as u32);
        assert_eq!(rig.answer(REPLY_HEADER), message(REPLY_HEADER, EIO, 9, b""));
    }
    rig.ask(&more, 15);
    assert_eq!(rig.requests.used().last().unwrap().1, 0, "there is no room for an error");
    assert_eq!(rig.hear(), None);
    assert!(!rig.irq.is_broken());
}

#[test]
fn the_longest_message_passes_both_ways() {
    let mut rig = Rig::new();
    rig.ask(&request(1, &vec![7; MAX_MESSAGE - REQUEST_HEADER]), MAX_MESSAGE as u32);
    let heard = rig.hear().unwrap();
    assert_eq!(heard.len(), MAX_MESSAGE);
    let sent = reply(number(&heard), &vec![8; MAX_MESSAGE - REPLY_HEADER]);
    rig.say(&sent);
    assert_eq!(rig.requests.used(), [(0, MAX_MESSAGE as u32)]);
    assert_eq!(rig.answer(MAX_MESSAGE)[16..], sent[16..]);
}

#[test]
fn a_reply_that_lies_is_an_error_to_the_guest_and_one_to_nobody_is_nothing() {
    let mut rig = Rig::new();
    let lies: [fn(u64) -> Vec<u8>; 4] = [
        |number| reply(number, &[1; 65]),
        |number| reply(number, &[1; MAX_MESSAGE]),
        |number| message(17, 0, number, b""),
        |number| message(16, 0, number, b"x"),
    ];
    for lie in lies {
        rig.ask(&request(3, b""), 64);
        let number = number(&rig.hear().unwrap());
        rig.say(&reply(number + 1, b"not asked for"));
        rig.say(b"short");
        let before = rig.requests.used().len();
        rig.say(&lie(number));
        assert_eq!(rig.requests.used().len(), before + 1);
        assert_eq!(rig.answer(REPLY_HEADER), message(REPLY_HEADER, EIO, 3, b""));
        assert_eq!(rig.answer(64)[REPLY_HEADER..], [0; 48], "nothing else was written");
        rig.say(&reply(number, b"again"));
        assert_eq!(rig.requests.used().len(), before + 1);
    }
}

#[test]
fn nothing_is_written_into_memory_for_a_driver_that_is_gone() {
    let mut rig = Rig::new();
    rig.ask(&request(3, b""), 64);
    let late = number(&rig.hear().unwrap());
    assert_eq!(rig.device.reset().len(), 2);
    rig.say(&reply(late, b"late"));
    assert_eq!(rig.answer(64), [0; 64]);

    rig.requests = Driver::at(0x8000, rig.memory.clone());
    rig.activate();
    rig.ask(&request(3, b""), 64);
    rig.say(&reply(late, b"later"));
    assert!(rig.requests.used().is_empty());
    let number = number(&rig.hear().unwrap());
    rig.say(&reply(number, b"now"));
    assert_eq!(rig.answer(19), reply(3, b"now"));
}

#[test]
fn requests_wait_in_their_queue_while_the_server_is_busy() {
    let mut rig = Rig::new();
    let whole = request(1, &vec![7; MAX_MESSAGE - REQUEST_HEADER]);
    rig.requests.write(ASK, &whole);
    for _ in 0..SIZE / 2 {
        rig.requests.offer(&[(ASK, MAX_MESSAGE as u32, false), (ANSWER, 64, true)]);
    }
    rig.kick();
    let mut heard = 0;
    while let Some(request) = rig.hear() {
        heard += 1;
        assert_eq!(request.len(), MAX_MESSAGE);
        if heard == 1 {
            assert!(rig.device.save_queues()[1].next[0] < SIZE / 2, "some of them wait");
        }
        // The socket has room again, and says so by itself.
        rig.turn();
    }
    assert_eq!(heard, SIZE / 2);
}

#[test]
fn a_guest_whose_server_is_gone_gets_errors_and_does_not_wait() {
    let mut rig = Rig::new();
    rig.ask(&request(3, b""), 64);
    drop(rig.server.take());
    rig.turn();
    assert_eq!(rig.requests.used(), [(0, REPLY_HEADER as u32)]);
    assert_eq!(rig.answer(REPLY_HEADER), message(REPLY_HEADER, EIO, 3, b""));
    rig.ask(&request(4, b""), 64);
    assert_eq!(rig.answer(REPLY_HEADER), message(REPLY_HEADER, EIO, 4, b""));
    assert!(!rig.irq.is_broken());
}

#[test]
fn a_chain_offered_again_and_again_breaks_the_device_and_not_the_host() {
    let mut rig = Rig::new();
    rig.ask(&request(3, b""), 64);
    for _ in 0..2 * SIZE {
        rig.requests.offer_head(0);
        rig.kick();
    }
    assert!(rig.irq.is_broken());
}

#[test]
fn the_driver_is_told_the_tag_and_one_queue_for_requests() {
    let config = Rig::new().device.config();
    assert_eq!(&config[..6], b"files\0");
    assert_eq!(config[36..], 1u32.to_le_bytes());
}
