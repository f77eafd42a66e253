//! Network cards.

use serde::{Deserialize, Serialize};

use super::{Inherited, Limits, MIN_MTU, SpecError};

/// The most pairs of queues that a network card has.
pub const MAX_PAIRS: usize = 8;

/// What is behind a network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireSpec {
    /// A tap, opened for reading and writing, with `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`. With
    /// `IFF_MULTI_QUEUE` it is the queues of one, each a descriptor: as many as the machine has vCPUs, [`MAX_PAIRS`]
    /// at most.
    Tap(Vec<Inherited>),
    /// A connected `SOCK_STREAM` socket to a network stack in user space, with each frame behind its length in
    /// four bytes, the highest first. Nothing of a frame can be left to that stack to do: what a guest leaves to
    /// it is lost.
    Stream(Inherited),
}

impl WireSpec {
    pub(super) fn descriptors(&self) -> &[Inherited] {
        match self {
            Self::Tap(queues) => queues,
            Self::Stream(socket) => std::slice::from_ref(socket),
        }
    }
}

/// A card in a network slot: a virtio-net device and the wire behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// Its wire.
    pub wire: WireSpec,
    /// What a driver that starts finds as its own address.
    pub mac: [u8; 6],
    /// What it finds as the longest packet, without Ethernet's header.
    pub mtu: u16,
    /// How fast frames come to the guest. Those that have to wait do so in the wire, as far as that has room.
    #[serde(default)]
    pub to_guest: Limits,
    /// And how fast they leave it. Those that have to wait stay in its queue.
    #[serde(default)]
    pub from_guest: Limits,
}

impl NetSpec {
    /// Finds what no card in slot `slot` can be, with a tap of one queue or of so many.
    pub(super) fn check(&self, slot: usize, most: usize) -> Result<(), SpecError> {
        let Self { wire, mac, mtu, to_guest, from_guest } = self;
        if let WireSpec::Tap(queues) = wire
            && ![1, most].contains(&queues.len())
        {
            return Err(SpecError::TapQueues { slot, queues: queues.len(), most });
        }
        if to_guest.are_shut() || from_guest.are_shut() {
            return Err(SpecError::NetRate { slot });
        }
        // The lowest bit of the first byte is that of a group, which nobody is.
        if mac[0] & 1 != 0 || *mac == [0; 6] {
            return Err(SpecError::Mac { slot });
        }
        if *mtu < MIN_MTU {
            return Err(SpecError::Mtu { slot, mtu: *mtu });
        }
        Ok(())
    }
}
