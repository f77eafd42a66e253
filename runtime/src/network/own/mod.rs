//! Networks of our own, for `microvm run`: a bridge each, addresses handed out under a lock, translation and
//! filters by nftables.
//!
//! ```text
//!   world ── host ── translated ── bridge mv-NAME ─┬─ tap ── VMM ── a guest's eth0
//!                                                  └─ tap ── VMM ── another's
//! ```
//!
//! Everything on the host follows from what is written in [`registry`]: a network is there while somebody is on
//! it, the rules are made anew from all who are whenever one comes or goes, in one step ([`rules`]). Who is on a
//! network holds a lock, which the kernel lets go of when he dies however that may be.

mod network;
mod peers;
mod ports;
mod registry;
mod rules;

use std::fs;
use std::net::{TcpListener, UdpSocket};

use netlink::address::Address;
use netlink::link::Change;
use netlink::{Errno, Group, Socket, tables};
use proto::spec::Mount;
use vmm::spec::Limits;

use self::network::{Lease, Network};
pub(crate) use self::peers::{Introductions, Peers};
pub(crate) use self::ports::{BadPort, Port, Protocol};
pub(crate) use self::registry::{DEFAULT, Registry, RegistryError};
use self::registry::{Member, Turn};
use super::names::{self, Names, Servers};
use super::tap;
use super::{Held, Home, NetworkError, Wiring, refused};
use crate::vm::Wire;

/// The word for being on no network.
pub(crate) const NONE: &str = "none";

/// The longest packet.
const MTU: u16 = 1500;

/// Who wants to be on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer {
    /// The network's name.
    pub(crate) network: String,
    /// The container's id, from which its tap has its name.
    pub(crate) id: String,
    /// What others call it.
    pub(crate) name: String,
    /// What it calls itself.
    pub(crate) hostname: String,
    /// What of it can be reached from outside.
    pub(crate) ports: Vec<Port>,
    /// What it is told of names besides.
    pub(crate) names: Names,
    /// How fast packets come to it, and leave it.
    pub(crate) to_guest: Limits,
    pub(crate) from_guest: Limits,
}

/// A place on a network. Dropping it leaves the network, and takes that away if nobody else is on it.
#[derive(Debug)]
pub(crate) struct Place {
    registry: Registry,
    member: Option<Member>,
    /// Once it is there.
    peers: Option<Peers>,
    /// So that nobody else on this machine takes them meanwhile.
    _reserved: Vec<Reserved>,
}

impl Place {
    /// Who else is there.
    pub(crate) fn peers(&mut self) -> Option<&mut Peers> {
        self.peers.as_mut()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut left = || -> Result<(), NetworkError> {
            let turn = self.registry.turn()?;
            drop(self.member.take());
            settle(&turn)?;
            Ok(turn.leave()?)
        };
        // Whoever comes next finds what could not be taken away, and takes it.
        let _ = left();
    }
}

/// A port of this machine that is spoken for.
#[derive(Debug)]
#[allow(dead_code, reason = "they are held, and nobody is heard")]
enum Reserved {
    Stream(TcpListener),
    Packets(UdpSocket),
}

/// Puts somebody on a network, which is made if it is not there; and what its container finds in its files.
pub(crate) fn join(
    registry: Registry,
    newcomer: &Newcomer,
    vcpus: u8,
) -> Result<(Wiring, Vec<Mount>), NetworkError> {
    let reserved = newcomer.ports.iter().map(reserve).collect::<Result<_, _>>()?;
    let turn = registry.turn()?;
    let network = turn.network(&newcomer.network);
    let admitted = network.and_then(|network| Ok((turn.admit(&network, newcomer)?, network)));
    let (member, network) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            turn.leave()?;
            return Err(error.into());
        }
    };
    let lease = member.lease().clone();
    // From here on what is done is undone if a step fails, for which it has to be nobody's turn.
    drop(turn);
    let mut place = Place { registry, member: Some(member), peers: None, _reserved: reserved };
    let turn = place.registry.turn()?;
    bridge(&network)?;
    let tap = tap::open(&lease.tap, vcpus)
        .map_err(|source| NetworkError::Refused { what: format!("tap {}", lease.tap), source })?;
    let mut socket = Socket::open(Group::Nobody).map_err(refused("netlink socket"))?;
    let [port, bridge] = [&lease.tap, &network.bridge()]
        .map(|name| socket.link(name).map(|link| link.index).map_err(refused(name)));
    no_ipv6(&lease.tap);
    let up = Change {
        mtu: Some(MTU.into()),
        master: Some(bridge?),
        up: Some(true),
        ..Change::default()
    };
    socket.change_link(port?, &up).map_err(refused(&lease.tap))?;
    settle(&turn)?;
    let peers = Peers::meet(&turn, &network.name, &lease)?;
    drop(turn);
    let known = peers.names(&newcomer.hostname);
    place.peers = Some(peers);
    let host = network.gateway4().into();
    let files = names::files(&known, &Servers::Machines, &newcomer.names, host);
    let wire = Wire::Tap(tap);
    let homes = homes(&network, &lease);
    let wiring = Wiring::of_one(newcomer, wire, (lease.mac, MTU), &homes, Held::Place(place));
    Ok((wiring, files))
}

/// What a guest has, and who leads it elsewhere.
fn homes(network: &Network, lease: &Lease) -> [Home; 2] {
    [
        (lease.ip4.into(), network.prefix, network.gateway4().into()),
        (lease.ip6.into(), network::PREFIX6, network.gateway6().into()),
    ]
}

/// Makes a network's bridge, if it is not there.
fn bridge(network: &Network) -> Result<(), NetworkError> {
    let name = network.bridge();
    let mut socket = Socket::open(Group::Nobody).map_err(refused("netlink socket"))?;
    if socket.link(&name).is_ok_and(|link| link.is_up()) {
        return Ok(());
    }
    match socket.add_bridge(&Change { name: Some(&name), ..Change::default() }) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(refused(format!("bridge {name}"))(errno)),
    }
    let index = socket.link(&name).map_err(refused(&name))?.index;
    let addresses = [
        (network.gateway4().into(), network.prefix),
        (network.gateway6().into(), network::PREFIX6),
    ];
    for (ip, prefix) in addresses {
        let (peer, broadcast) = (None, None);
        let address = Address { index, ip, prefix, peer, broadcast, scope: 0, no_route: false };
        match socket.add_address(&address) {
            Ok(()) => {}
            // A host without IPv6 has guests without a way out by it.
            Err(_) if ip.is_ipv6() => {}
            Err(errno) => return Err(refused(format!("address {ip} of {name}"))(errno)),
        }
    }
    let up = Change { up: Some(true), ..Change::default() };
    socket.change_link(index, &up).map_err(refused(&name))?;
    // What the host's own programs send to a published port of its loopback goes to a guest, too.
    set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    set("net/ipv4/ip_forward", "1")?;
    let _ = set("net/ipv6/conf/all/forwarding", "1");
    Ok(())
}

/// The host has nothing to say by a guest's tap but what goes through the bridge.
fn no_ipv6(name: &str) {
    let _ = set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
}

fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    match fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        _ => fs::write(&path, value).map_err(|source| NetworkError::Refused { what: path, source }),
    }
}

/// Makes the host's rules those of everybody who is on a network, and takes away the bridges nobody is on.
fn settle(turn: &Turn<'_>) -> Result<(), NetworkError> {
    let networks = turn.networks()?;
    let mut used = Vec::new();
    for network in networks {
        let leases = turn.leases(&network.name)?;
        if leases.is_empty() {
            let mut socket = Socket::open(Group::Nobody).map_err(refused("netlink socket"))?;
            if let Ok(link) = socket.link(&network.bridge()) {
                socket.remove_link(link.index).map_err(refused(network.bridge()))?;
            }
        } else {
            used.push((network, leases));
        }
    }
    let settled = match used.is_empty() {
        true => tables::remove(&rules::TABLES),
        false => tables::replace(&rules::all(&used)),
    };
    settled.map_err(refused("nftables"))
}

fn reserve(port: &Port) -> Result<Reserved, NetworkError> {
    let at = (port.address, port.host);
    let reserved = match port.protocol {
        Protocol::Tcp => TcpListener::bind(at).map(Reserved::Stream),
        Protocol::Udp => UdpSocket::bind(at).map(Reserved::Packets),
    };
    reserved.map_err(|source| NetworkError::Refused { what: format!("port {port}"), source })
}
