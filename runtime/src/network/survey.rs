//! What is in a network namespace, and what of it a guest is given.

use netlink::address::Address;
use netlink::link::Link;
use netlink::neighbour::Neighbour;
use netlink::route::Route;
use netlink::{Errno, Socket};
use proto::network::{self, Network};

use crate::vm::NETWORK_SLOTS;

/// All that is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
}

/// An interface that is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
}

/// Why what is there cannot be a guest's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SurveyError {
    /// A VM has no room for them.
    #[error(
        "the network namespace has {} interfaces, over the limit of {NETWORK_SLOTS}: {}",
        names.len(),
        names.join(", ")
    )]
    TooMany {
        /// All of them.
        names: Vec<String>,
    },
    /// No frames go over it.
    #[error("interface {name} of the network namespace is no Ethernet, and cannot be a VM's")]
    NoEthernet {
        /// Its name.
        name: String,
    },
    /// A route that cannot be said.
    #[error("the route to {to} over {name} has several next hops or one of another family")]
    Route {
        /// Where it leads.
        to: String,
        /// Its interface.
        name: String,
    },
}

/// Looks at the network namespace of `socket`.
pub(super) fn look(socket: &mut Socket) -> Result<Found, Errno> {
    Ok(Found {
        links: socket.links()?,
        addresses: socket.addresses()?,
        routes: socket.routes()?,
        neighbours: socket.neighbours()?,
    })
}

/// Decides what a guest is told, and which interfaces are carried, in the order of their slots. What is switched
/// off is nobody's, and part of a bridge the bridge's.
pub(super) fn decide(found: &Found) -> Result<(Network, Vec<Carried>), SurveyError> {
    let mut carried = Vec::new();
    let used = |link: &&Link| link.is_up() && !link.is_loopback() && link.master.is_none();
    for link in found.links.iter().filter(used) {
        let name = link.name.clone();
        match <[u8; 6]>::try_from(link.mac.as_slice()) {
            Ok(mac) if link.is_ethernet() => {
                carried.push(Carried { name, index: link.index, mac, mtu: link.mtu });
            }
            _ => return Err(SurveyError::NoEthernet { name }),
        }
    }
    carried.sort_by_key(|interface| interface.index);
    if carried.len() > NETWORK_SLOTS {
        let names = carried.into_iter().map(|interface| interface.name).collect();
        return Err(SurveyError::TooMany { names });
    }
    let slots = || (0u8..).zip(&carried);
    let slot = |index: u32| slots().find(|(_, it)| it.index == index).map(|(slot, _)| slot);
    let interfaces = slots().map(|(slot, interface)| network::Interface {
        slot,
        name: interface.name.clone(),
        mac: interface.mac,
        mtu: interface.mtu,
        finished: false,
        addresses: addresses(found, interface.index),
    });
    let mut routes = Vec::new();
    for route in &found.routes {
        let to = || format!("{}/{}", route.destination, route.prefix);
        let Some(slot) = slot(route.index) else {
            // One with several next hops has no interface of its own.
            if route.is_more && route.index == 0 {
                return Err(SurveyError::Route { to: to(), name: "several".to_owned() });
            }
            continue;
        };
        if route.is_more {
            let name = carried[usize::from(slot)].name.clone();
            return Err(SurveyError::Route { to: to(), name });
        }
        routes.push(network::Route {
            destination: route.destination,
            prefix: route.prefix,
            slot,
            gateway: route.gateway,
            source: route.source,
            metric: route.metric,
            scope: route.scope,
            on_link: route.on_link,
        });
    }
    // A gateway has to be reached before it is one.
    routes.sort_by_key(|route| route.gateway.is_some());
    let neighbours = found.neighbours.iter().filter_map(|neighbour| {
        let Neighbour { index, ip, mac } = *neighbour;
        Some(network::Neighbour { slot: slot(index)?, ip, mac })
    });
    let network =
        Network { interfaces: interfaces.collect(), routes, neighbours: neighbours.collect() };
    Ok((network, carried))
}

/// An interface's addresses, but those of IPv6 that it gives itself.
fn addresses(found: &Found, index: u32) -> Vec<network::Address> {
    let its = found.addresses.iter().filter(|address| address.index == index);
    its.filter(|address| !(address.ip.is_ipv6() && address.is_of_the_link()))
        .map(|address| network::Address {
            ip: address.ip,
            prefix: address.prefix,
            peer: address.peer,
            broadcast: address.broadcast,
            scope: address.scope,
            no_route: address.no_route,
        })
        .collect()
}
