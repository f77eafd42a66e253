//! What a network is, and a place on one: names and addresses, which follow from each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::super::passt;
use super::ports::Port;
use super::{NONE, Newcomer};

/// Bits that a network's guests have in common in IPv6.
pub(super) const PREFIX6: u8 = 64;

/// The longest name: a bridge's, which begins with `mv-`, has 15 characters.
const MAX_NAME: usize = 12;

/// How the names of guests' taps begin.
pub(super) const TAP: &str = "mt";

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    /// Its name.
    pub(crate) name: String,
    /// Its first IPv4 address, which is nobody's.
    pub(crate) subnet: Ipv4Addr,
    /// Bits of that which its guests have in common.
    pub(crate) prefix: u8,
    /// What it is called in IPv6.
    pub(crate) number: u8,
}

/// A name or subnet of no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadNetwork {
    /// The name.
    #[error(
        "network {0:?}: a name has 1 to {MAX_NAME} letters, digits, - and _, and is not none, host or passt"
    )]
    Name(String),
    /// The subnet.
    #[error("--subnet {0:?} is not an IPv4 network like 10.1.2.0/24 of 16 to 29 bits")]
    Subnet(String),
}

impl Network {
    pub(super) fn numbered(name: &str, number: u8) -> Self {
        let subnet = Ipv4Addr::new(10, 190, number, 0);
        Self { name: name.to_owned(), subnet, prefix: 24, number }
    }

    /// What its bridge is called.
    pub(crate) fn bridge(&self) -> String {
        format!("mv-{}", self.name)
    }

    /// The host's address on it.
    pub(super) fn gateway4(&self) -> Ipv4Addr {
        self.host4(1)
    }

    /// The host's address on it in IPv6.
    pub(super) fn gateway6(&self) -> Ipv6Addr {
        self.host6(1)
    }

    /// Its first address in IPv6.
    pub(super) fn subnet6(&self) -> Ipv6Addr {
        self.host6(0)
    }

    pub(super) fn host4(&self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.to_bits() + host)
    }

    fn host6(&self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd4d, 0x5600, self.number.into(), 0, 0, 0, 0, host)
    }

    /// Those of its numbers that guests can have: not the first, the host's and the one for all.
    pub(super) fn hosts(&self) -> std::ops::Range<u16> {
        let hosts = 1u32 << (32 - u32::from(self.prefix));
        2..u16::try_from(hosts - 1).unwrap_or(u16::MAX)
    }

    fn has(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - u32::from(self.prefix));
        (self.subnet.to_bits() ^ address.to_bits()) & mask == 0
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.has(other.subnet) || other.has(self.subnet)
    }

    /// Its IPv4 addresses, as people write them.
    pub(crate) fn words(&self) -> String {
        format!("{}/{}", self.subnet, self.prefix)
    }
}

/// Somebody's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// What others call him.
    pub(crate) name: String,
    /// His tap.
    pub(super) tap: String,
    /// His interface's address.
    pub(super) mac: [u8; 6],
    /// His address.
    pub(crate) ip4: Ipv4Addr,
    /// And in IPv6.
    pub(crate) ip6: Ipv6Addr,
    /// What of him can be reached.
    pub(super) ports: Vec<Port>,
}

impl Lease {
    pub(super) fn new(network: &Network, host: u16, newcomer: &Newcomer) -> Self {
        let ip4 = network.host4(host.into());
        let [a, b, c, d] = ip4.octets();
        let id: String = newcomer.id.chars().take(12).collect();
        Self {
            name: newcomer.name.clone(),
            tap: format!("{TAP}{id}"),
            mac: [2, b'M', a, b, c, d],
            ip4,
            ip6: network.host6(host),
            ports: newcomer.ports.clone(),
        }
    }

    /// The file that stands for him among those of networks.
    pub(super) fn file(&self, network: &str) -> String {
        format!("{network}@{}", self.ip4)
    }

    /// By which addresses he is known by these names.
    pub(super) fn known_as(&self, names: &str) -> [(IpAddr, String); 2] {
        [(self.ip4.into(), names.to_owned()), (self.ip6.into(), names.to_owned())]
    }

    /// The address that an interface gives itself (RFC 4291, appendix A).
    pub(super) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let word = |high, low| u16::from_be_bytes([high, low]);
        let own = [word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f)];
        Ipv6Addr::new(0xfe80, 0, 0, 0, own[0], own[1], own[2], own[3])
    }
}

pub(super) fn is_name(word: &str) -> bool {
    // What these words mean is decided.
    const TAKEN: [&str; 3] = [NONE, passt::NAME, "host"];
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME).contains(&word.len()) && word.bytes().all(is_fit) && !TAKEN.contains(&word)
}

pub(super) fn parse_subnet(word: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = word.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let is_first = (16..=29).contains(&prefix) && address.to_bits() << prefix == 0;
    is_first.then_some((address, prefix))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in super::super) fn network(name: &str) -> Network {
        Network::numbered(name, 7)
    }

    pub(in super::super) fn newcomer(name: &str) -> Newcomer {
        Newcomer {
            network: "town".into(),
            id: format!("{:0<64}", name.replace(|it: char| !it.is_ascii_hexdigit(), "0")),
            name: name.into(),
            hostname: "box".into(),
            ports: vec![],
            names: Default::default(),
            to_guest: Default::default(),
            from_guest: Default::default(),
        }
    }

    pub(in super::super) fn lease(host: u16) -> Lease {
        let mut newcomer = newcomer(&format!("c{host}"));
        newcomer.id = format!("{host:012x}");
        Lease::new(&network("town"), host, &newcomer)
    }
}
