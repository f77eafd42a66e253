//! A network card (virtio 1.2, 5.1) whose wire is a tap of the host's kernel, or a socket of a network stack in
//! user space.
//!
//! A slot is plugged whether it holds a card or not: in an empty one the link is down, and what a driver sends is
//! lost. A driver reads address and longest packet once, when it starts; one that was saved with an empty slot
//! and finds a card in it is told of the link alone, and hears the rest from whoever sets it up. So is one whose slot
//! gets a wire, or loses it, while it runs ([`Slot`]).
//!
//! In a machine of several vCPUs a card has a pair of queues for each, and a driver uses as many of them as it says
//! ([`Pairs`]). A card at a tap with as many queues has a thread for each pair but the first, which is served on the
//! event loop like all that a machine of one vCPU has. At any other wire one for all of them does: each pair sends
//! by it, and what comes is brought by the first.
//!
//! What of frames is left to the other side goes through as it is: a checksum that is not filled in, a frame
//! that is to be cut into segments. A wire that cannot do that loses such a frame, and whoever sets up the guest's
//! interface says so there. UFO is not offered, because Linux itself has given it up but for guests
//! that were moved with it.

mod core;
mod pairs;
mod shared;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

pub(crate) use self::core::{HEADER, MAX_FRAME, Offloads, Wire};
use self::pairs::Pairs;
use self::stream::Stream;
use self::tap::Tap;
pub(crate) use self::worker::QUEUES;
use self::worker::Worker;
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::spec::{Limits, MAX_PAIRS};
use crate::sync::lock;
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};
use crate::virtio::limiter::Gate;

/// `virtio-net` in the list of device types (chapter 5).
const DEVICE_NET: u32 = 1;

/// The queues of a slot in a machine with so many vCPUs: for each a queue towards the guest and one from it, as far as
/// they go, and behind those of several vCPUs the one by which the driver says how many it uses (5.1.2).
pub fn queue_sizes(vcpus: u8) -> &'static [u16] {
    const SIZES: [u16; QUEUES * MAX_PAIRS + 1] = [256; QUEUES * MAX_PAIRS + 1];
    match usize::from(vcpus).clamp(1, MAX_PAIRS) {
        1 => &SIZES[..QUEUES],
        pairs => &SIZES[..QUEUES * pairs + 1],
    }
}

/// What the driver may leave to us, and we to it (5.1.3).
mod feature {
    use virtio_bindings::virtio_net as net;

    pub(super) const CSUM: u64 = 1 << net::VIRTIO_NET_F_CSUM;
    pub(super) const GUEST_CSUM: u64 = 1 << net::VIRTIO_NET_F_GUEST_CSUM;
    pub(super) const MTU: u64 = 1 << net::VIRTIO_NET_F_MTU;
    pub(super) const MAC: u64 = 1 << net::VIRTIO_NET_F_MAC;
    pub(super) const GUEST_TSO4: u64 = 1 << net::VIRTIO_NET_F_GUEST_TSO4;
    pub(super) const GUEST_TSO6: u64 = 1 << net::VIRTIO_NET_F_GUEST_TSO6;
    pub(super) const GUEST_ECN: u64 = 1 << net::VIRTIO_NET_F_GUEST_ECN;
    pub(super) const HOST_TSO4: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO4;
    pub(super) const HOST_TSO6: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO6;
    pub(super) const HOST_ECN: u64 = 1 << net::VIRTIO_NET_F_HOST_ECN;
    pub(super) const MRG_RXBUF: u64 = 1 << net::VIRTIO_NET_F_MRG_RXBUF;
    pub(super) const STATUS: u64 = 1 << net::VIRTIO_NET_F_STATUS;
    pub(super) const CTRL_VQ: u64 = 1 << net::VIRTIO_NET_F_CTRL_VQ;
    pub(super) const MQ: u64 = 1 << net::VIRTIO_NET_F_MQ;
}

/// `VIRTIO_NET_S_LINK_UP` in the configuration space.
const LINK_UP: u16 = 1;

/// Why a slot has no wire.
#[derive(Debug, thiserror::Error)]
pub enum OpenWireError {
    /// The descriptor is something else, or a tap of another kind.
    #[error(
        "network slot {slot}: the descriptor is no tap with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    NotATap {
        /// Which slot.
        slot: usize,
    },
    /// The kernel refused, or the event loop has no room.
    #[error("network slot {slot}: {source}")]
    Io {
        /// Which slot.
        slot: usize,
        /// What it said.
        source: io::Error,
    },
}

/// What a card is plugged into, as [`crate::spec::WireSpec`] describes it.
#[derive(Debug)]
pub enum Plug {
    /// A tap, or the queues of one.
    Tap(Vec<OwnedFd>),
    /// A stream socket.
    Stream(OwnedFd),
}

/// What the pairs of a card's queues are at.
pub(crate) enum Wires {
    /// Nothing.
    None,
    /// The same for all of them.
    One(Box<dyn Wire>),
    /// Each at its own.
    Each(Vec<Box<dyn Wire>>),
}

type MaybeWire = Option<Box<dyn Wire>>;

impl Wires {
    fn of(plug: Plug, slot: usize) -> Result<Self, OpenWireError> {
        let queues = match plug {
            Plug::Stream(socket) => return Ok(Self::One(Box::new(Stream::new(socket)))),
            Plug::Tap(queues) => queues.into_iter(),
        };
        let wire =
            |queue| Ok::<_, OpenWireError>(Box::new(Tap::new(queue, slot)?) as Box<dyn Wire>);
        Ok(Self::Each(queues.map(wire).collect::<Result<_, _>>()?))
    }

    /// One for each of `pairs`, and whether no two have anything in common.
    fn for_each(self, pairs: usize) -> io::Result<(Vec<MaybeWire>, bool)> {
        let one = match self {
            Self::None => None,
            Self::Each(wires) if wires.len() == pairs => {
                return Ok((wires.into_iter().map(Some).collect(), true));
            }
            Self::Each(wires) => wires.into_iter().next(),
            Self::One(wire) => Some(wire),
        };
        match (one, pairs) {
            (None, _) => Ok(((0..pairs).map(|_| None).collect(), false)),
            (one, 1) => Ok((vec![one], false)),
            (Some(one), _) => {
                Ok((shared::share(one, pairs)?.into_iter().map(Some).collect(), false))
            }
        }
    }
}

/// What is in a slot.
#[derive(Debug)]
pub struct Card {
    /// Its wire.
    pub plug: Plug,
    /// Its address.
    pub mac: [u8; 6],
    /// The longest packet without Ethernet's header.
    pub mtu: u16,
    /// How fast it may be towards the guest, and from it.
    pub limits: [Limits; QUEUES],
}

/// What a slot remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Whether the driver believes the link to be up, if it was told.
    known_link: Option<bool>,
    /// How many pairs of queues it uses: one, until it says how many.
    pairs: u16,
}

impl Default for NetState {
    fn default() -> Self {
        Self { known_link: None, pairs: 1 }
    }
}

impl State for NetState {
    const KIND: &'static str = "virtio-net";
    const VERSION: u16 = 2;
}

/// The device.
pub struct Net {
    workers: Vec<Arc<Mutex<Worker>>>,
    pairs: Arc<Mutex<Pairs>>,
    queue_sizes: &'static [u16],
    mac: [u8; 6],
    mtu: u16,
    state: NetState,
}

/// Where a card's wire is, for whoever plugs another.
pub struct Slot {
    number: usize,
    workers: Vec<Arc<Mutex<Worker>>>,
}

impl Slot {
    /// Puts a wire in the place of what is there, or none: the driver hears that the link is up, or down. Neither its
    /// limits nor what the driver has found as address and longest packet are others than before.
    pub fn plug(&self, plug: Option<Plug>) -> Result<(), OpenWireError> {
        let slot = self.number;
        let io = |source| OpenWireError::Io { slot, source };
        let wires = plug.map_or(Ok(Wires::None), |plug| Wires::of(plug, slot))?;
        let (wires, _) = wires.for_each(self.workers.len()).map_err(io)?;
        let mut workers = self.workers.iter().zip(wires);
        workers.try_for_each(|(worker, wire)| lock(worker).plug(wire)).map_err(io)
    }
}

impl Net {
    /// Slot `slot` as `state` left it, with `card` in it and as many queues as `kicks`. What threads of its own have
    /// to turn comes with it.
    pub fn new(
        state: NetState,
        slot: usize,
        card: Option<Card>,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> Result<(Self, Vec<EventLoop>), OpenWireError> {
        let (mac, mtu, wires, limits) = match card {
            // Any packet fits an empty slot: Linux takes what it finds here for the most there can ever be.
            None => ([2, 0, 0, 0, 0, slot as u8], u16::MAX, Wires::None, Default::default()),
            Some(Card { plug, mac, mtu, limits }) => (mac, mtu, Wires::of(plug, slot)?, limits),
        };
        Self::with(state, wires, limits, (mac, mtu), kicks, event_loop)
            .map_err(|source| OpenWireError::Io { slot, source })
    }

    /// The same with any wires, an address and the longest packet.
    pub(crate) fn with(
        state: NetState,
        wires: Wires,
        limits: [Limits; QUEUES],
        (mac, mtu): ([u8; 6], u16),
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> io::Result<(Self, Vec<EventLoop>)> {
        let gates = limits.map(|limits| Gate::new(&limits).map(Arc::new));
        let (wires, apart) = wires.for_each((kicks.len() / QUEUES).max(1))?;
        let (mut workers, mut own) = (Vec::with_capacity(wires.len()), Vec::new());
        for (pair, wire) in wires.into_iter().enumerate() {
            let mut new_loop = if apart && pair > 0 { Some(EventLoop::new()?) } else { None };
            let event_loop = new_loop.as_mut().unwrap_or(event_loop);
            let (gates, kicks) = (gates.clone(), kicks.clone());
            let worker =
                event_loop.subscribe(|watch| Worker::new(pair, wire, gates, kicks, watch))?;
            workers.push(worker);
            own.extend(new_loop);
        }
        // What no driver can have said is not believed.
        let used = state.pairs.clamp(1, workers.len() as u16);
        let queue_sizes = queue_sizes(workers.len() as u8);
        let pairs = Pairs::new(workers.clone(), kicks, used, event_loop)?;
        Ok((Self { workers, pairs, queue_sizes, mac, mtu, state }, own))
    }

    /// Its slot, which has this number.
    pub fn slot(&self, number: usize) -> Slot {
        Slot { number, workers: self.workers.clone() }
    }

    fn link(&self) -> bool {
        self.workers.first().is_some_and(|first| lock(first).has_wire())
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        DEVICE_NET
    }

    /// The same whatever is in the slot: a driver that has agreed to them goes on with another card.
    fn features(&self) -> u64 {
        let several = if self.workers.len() > 1 { feature::CTRL_VQ | feature::MQ } else { 0 };
        FEATURE_VERSION_1
            | FEATURE_EVENT_IDX
            | FEATURE_INDIRECT
            | feature::CSUM
            | feature::GUEST_CSUM
            | feature::MTU
            | feature::MAC
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::GUEST_ECN
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_ECN
            | feature::MRG_RXBUF
            | feature::STATUS
            | several
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.queue_sizes
    }

    /// `struct virtio_net_config` up to `mtu` (5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::from(self.mac);
        config.extend(if self.link() { LINK_UP } else { 0 }.to_le_bytes());
        config.extend((self.workers.len() as u16).to_le_bytes());
        config.extend(self.mtu.to_le_bytes());
        config
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        let link = self.link();
        if self.state.known_link.is_some_and(|known| known != link) {
            live.irq.config();
        }
        self.state.known_link = Some(link);
        let Live { memory, irq, acked_features, queues } = live;
        let mut queues = queues.into_iter();
        for worker in &self.workers {
            let queues = queues.by_ref().take(QUEUES).collect();
            let (memory, irq) = (memory.clone(), irq.clone());
            lock(worker).start(Live { memory, irq, acked_features, queues });
        }
        if let Some(last) = queues.next() {
            lock(&self.pairs).start(memory, irq, last);
        }
    }

    fn reset(&mut self) -> Vec<Queue> {
        self.state = NetState::default();
        let mut pairs = lock(&self.pairs);
        let lives = self.workers.iter().filter_map(|worker| lock(worker).stop());
        let queues = lives.flat_map(|live| live.queues).chain(pairs.stop()).collect();
        pairs.set_used(self.state.pairs);
        queues
    }

    /// A frame may be lost on any wire.
    fn owes(&self) -> usize {
        0
    }

    fn save(&self) -> Section {
        // What became of the link since, it was told.
        let known_link = self.state.known_link.map(|_| self.link());
        NetState { known_link, pairs: lock(&self.pairs).used() }.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        let saved =
            |worker: &Arc<Mutex<Worker>>| lock(worker).live().map_or(vec![], Live::saved_queues);
        let last = lock(&self.pairs).saved_queue();
        self.workers.iter().flat_map(saved).chain(last).collect()
    }
}
