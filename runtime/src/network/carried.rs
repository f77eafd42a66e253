//! What of a network namespace a VM has, from before it runs until it has ended.
//!
//! Engines give a container its interfaces when they like: before there is a VM, before its process starts, while it
//! runs. An interface that comes takes a slot of the VM's that is free, one that goes leaves it.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use netlink::link::Change;
use netlink::{Errno, Group, Socket};
use nix::sched::{CloneFlags, setns};
use proto::network::Network;

use super::survey::{self, Interface};
use super::{Held, NetworkError, Wiring, refused, tap};
use crate::vm::{Card, NETWORK_SLOTS, Wire};

/// The interfaces whose frames go to a VM's cards and come from there. Dropping it lets them come in again.
#[derive(Debug)]
pub(crate) struct Carried {
    socket: Socket,
    /// Says that something has changed.
    news: Socket,
    /// By slot.
    interfaces: [Option<Interface>; NETWORK_SLOTS],
    /// What the guest was told last.
    told: Network,
}

/// By slot, the queues of the tap that is in it now, if one is.
type Wires = Vec<(u8, Option<Vec<OwnedFd>>)>;

/// What is other than it was.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Slots whose wire is another now, and that.
    pub(crate) wires: Wires,
    /// What the guest is to be told.
    pub(crate) network: Network,
}

/// Carries every interface of the calling thread's network namespace into a VM to be, with so many vCPUs.
pub(crate) fn carry(vcpus: u8) -> Result<Wiring, NetworkError> {
    let open = |group| Socket::open(group).map_err(refused("netlink socket"));
    // Whoever hears first and looks then misses nothing.
    let (news, socket) = (open(Group::Changes)?, open(Group::Nobody)?);
    let (interfaces, told) = ([const { None }; NETWORK_SLOTS], Network::default());
    let mut carried = Carried { socket, news, interfaces, told };
    let Changes { wires, network } = carried.look(vcpus)?;
    let card = |(slot, wire): (u8, Option<Vec<OwnedFd>>)| {
        let interface = carried.interfaces[usize::from(slot)].as_ref()?;
        let mtu = u16::try_from(interface.mtu).unwrap_or(u16::MAX);
        // Limits are its engine's, on the engine's side.
        let (to_guest, from_guest) = Default::default();
        Some(Card { wire: Wire::Tap(wire?), mac: interface.mac, mtu, to_guest, from_guest })
    };
    // In the order of their slots, of which all are free so far.
    let cards = wires.into_iter().filter_map(card).collect();
    Ok(Wiring { cards, network, held: Held::Carried(carried) })
}

impl Carried {
    /// What has changed since it was asked last, if anything has. Asked in the thread that has carried.
    pub(crate) fn changes(&mut self) -> Result<Option<Changes>, NetworkError> {
        if !self.news.has_news().map_err(refused("news of the network"))? {
            return Ok(None);
        }
        let before = self.told.clone();
        // A slot that gets its wire later is served by one thread.
        let changes = self.look(1)?;
        Ok((!changes.wires.is_empty() || changes.network != before).then_some(changes))
    }

    /// An interface that has come gets queues for so many vCPUs.
    fn look(&mut self, vcpus: u8) -> Result<Changes, NetworkError> {
        let found = survey::look(&mut self.socket).map_err(refused("looking at the network"))?;
        let there = survey::interfaces(&found)?;
        let mut wires = Vec::new();
        match self
            .place(there, vcpus, &mut wires)
            .and_then(|()| Ok(survey::network(&found, &self.interfaces)?))
        {
            Ok(network) => {
                self.told.clone_from(&network);
                Ok(Changes { wires, network })
            }
            Err(error) => {
                // Those that have come meanwhile are not carried, since nobody hears of it.
                for (slot, _) in wires.into_iter().filter(|(_, wire)| wire.is_some()) {
                    let place = self.interfaces.get_mut(usize::from(slot));
                    if let Some(interface) = place.and_then(Option::take) {
                        let _ = self.socket.remove_ingress(interface.index);
                    }
                }
                Err(error)
            }
        }
    }

    /// Gives those that are there a slot each, and says which slots have another wire now.
    fn place(
        &mut self,
        there: Vec<Interface>,
        vcpus: u8,
        wires: &mut Wires,
    ) -> Result<(), NetworkError> {
        for (slot, place) in (0..).zip(&mut self.interfaces) {
            let Some(gone) = place.take_if(|it| there.iter().all(|one| one.index != it.index))
            else {
                continue;
            };
            // With an interface that is gone this is, too; one that was switched off has it still.
            let _ = self.socket.remove_ingress(gone.index);
            wires.push((slot, None));
        }
        for interface in there {
            let same = |it: &&mut Option<Interface>| {
                it.as_ref().is_some_and(|it| it.index == interface.index)
            };
            if let Some(place) = self.interfaces.iter_mut().find(same) {
                *place = Some(interface);
                continue;
            }
            let wire = self.redirect(&interface, vcpus)?;
            let mut places = (0..).zip(&mut self.interfaces);
            // There is one: there are no more interfaces than slots.
            if let Some((slot, place)) = places.find(|(_, place)| place.is_none()) {
                wires.retain(|(emptied, _)| *emptied != slot);
                wires.push((slot, Some(wire)));
                *place = Some(interface);
            }
        }
        Ok(())
    }

    /// Makes a tap for an interface, to which all frames go that come in there, and the other way round. If a step
    /// fails nothing is done: the tap goes with its descriptors.
    fn redirect(&mut self, interface: &Interface, vcpus: u8) -> Result<Vec<OwnedFd>, NetworkError> {
        let socket = &mut self.socket;
        let (name, index) = (&interface.name, interface.index);
        let tap_name = survey::tap_name(index);
        if socket.link(&tap_name).is_ok() {
            return Err(NetworkError::Taken { name: name.clone() });
        }
        let tap = tap::open(&tap_name, vcpus)
            .map_err(|source| NetworkError::Refused { what: format!("tap for {name}"), source })?;
        let link = socket.link(&tap_name).map_err(refused(&tap_name))?;
        // The host itself has nothing to say there.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{tap_name}/disable_ipv6"), "1");
        let up = Change { mtu: Some(interface.mtu), up: Some(true), ..Change::default() };
        socket.change_link(link.index, &up).map_err(refused(&tap_name))?;
        make_room(socket, index).map_err(refused(format!("ingress of {name}")))?;
        let redirected = socket
            .add_ingress(link.index)
            .and_then(|()| socket.redirect(link.index, index))
            .and_then(|()| socket.redirect(index, link.index));
        if let Err(errno) = redirected {
            let _ = socket.remove_ingress(index);
            return Err(refused(format!("redirecting {name}"))(errno));
        }
        Ok(tap)
    }
}

impl AsFd for Carried {
    /// Readable when something may have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        for interface in self.interfaces.iter().flatten() {
            // If the interface is gone, this is too.
            let _ = self.socket.remove_ingress(interface.index);
        }
    }
}

/// Makes the place at an interface where frames are redirected. One that is there although no tap belongs to it
/// is left of a VM whose supervisor was killed.
fn make_room(socket: &mut Socket, index: u32) -> Result<(), Errno> {
    match socket.add_ingress(index) {
        Err(Errno::EXIST) => {
            socket.remove_ingress(index)?;
            socket.add_ingress(index)
        }
        made => made,
    }
}

/// Takes away what a supervisor that was killed has left in a network namespace that is still there: of the
/// interfaces named, those that no tap belongs to any more.
pub(crate) fn clear(namespace: &Path, names: &[String]) {
    let Ok(namespace) = File::open(namespace) else { return };
    let clear = || -> Result<(), Errno> {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        let mut socket = Socket::open(Group::Nobody)?;
        let ingresses = socket.ingresses()?;
        let links = socket.links()?;
        let is_ours = |index: &u32| {
            let tap = survey::tap_name(*index);
            links.iter().any(|link| link.index == *index && names.contains(&link.name))
                && !links.iter().any(|link| link.name == tap)
        };
        for index in ingresses.into_iter().filter(is_ours) {
            socket.remove_ingress(index)?;
        }
        Ok(())
    };
    // Whoever deletes a container has no use for the reason why its network is not as it was: what is left
    // is taken for that by the next container on it.
    let _ = thread::scope(|scope| scope.spawn(clear).join());
}
