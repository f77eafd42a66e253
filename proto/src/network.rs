//! The guest's network as its host has it.
//!
//! A host that has an interface for the guest puts a card into a network slot of the machine's, and says here
//! what the guest's end of it is like. Numbers are those of rtnetlink(7).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Interfaces, and where they lead. The loopback is there in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// One for each slot that has a card.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// In an order in which each gateway can be reached by those before it.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Those whose addresses nobody has to ask for.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
}

impl Network {
    /// What is in a slot.
    pub fn interface(&self, slot: u8) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.slot == slot)
    }

    /// There is nothing but the loopback.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Which of the machine's network slots, counted from 0.
    pub slot: u8,
    /// What the guest calls it.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The longest packet.
    pub mtu: u32,
    /// What leaves by it is left to nobody to finish: its checksums are filled in, and no packet is to be cut
    /// into segments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
    /// Its addresses, the first one first.
    #[serde(default)]
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of it that its network has in common.
    pub prefix: u8,
    /// Who is at the other end, of a line that has two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Whom all listen to, in IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<IpAddr>,
    /// Where it means something (`RT_SCOPE_*`).
    #[serde(default)]
    pub scope: u8,
    /// Its network is not reached by having it.
    #[serde(default)]
    pub no_route: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; of no bits, everywhere.
    pub destination: IpAddr,
    /// Bits of that which count.
    pub prefix: u8,
    /// The slot of the interface that it goes over.
    pub slot: u8,
    /// Through whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// From which of our addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The less, the better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// How far it is (`RT_SCOPE_*`).
    #[serde(default)]
    pub scope: u8,
    /// The gateway is on the link, whatever the addresses say.
    #[serde(default)]
    pub on_link: bool,
}

/// Who has an address on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The slot of the interface that he is reached by.
    pub slot: u8,
    /// His address.
    pub ip: IpAddr,
    /// The address of his interface.
    pub mac: [u8; 6],
}
