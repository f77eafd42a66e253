//! A card in a machine of two vCPUs, and its driver.

use super::*;

/// Where the driver's words are, and the answer.
const SAID: u64 = DATA + 0x18_0000;

/// That of `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`.
const PAIRS: [u8; 2] = [4, 0];

struct Card {
    device: Net,
    event_loop: EventLoop,
    own: Vec<EventLoop>,
    kicks: Kicks,
    irq: Interrupt,
    memory: Memory,
    /// Towards the guest and from it, by pair, and the one for words.
    queues: [Driver; 5],
}

impl Card {
    fn new(state: NetState, wires: Wires) -> Self {
        let kicks = mmio::kicks(queue_sizes(2).len()).unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        let (about, limits) = ((MAC, 1500), Default::default());
        let (device, own) =
            Net::with(state, wires, limits, about, kicks.clone(), &mut event_loop).unwrap();
        let memory = memory();
        let queues = [0, 0x4000, 0x8000, 0xc000, DATA + 0x14_0000]
            .map(|base| Driver::at(base, memory.clone()));
        let irq = Interrupt::new().unwrap();
        let mut card = Self { device, event_loop, own, kicks, irq, memory, queues };
        card.device.activate(Live {
            memory: card.memory.clone(),
            irq: card.irq.clone(),
            acked_features: card.device.features(),
            queues: card.queues.iter().map(Driver::queue).collect(),
        });
        card
    }

    fn turn(&mut self) {
        self.kicks.iter().for_each(|kick| kick.write(1).unwrap());
        self.event_loop.turn().unwrap();
        self.own.iter().for_each(|own| own.turn().unwrap());
    }

    /// Says a word of the driver's, and hears the answer.
    fn say(&mut self, words: &[u8]) -> u8 {
        let words_queue = &mut self.queues[4];
        words_queue.write(SAID, words);
        words_queue.write(SAID + 0x100, &[9]);
        words_queue.offer(&[(SAID, words.len() as u32, false), (SAID + 0x100, 1, true)]);
        self.turn();
        self.queues[4].read(SAID + 0x100, 1)[0]
    }

    /// Sends a frame that begins with `first` by a pair's queue.
    fn send(&mut self, pair: usize, first: u8) {
        let queue = &mut self.queues[2 * pair + 1];
        queue.write(SENT, &[&[0; HEADER][..], &[first; 60]].concat());
        queue.offer(&[(SENT, HEADER as u32 + 60, false)]);
        self.turn();
    }
}

fn pretence() -> (Box<dyn Wire>, OwnedFd) {
    let [socket, other_end] = sockets();
    (Box::new(Pretence { socket, said: Arc::default() }), other_end)
}

/// The first byte of the frame that comes next.
fn heard(wire: &OwnedFd) -> Option<u8> {
    let mut bytes = [0; 200];
    receive(wire, &mut bytes).ok().filter(|length| *length > HEADER).map(|_| bytes[HEADER])
}

#[test]
fn a_machine_of_one_cpu_has_a_pair_and_none_has_more_than_there_can_be() {
    assert_eq!(queue_sizes(1).len(), 2);
    assert_eq!(queue_sizes(2).len(), 5);
    assert_eq!(queue_sizes(255).len(), 2 * MAX_PAIRS + 1);
}

#[test]
fn a_pair_is_served_once_the_driver_has_said_that_it_uses_it() {
    let (wire, other_end) = pretence();
    let mut card = Card::new(NetState::default(), Wires::One(wire));
    assert!(card.own.is_empty(), "what they have in common is one thread's");
    assert_eq!(card.device.config()[8..10], [2, 0]);
    card.send(0, 1);
    card.send(1, 2);
    assert_eq!((heard(&other_end), heard(&other_end)), (Some(1), None));
    let ok = card.say(&[PAIRS[0], PAIRS[1], 2, 0]);
    card.event_loop.turn().unwrap();
    assert_eq!((ok, heard(&other_end)), (0, Some(2)), "what waited is sent");
    assert_eq!(NetState::from_section(&card.device.save()).unwrap().pairs, 2);
    // Whoever sent it, an answer is brought by the first.
    card.queues[0].offer(&[(ROOM, 100, true)]);
    card.queues[2].offer(&[(ROOM, 100, true)]);
    // SAFETY: the frame is readable for its length.
    let sent = unsafe { libc::write(other_end.as_raw_fd(), [7_u8; 40].as_ptr().cast(), 40) };
    assert_eq!(sent, 40);
    card.turn();
    assert_eq!((card.queues[0].used().len(), card.queues[2].used().len()), (1, 0));
    assert_eq!(card.device.reset().len(), 5);
    assert_eq!(NetState::from_section(&card.device.save()).unwrap().pairs, 1);
}

#[test]
fn what_no_driver_can_mean_is_refused() {
    let (wire, other_end) = pretence();
    let mut card = Card::new(NetState::default(), Wires::One(wire));
    for words in [&[4, 0, 0, 0][..], &[4, 0, 3, 0], &[4, 1, 2, 0], &[0, 0, 2, 0], &[4, 0, 2]] {
        assert_eq!(card.say(words), 1, "{words:?}");
    }
    card.send(1, 2);
    assert_eq!(heard(&other_end), None);
    assert!(!card.irq.is_broken());
    // Nor is it believed of one that was saved.
    let (wire, _other_end) = pretence();
    let state = NetState { known_link: Some(true), pairs: 700 };
    let card = Card::new(state, Wires::One(wire));
    assert_eq!(NetState::from_section(&card.device.save()).unwrap().pairs, 2);
}

#[test]
fn pairs_with_wires_of_their_own_are_served_apart() {
    let ([one, two], ends): ([_; 2], [_; 2]) = {
        let [(one, first), (two, second)] = [pretence(), pretence()];
        ([one, two], [first, second])
    };
    let state = NetState { known_link: Some(true), pairs: 2 };
    let mut card = Card::new(state, Wires::Each(vec![one, two]));
    assert_eq!(card.own.len(), 1, "the first is served with all else");
    card.send(0, 1);
    card.send(1, 2);
    assert_eq!(ends.each_ref().map(heard), [Some(1), Some(2)]);
    card.queues[2].offer(&[(ROOM, 100, true)]);
    // SAFETY: the frame is readable for its length.
    let sent = unsafe { libc::write(ends[1].as_raw_fd(), [7_u8; 40].as_ptr().cast(), 40) };
    assert_eq!(sent, 40);
    card.turn();
    assert_eq!((card.queues[0].used().len(), card.queues[2].used().len()), (0, 1));
    // Another wire takes the place of all of them.
    let (wire, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
    card.device.slot(0).plug(Some(Plug::Stream(wire.into()))).unwrap();
    card.send(1, 3);
    let mut got = [0; 64];
    io::Read::read_exact(&mut peer, &mut got).unwrap();
    assert_eq!(got[4..], [3; 60]);
}
