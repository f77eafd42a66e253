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
pub(super) struct Interface {
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

/// The interfaces that are a VM's, in the order of their numbers. What is switched off is nobody's, and part of a
/// bridge the bridge's.
pub(super) fn interfaces(found: &Found) -> Result<Vec<Interface>, SurveyError> {
    let mut interfaces = Vec::new();
    let used = |link: &&Link| link.is_up() && !link.is_loopback() && link.master.is_none();
    for link in found.links.iter().filter(used).filter(|link| !is_tap(&link.name)) {
        let name = link.name.clone();
        match <[u8; 6]>::try_from(link.mac.as_slice()) {
            Ok(mac) if link.is_ethernet() => {
                interfaces.push(Interface { name, index: link.index, mac, mtu: link.mtu });
            }
            _ => return Err(SurveyError::NoEthernet { name }),
        }
    }
    interfaces.sort_by_key(|interface| interface.index);
    if interfaces.len() > NETWORK_SLOTS {
        let names = interfaces.into_iter().map(|interface| interface.name).collect();
        return Err(SurveyError::TooMany { names });
    }
    Ok(interfaces)
}

/// How our own taps are called: with the interface's number behind it.
const TAP: &str = "mvtap";

/// What an interface's tap is called in its namespace.
pub(super) fn tap_name(index: u32) -> String {
    format!("{TAP}{index}")
}

/// Whether it is called as our taps are, be it that its interface is gone.
fn is_tap(name: &str) -> bool {
    name.strip_prefix(TAP).is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// What a guest is told that has these interfaces in its slots.
pub(super) fn network(
    found: &Found,
    interfaces: &[Option<Interface>],
) -> Result<Network, SurveyError> {
    let slots = || (0u8..).zip(interfaces).filter_map(|(slot, it)| Some((slot, it.as_ref()?)));
    let slot = |index: u32| slots().find(|(_, it)| it.index == index).map(|(slot, _)| slot);
    let told = slots().map(|(slot, interface)| network::Interface {
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
            let named = interfaces.get(usize::from(slot)).and_then(Option::as_ref);
            let name = named.map(|it| it.name.clone()).unwrap_or_default();
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
    Ok(Network { interfaces: told.collect(), routes, neighbours: neighbours.collect() })
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
