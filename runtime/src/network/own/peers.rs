//! Who else is on a network, followed while they come and go.
//!
//! Whoever comes has written down who he is before there is a tap for him, and the tap goes when his VM does, however
//! that ends. So the kernel's news of interfaces says when to look, and no more is looked at than they name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink::link::News;
use netlink::{Group, Socket};

use super::super::{NetworkError, names, refused};
use super::Registry;
use super::network::{Lease, TAP};
use super::registry::Turn;

/// Who else is on a network.
#[derive(Debug)]
pub(crate) struct Peers {
    news: Socket,
    registry: Registry,
    network: String,
    /// By the name of the file that stands for him, and without whoever asks.
    known: BTreeMap<String, Lease>,
    /// That of whoever asks.
    own: Lease,
}

/// Lines of `/etc/hosts` that are other than they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Introductions {
    /// Of those who have left.
    pub(crate) gone: Vec<String>,
    /// Of those who have come.
    pub(crate) come: Vec<String>,
}

impl Peers {
    /// Those who are there but for the one with the lease `own`.
    pub(super) fn meet(turn: &Turn<'_>, network: &str, own: &Lease) -> Result<Self, NetworkError> {
        // Whoever hears first and looks then misses nobody.
        let news = Socket::open(Group::Links).map_err(refused("news of the network"))?;
        let (registry, network) = (turn.registry().clone(), network.to_owned());
        let others = turn.leases(&network)?.into_iter().filter(|other| other.ip4 != own.ip4);
        let known = others.map(|lease| (lease.file(&network), lease)).collect();
        Ok(Self { news, registry, network, known, own: own.clone() })
    }

    /// Whoever asks, who calls himself `hostname`, and those who are there, as a container knows them.
    pub(super) fn names(&self, hostname: &str) -> Vec<(IpAddr, String)> {
        let own = self.own.known_as(&format!("{hostname} {}", self.own.name));
        let others = self.known.values().flat_map(|lease| lease.known_as(&lease.name));
        own.into_iter().chain(others).collect()
    }

    /// What has changed since it was asked last, if anything has.
    pub(crate) fn changes(&mut self) -> Result<Option<Introductions>, NetworkError> {
        let news = self.news.link_news().map_err(refused("news of the network"))?;
        let before = self.known.clone();
        self.look(&news)?;
        let lines = |leases: &BTreeMap<_, _>, others: &BTreeMap<_, _>| -> Vec<_> {
            let moved = leases.iter().filter(|(file, lease)| others.get(*file) != Some(*lease));
            moved.flat_map(|(_, lease): (_, &Lease)| lines_of(lease)).collect()
        };
        let gone = lines(&before, &self.known);
        let come = lines(&self.known, &before);
        Ok((before != self.known).then_some(Introductions { gone, come }))
    }

    fn look(&mut self, news: &News) -> Result<(), NetworkError> {
        self.known.retain(|_, lease| !news.some_lost && !news.gone.contains(&lease.tap));
        let is_new = |name: &String| {
            let mut met = self.known.values().chain([&self.own]);
            name.starts_with(TAP) && met.all(|lease| lease.tap != *name)
        };
        if !news.some_lost && !news.there.iter().any(is_new) {
            return Ok(());
        }
        let own = self.own.file(&self.network);
        for file in self.registry.files_of(&self.network)? {
            if file == own || self.known.contains_key(&file) {
                continue;
            }
            if let Some(lease) = self.registry.holder(&file)? {
                self.known.insert(file, lease);
            }
        }
        Ok(())
    }
}

impl AsFd for Peers {
    /// Readable when something may have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn lines_of(lease: &Lease) -> [String; 2] {
    lease.known_as(&lease.name).map(|(address, names)| names::line(address, &names))
}

#[cfg(test)]
mod tests {
    use super::super::network::testing::newcomer;
    use super::*;

    #[test]
    fn others_are_met_when_their_taps_come_and_forgotten_when_they_go() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path().join("networks"));
        let turn = registry.turn().unwrap();
        let network = turn.create("town", None).unwrap();
        let admit = |name| turn.admit(&network, &newcomer(name)).unwrap();
        let (one, two) = (admit("one"), admit("two"));
        let mut peers = Peers::meet(&turn, "town", two.lease()).unwrap();
        let names = peers.names("box").into_iter();
        let names: Vec<_> = names.map(|(ip, names)| format!("{ip} {names}")).collect();
        let expected = [
            "10.190.1.3 box two",
            "fd4d:5600:1::3 box two",
            "10.190.1.2 one",
            "fd4d:5600:1::2 one",
        ];
        assert_eq!(names, expected);
        let three = admit("three");
        let [first, third] = [&one, &three].map(|member| member.lease().clone());
        let news = |there: &[&Lease], gone: &[&Lease]| {
            let taps = |leases: &[&Lease]| leases.iter().map(|lease| lease.tap.clone()).collect();
            News { there: taps(there), gone: taps(gone), some_lost: false }
        };
        let known = |peers: &Peers| -> Vec<_> {
            peers.known.values().map(|lease| lease.name.clone()).collect()
        };
        peers.look(&news(&[two.lease()], &[])).unwrap();
        assert_eq!(known(&peers), ["one"], "one's own is no news");
        peers.look(&news(&[&third], &[])).unwrap();
        assert_eq!(known(&peers), ["one", "three"]);
        drop(one);
        peers.look(&news(&[], &[&first])).unwrap();
        assert_eq!(known(&peers), ["three"]);
        drop(three);
        let four = admit("four");
        assert_eq!(four.lease().ip4, first.ip4, "an address is another's now");
        peers.look(&News { some_lost: true, ..News::default() }).unwrap();
        assert_eq!(known(&peers), ["four"]);
        assert_eq!(lines_of(four.lease())[0], "10.190.1.2\tfour");
    }
}
