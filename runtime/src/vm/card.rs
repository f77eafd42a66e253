//! A VM's network cards.

use std::os::fd::OwnedFd;

use vmm::spec::{Limits, NetSpec, WireSpec};

use super::inherited;

/// What is behind a network card.
#[derive(Debug)]
pub(crate) enum Wire {
    /// A tap with headers for offloads: its queues.
    Tap(Vec<OwnedFd>),
    /// A socket to a network stack in user space, for packets that are finished.
    Stream(OwnedFd),
}

/// A network card and the wire it is at.
#[derive(Debug)]
pub(crate) struct Card {
    /// Its wire.
    pub(crate) wire: Wire,
    /// Its address.
    pub(crate) mac: [u8; 6],
    /// The longest packet.
    pub(crate) mtu: u16,
    /// How fast frames come to the guest, and leave it.
    pub(crate) to_guest: Limits,
    pub(crate) from_guest: Limits,
}

/// The network slots of a template: an interface more is refused.
pub(crate) const NETWORK_SLOTS: usize = 4;

/// A slot for each card, and with `has_every_slot` the empty ones.
pub(super) fn specs(cards: &[Card], has_every_slot: bool) -> Vec<Option<NetSpec>> {
    let net = |card: &Card| NetSpec {
        wire: match &card.wire {
            Wire::Tap(queues) => WireSpec::Tap(queues.iter().map(inherited).collect()),
            Wire::Stream(socket) => WireSpec::Stream(inherited(socket)),
        },
        mac: card.mac,
        mtu: card.mtu,
        to_guest: card.to_guest,
        from_guest: card.from_guest,
    };
    let mut nets: Vec<_> = cards.iter().map(|card| Some(net(card))).collect();
    if has_every_slot {
        nets.resize(NETWORK_SLOTS, None);
    }
    nets
}
