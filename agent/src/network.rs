//! The guest's network: one namespace, its containers' too.
//!
//! A machine that is saved has cards for which there is no wire yet. They are parked in a network namespace
//! where nobody is, so that a container without a network sees the loopback and nothing else; those that get a
//! wire are brought back, and are then what the host has said.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink::address::Address;
use netlink::link::Change;
use netlink::neighbour::Neighbour;
use netlink::route::Route;
use netlink::{Group, Socket};
use proto::network::{Interface, Network};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sys::{self, NewNamespaces};
use crate::words::Refused;

/// How long a card's driver may take to hear that it has a wire: the host has said it before the guest ran.
const DRIVER: Duration = Duration::from_secs(10);

/// The network namespace of whoever asks.
const OURS: &str = "/proc/thread-self/ns/net";

/// Cards without a wire, in a place of their own.
#[derive(Debug)]
pub(crate) struct Parked {
    there: Socket,
    place: OwnedFd,
}

/// Parks every card there is.
pub(crate) fn park() -> Result<Parked, Refused> {
    let mut here = Socket::open(Group::Nobody).map_err(Refused::at("network"))?;
    let (there, place) = elsewhere().map_err(Refused::at("network namespace"))?;
    for link in here.links().map_err(Refused::at("interfaces"))? {
        if link.is_ethernet() && !link.is_loopback() {
            let away = Change { namespace: Some(place.as_fd()), ..Change::default() };
            here.change_link(link.index, &away).map_err(Refused::at(link.name))?;
        }
    }
    Ok(Parked { there, place })
}

/// A socket in a new network namespace, and that namespace.
fn elsewhere() -> Result<(Socket, OwnedFd), Errno> {
    let home = namespace()?;
    sys::unshare(NewNamespaces::NETWORK)?;
    let opened = Socket::open(Group::Nobody).and_then(|there| Ok((there, namespace()?)));
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    opened
}

fn namespace() -> Result<OwnedFd, Errno> {
    rustix::fs::open(OURS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes the network what the host says it is `now`, where it was what it said `before`.
pub(crate) fn change(
    before: &Network,
    now: &Network,
    parked: Option<&mut Parked>,
) -> Result<(), Refused> {
    if before == now {
        return Ok(());
    }
    let mut here = Socket::open(Group::Links).map_err(Refused::at("network"))?;
    let home = namespace().map_err(Refused::at(OURS))?;
    // With an interface goes all that was said of it.
    let stays = |slot: u8| match (before.interface(slot), now.interface(slot)) {
        (Some(was), Some(is)) => is_same(was, is).then_some(was),
        _ => None,
    };
    for interface in before.interfaces.iter().filter(|it| stays(it.slot).is_none()) {
        put_away(interface, &mut here, parked.as_deref())?;
    }
    let new: Vec<_> = now.interfaces.iter().filter(|it| stays(it.slot).is_none()).collect();
    fetch(&new, &mut here, home.as_fd(), parked)?;
    let mut indices = Vec::new();
    for interface in &now.interfaces {
        let name = &interface.name;
        let index = here.link(name).map_err(Refused::at(name))?.index;
        match stays(interface.slot) {
            Some(was) => readdress(&mut here, index, was, interface)?,
            None => raise(&mut here, index, interface)?,
        }
        indices.push((interface.slot, index));
    }
    let index = |slot: u8| {
        let found = indices.iter().find(|(known, _)| *known == slot);
        found.map(|(_, index)| *index).ok_or(Errno::NODEV)
    };
    for route in before.routes.iter().filter(|it| stays(it.slot).is_some()) {
        if !now.routes.contains(route) {
            let remove = |index| left_alone(here.remove_route(&kernels_route(route, index)));
            index(route.slot).and_then(remove).map_err(Refused::at(named_route(route)))?;
        }
    }
    for neighbour in before.neighbours.iter().filter(|it| stays(it.slot).is_some()) {
        if !now.neighbours.contains(neighbour) {
            let proto::network::Neighbour { slot, ip, mac } = *neighbour;
            let remove = |index| left_alone(here.remove_neighbour(&Neighbour { index, ip, mac }));
            index(slot).and_then(remove).map_err(Refused::at(format!("neighbour {ip}")))?;
        }
    }
    // All of them: what stood may have gone with an address, and to say it twice does no harm.
    for neighbour in &now.neighbours {
        let proto::network::Neighbour { slot, ip, mac } = *neighbour;
        index(slot)
            .and_then(|index| here.add_neighbour(&Neighbour { index, ip, mac }))
            .map_err(Refused::at(format!("neighbour {ip}")))?;
    }
    for route in &now.routes {
        let add = |index| here.add_route(&kernels_route(route, index));
        index(route.slot).and_then(add).map_err(Refused::at(named_route(route)))?;
    }
    Ok(())
}

fn named_route(route: &proto::network::Route) -> String {
    format!("route to {}/{}", route.destination, route.prefix)
}

/// Whether this is still that interface, whatever its addresses are.
fn is_same(one: &Interface, other: &Interface) -> bool {
    (one.slot, &one.name, one.mac, one.finished)
        == (other.slot, &other.name, other.mac, other.finished)
}

/// What is gone already need not be taken away.
fn left_alone(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Puts an interface back that has lost its wire, with all that was said of it.
fn put_away(
    interface: &Interface,
    here: &mut Socket,
    parked: Option<&Parked>,
) -> Result<(), Refused> {
    let parked = parked.ok_or(Errno::NXIO).map_err(Refused::at(&interface.name))?;
    let change = Change {
        name: Some(&parked_name(interface.slot)),
        namespace: Some(parked.place.as_fd()),
        ..Change::default()
    };
    here.link(&interface.name)
        .and_then(|link| here.change_link(link.index, &change))
        .map_err(Refused::at(&interface.name))
}

/// What a card is called while nobody else has given it a name.
fn parked_name(slot: u8) -> String {
    format!("slot{slot}")
}

/// Gives an interface that stays the addresses and the longest packet that it has now.
fn readdress(
    here: &mut Socket,
    index: u32,
    was: &Interface,
    is: &Interface,
) -> Result<(), Refused> {
    if was.mtu != is.mtu {
        let change = Change { mtu: Some(is.mtu), ..Change::default() };
        here.change_link(index, &change).map_err(Refused::at(&is.name))?;
    }
    let gone: Vec<_> = was.addresses.iter().filter(|it| !is.addresses.contains(it)).collect();
    for address in &gone {
        let refused = Refused::at(format!("address {} of {}", address.ip, is.name));
        left_alone(here.remove_address(&kernels_address(address, index))).map_err(refused)?;
    }
    // With the first address of a subnet the kernel takes the others.
    let new = |it: &&proto::network::Address| !gone.is_empty() || !was.addresses.contains(it);
    address(here, index, &is.name, is.addresses.iter().filter(new))
}

/// Gives an interface these addresses.
fn address<'a>(
    here: &mut Socket,
    index: u32,
    name: &str,
    addresses: impl IntoIterator<Item = &'a proto::network::Address>,
) -> Result<(), Refused> {
    for address in addresses {
        let refused = Refused::at(format!("address {} of {name}", address.ip));
        here.add_address(&kernels_address(address, index)).map_err(refused)?;
    }
    Ok(())
}

/// Brings the interfaces here that have a wire, switched off, with their names and addresses.
fn fetch(
    interfaces: &[&Interface],
    here: &mut Socket,
    home: BorrowedFd<'_>,
    parked: Option<&mut Parked>,
) -> Result<(), Refused> {
    // As the kernel counts them: it has met them in the order of their slots.
    let first_name = |interface: &Interface| format!("eth{}", interface.slot);
    let there = match parked {
        Some(Parked { there, .. }) => there,
        None => {
            // One may have to be called what another is called so far.
            for interface in interfaces {
                let (old, new) = (first_name(interface), parked_name(interface.slot));
                let change = Change { name: Some(&new), ..Change::default() };
                here.link(&old)
                    .and_then(|link| here.change_link(link.index, &change))
                    .map_err(Refused::at(old))?;
            }
            &mut *here
        }
    };
    let links = there.links().map_err(Refused::at("interfaces"))?;
    for interface in interfaces {
        let names = [first_name(interface), parked_name(interface.slot)];
        let change = Change {
            name: Some(&interface.name),
            mac: Some(interface.mac),
            mtu: Some(interface.mtu),
            namespace: Some(home),
            ..Change::default()
        };
        (links.iter().find(|link| names.contains(&link.name)).ok_or(Errno::NODEV))
            .and_then(|link| there.change_link(link.index, &change))
            .map_err(Refused::at(format!("network slot {}", interface.slot)))?;
    }
    Ok(())
}

/// Switches an interface on, and gives it its addresses.
fn raise(here: &mut Socket, index: u32, interface: &Interface) -> Result<(), Refused> {
    let name = &interface.name;
    // Whoever has given out the addresses knows that nobody else has them; to ask takes a second in which
    // they are of no use.
    let asking = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
    match fs::write(&asking, "0") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            return Err(Refused::at(asking)(errno));
        }
        _ => {}
    }
    if interface.finished {
        sys::finish_packets(&*here, name).map_err(Refused::at(format!("checksums of {name}")))?;
    }
    let up = Change { up: Some(true), ..Change::default() };
    here.change_link(index, &up).map_err(Refused::at(name))?;
    address(here, index, name, &interface.addresses)?;
    here.wait_for_link(index, DRIVER).map_err(Refused::at(name))
}

fn kernels_address(address: &proto::network::Address, index: u32) -> Address {
    let proto::network::Address { ip, prefix, peer, broadcast, scope, no_route } = *address;
    Address { index, ip, prefix, peer, broadcast, scope, no_route }
}

fn kernels_route(route: &proto::network::Route, index: u32) -> Route {
    let proto::network::Route {
        destination, prefix, gateway, source, metric, scope, on_link, ..
    } = *route;
    let is_more = false;
    Route { destination, prefix, index, gateway, source, metric, scope, on_link, is_more }
}

#[cfg(test)]
mod tests;
