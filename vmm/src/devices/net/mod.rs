//! A network card (virtio 1.2, 5.1) whose wire is a tap of the host's kernel, or a socket of a network stack in
//! user space.
//!
//! A slot is plugged whether it holds a card or not: in an empty one the link is down, and what a driver sends is
//! lost. A driver reads address and longest packet once, when it starts; one that was saved with an empty slot
//! and finds a card in it is told of the link alone, and hears the rest from whoever sets it up. So is one whose slot
//! gets a wire, or loses it, while it runs ([`Slot`]).
//!
//! What of frames is left to the other side goes through as it is: a checksum that is not filled in, a frame
//! that is to be cut into segments. A wire that cannot do that loses such a frame, and whoever sets up the guest's
//! interface says so there. UFO is not offered, because Linux itself has given it up but for guests
//! that were moved with it.

mod core;
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
use self::stream::Stream;
use self::tap::Tap;
use self::worker::Worker;
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::spec::Limits;
use crate::sync::lock;
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};

/// `virtio-net` in the list of device types (chapter 5).
const DEVICE_NET: u32 = 1;

/// The queue towards the guest, and the one from it (5.1.2).
pub const QUEUE_SIZES: &[u16] = &[256; worker::QUEUES];

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
}

/// `VIRTIO_NET_S_LINK_UP` in the configuration space.
const LINK_UP: u16 = 1;

/// Pairs of queues.
const QUEUE_PAIRS: u16 = 1;

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
    /// A tap.
    Tap(OwnedFd),
    /// A stream socket.
    Stream(OwnedFd),
}

impl Plug {
    fn wire(self, slot: usize) -> Result<Box<dyn Wire>, OpenWireError> {
        Ok(match self {
            Self::Tap(tap) => Box::new(Tap::new(tap, slot)?),
            Self::Stream(socket) => Box::new(Stream::new(socket)),
        })
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
    pub limits: [Limits; worker::QUEUES],
}

/// What a slot remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Whether the driver believes the link to be up, if it was told.
    known_link: Option<bool>,
}

impl State for NetState {
    const KIND: &'static str = "virtio-net";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Net {
    worker: Arc<Mutex<Worker>>,
    mac: [u8; 6],
    mtu: u16,
    state: NetState,
}

/// Where a card's wire is, for whoever plugs another.
pub struct Slot {
    number: usize,
    worker: Arc<Mutex<Worker>>,
}

impl Slot {
    /// Puts a wire in the place of what is there, or none: the driver hears that the link is up, or down. Neither its
    /// limits nor what the driver has found as address and longest packet are others than before.
    pub fn plug(&self, plug: Option<Plug>) -> Result<(), OpenWireError> {
        let slot = self.number;
        let wire = plug.map(|plug| plug.wire(slot)).transpose()?;
        lock(&self.worker).plug(wire).map_err(|source| OpenWireError::Io { slot, source })
    }
}

impl Net {
    /// Slot `slot` as `state` left it, with `card` in it.
    pub fn new(
        state: NetState,
        slot: usize,
        card: Option<Card>,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> Result<Self, OpenWireError> {
        let (mac, mtu, wire, limits) = match card {
            // Any packet fits an empty slot: Linux takes what it finds here for the most there can ever be.
            None => ([2, 0, 0, 0, 0, slot as u8], u16::MAX, None, Default::default()),
            Some(Card { plug, mac, mtu, limits }) => (mac, mtu, Some(plug.wire(slot)?), limits),
        };
        Self::with(state, wire, limits, (mac, mtu), kicks, event_loop)
            .map_err(|source| OpenWireError::Io { slot, source })
    }

    /// The same with any wire, an address and the longest packet.
    pub(crate) fn with(
        state: NetState,
        wire: Option<Box<dyn Wire>>,
        limits: [Limits; worker::QUEUES],
        (mac, mtu): ([u8; 6], u16),
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> io::Result<Self> {
        let worker = event_loop.subscribe(|watch| Worker::new(wire, limits, kicks, watch))?;
        Ok(Self { worker, mac, mtu, state })
    }

    /// Its slot, which has this number.
    pub fn slot(&self, number: usize) -> Slot {
        Slot { number, worker: self.worker.clone() }
    }

    fn link(&self) -> bool {
        lock(&self.worker).has_wire()
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        DEVICE_NET
    }

    /// The same whatever is in the slot: a driver that has agreed to them goes on with another card.
    fn features(&self) -> u64 {
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
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// `struct virtio_net_config` up to `mtu` (5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::from(self.mac);
        config.extend(if self.link() { LINK_UP } else { 0 }.to_le_bytes());
        config.extend(QUEUE_PAIRS.to_le_bytes());
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
        lock(&self.worker).start(live);
    }

    fn reset(&mut self) -> Vec<Queue> {
        self.state = NetState::default();
        lock(&self.worker).stop().map_or(vec![], |live| live.queues)
    }

    /// A frame may be lost on any wire.
    fn owes(&self) -> usize {
        0
    }

    fn save(&self) -> Section {
        // What became of the link since, it was told.
        let known_link = self.state.known_link.map(|_| self.link());
        NetState { known_link }.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        lock(&self.worker).live().map_or(vec![], Live::saved_queues)
    }
}
