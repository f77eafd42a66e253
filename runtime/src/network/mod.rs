//! The network that a VM is on: what is found in a network namespace, carried into the guest, a place on one
//! of our own ([`own`]), or for those who are not root a network stack in user space ([`passt`]).
//!
//! ```text
//!   world ── eth0 (veth, macvlan, …) ══ redirected both ways ══ tap ── VMM ── the guest's eth0
//!            └────────────── a network namespace ─────────────┘
//! ```
//!
//! Whatever comes in by an interface goes out by its tap, and the other way round; nobody in the namespace sees
//! it. The guest's interface has the name, addresses and routes that were found there
//! (`docs/adr/0013-frames-are-redirected.md`).

mod carried;
mod names;
pub(crate) mod own;
mod passt;
mod survey;
mod tap;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use netlink::{Errno, tables};
use proto::network::{Address, Interface, Network, Route};
use proto::spec::Mount;

pub(crate) use self::carried::{Carried, Changes, carry, clear};
pub(crate) use self::names::Names;
pub(crate) use self::own::{Introductions, Peers};
use self::own::{Newcomer, Registry};
pub(crate) use self::survey::SurveyError;
use crate::vm::{Card, Wire};

/// Why there is no network for a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// What is there cannot be carried.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// To do what.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// What is written about networks of our own.
    #[error(transparent)]
    Registry(#[from] own::RegistryError),
    /// The network stack in user space does not begin.
    #[error("passt: {0}")]
    Passt(String),
    /// Somebody else is there already.
    #[error("interface {name} is another VM's already: a network namespace has room for one")]
    Taken {
        /// The interface.
        name: String,
    },
}

fn refused(what: impl Into<String>) -> impl FnOnce(Errno) -> NetworkError {
    let what = what.into();
    move |errno| NetworkError::Refused { what, source: errno.into() }
}

/// What a VM is given of a network.
#[derive(Debug, Default)]
pub(crate) struct Wiring {
    /// The machine's cards, one for each slot.
    pub(crate) cards: Vec<Card>,
    /// What its guest is told about them.
    pub(crate) network: Network,
    /// What was done for them.
    pub(crate) held: Held,
}

/// What a guest's interface is called where nobody else has given it a name.
const INTERFACE: &str = "eth0";

/// An address of a guest's, the bits of it that its network has in common, and its way to everywhere else.
type Home = (IpAddr, u8, IpAddr);

impl Wiring {
    /// Of a VM with one card at this wire, with this address and longest packet.
    fn of_one(
        newcomer: &Newcomer,
        wire: Wire,
        (mac, mtu): ([u8; 6], u16),
        homes: &[Home],
        held: Held,
    ) -> Self {
        let address = |&(ip, prefix, _): &Home| Address {
            ip,
            prefix,
            peer: None,
            broadcast: None,
            scope: 0,
            no_route: false,
        };
        let way_out = |&(_, _, gateway): &Home| Route {
            destination: match gateway {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            prefix: 0,
            slot: 0,
            gateway: Some(gateway),
            source: None,
            metric: None,
            scope: 0,
            on_link: false,
        };
        let interface = Interface {
            slot: 0,
            name: INTERFACE.to_owned(),
            mac,
            mtu: mtu.into(),
            finished: matches!(wire, Wire::Stream(_)),
            addresses: homes.iter().map(address).collect(),
        };
        let routes = homes.iter().map(way_out).collect();
        let &Newcomer { to_guest, from_guest, .. } = newcomer;
        Self {
            cards: vec![Card { wire, mac, mtu, to_guest, from_guest }],
            network: Network { interfaces: vec![interface], routes, neighbours: vec![] },
            held,
        }
    }
}

/// What was done on the host for a VM's network, and is undone when this is dropped.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "dropping it is what it is for")]
pub(crate) enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// Frames are redirected in a network namespace.
    Carried(Carried),
    /// It has a place on a network of our own.
    Place(own::Place),
    /// A network stack of its own runs for it.
    Stack(passt::Stack),
}

impl Held {
    /// What can be followed of it in a VM that has free slots or has none.
    pub(crate) fn followed(&mut self, has_free_slots: bool) -> Option<Followed<'_>> {
        match self {
            Self::Carried(carried) if has_free_slots => Some(Followed::Carried(carried)),
            Self::Place(place) => place.peers().map(Followed::Peers),
            Self::Nothing | Self::Carried(_) | Self::Stack(_) => None,
        }
    }
}

/// What becomes of a VM's network while it runs.
#[derive(Debug)]
pub(crate) enum Followed<'a> {
    /// Interfaces, addresses and routes of a network namespace.
    Carried(&'a mut Carried),
    /// Who else is on a network of our own.
    Peers(&'a mut Peers),
}

impl AsFd for Followed<'_> {
    /// Readable when something may have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Carried(carried) => carried.as_fd(),
            Self::Peers(peers) => peers.as_fd(),
        }
    }
}

/// Why a container of which nothing is said is on no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// For whoever is not root.
    #[error("passt is not installed (Debian package passt), and other networks are for root")]
    Passt,
    /// Who keeps the rules.
    #[error("this kernel does not let us use nftables: {0}")]
    Nftables(Errno),
}

/// The network of a container of which nothing is said, as far as it can be seen without trying what there can
/// be.
pub(crate) fn usual() -> Result<&'static str, Missing> {
    if rustix::process::geteuid().is_root() {
        return tables::can_be_used().map(|()| own::DEFAULT).map_err(Missing::Nftables);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path);
    let is_there = places.any(|place| place.join(passt::PROGRAM).is_file());
    is_there.then_some(passt::NAME).ok_or(Missing::Passt)
}

/// Puts a container with so many vCPUs on the network that it wants to be on, with `dir` for what belongs to it alone;
/// and what it finds in its files.
pub(crate) fn join(
    newcomer: &Newcomer,
    vcpus: u8,
    dir: &Path,
) -> Result<(Wiring, Vec<Mount>), NetworkError> {
    if newcomer.network == passt::NAME {
        return passt::join(newcomer, dir);
    }
    own::join(Registry::of_this_machine(), newcomer, vcpus)
}

/// Where something of a VM's is left if its supervisor is killed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Trace {
    /// The network namespace.
    pub(crate) namespace: PathBuf,
    /// The interfaces.
    pub(crate) interfaces: Vec<String>,
}

impl Trace {
    /// Of a VM with this network, in a namespace that others keep.
    pub(crate) fn of(wiring: &Wiring, namespace: &Path) -> Self {
        let names = wiring.network.interfaces.iter().map(|interface| interface.name.clone());
        Self { namespace: namespace.to_owned(), interfaces: names.collect() }
    }
}

#[cfg(test)]
mod tests;
