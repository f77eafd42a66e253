//! Interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::Socket;
use crate::socket::NEW;
use crate::wire::{Message, attributes, name, number};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;

/// `struct ifinfomsg`.
const HEADER: usize = 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const STATE: u16 = 16;
const INFO: u16 = 18;
const KIND: u16 = 1;
const DATA: u16 = 2;
const NAMESPACE: u16 = 28;
/// `VETH_INFO_PEER`.
const PEER: u16 = 1;

/// `IFF_UP`.
const UP: u32 = 1;
/// `IFF_LOOPBACK`.
const LOOPBACK: u32 = 8;
/// `IFF_LOWER_UP`: there is somebody at the other end.
const LOWER_UP: u32 = 0x1_0000;
/// `IF_OPER_UP`, of RFC 2863.
const STATE_UP: u8 = 6;
/// `IFF_MASTER`: it is made of others.
const MASTERS: u32 = 0x400;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Vec<u8>,
    /// The longest packet.
    pub mtu: u32,
    /// What it is, in the kernel's word: `veth`, `bridge`; empty for hardware.
    pub kind: String,
    /// The bridge it is part of.
    pub master: Option<u32>,
    flags: u32,
    hardware: u16,
    state: u8,
}

impl Link {
    /// It is the machine itself.
    pub fn is_loopback(&self) -> bool {
        self.flags & LOOPBACK != 0
    }

    /// Frames go over it.
    pub fn is_ethernet(&self) -> bool {
        self.hardware == ETHERNET && self.flags & MASTERS == 0
    }

    /// It was switched on.
    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }

    /// It works, and the kernel has got round to using it.
    pub fn is_running(&self) -> bool {
        self.is_up() && self.flags & LOWER_UP != 0 && self.state == STATE_UP
    }

    fn read(body: &[u8]) -> Option<Self> {
        let hardware = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
        let mut link = Self {
            index: number(body, 4)?,
            name: String::new(),
            mac: vec![],
            mtu: 0,
            kind: String::new(),
            master: None,
            flags: number(body, 8)?,
            hardware,
            state: 0,
        };
        for (kind, value) in attributes(body, HEADER) {
            match kind {
                ADDRESS => link.mac = value.to_vec(),
                NAME => link.name = name(value),
                MTU => link.mtu = number(value, 0)?,
                STATE => link.state = *value.first()?,
                MASTER => link.master = number(value, 0),
                INFO => {
                    let mut inner = attributes(value, 0).filter(|(kind, _)| *kind == KIND);
                    link.kind = inner.next().map(|(_, value)| name(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// What has become of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The names of those that are there and new, or other than they were.
    pub there: Vec<String>,
    /// The names of those that are gone.
    pub gone: Vec<String>,
    /// More has happened than is said here.
    pub some_lost: bool,
}

/// What becomes of an interface. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// The longest packet.
    pub mtu: Option<u32>,
    /// The bridge it is part of.
    pub master: Option<u32>,
    /// The network namespace it is in.
    pub namespace: Option<BorrowedFd<'a>>,
    /// It is switched on, or off.
    pub up: Option<bool>,
}

fn header(index: u32, up: Option<bool>) -> Vec<u8> {
    let flags = if up == Some(true) { UP } else { 0 };
    let change = if up.is_some() { UP } else { 0 };
    let numbers = [0, index, flags, change];
    numbers.map(u32::to_ne_bytes).concat()
}

impl Change<'_> {
    fn message(&self, index: u32, flags: u16) -> Message {
        Message::new(NEW_LINK, flags, &header(index, self.up))
            .with_some(self.name, |message, name| message.with_name(NAME, name))
            .with_some(self.mac, |message, mac| message.with(ADDRESS, &mac))
            .with_some(self.mtu, |message, mtu| message.with_number(MTU, mtu))
            .with_some(self.master, |message, master| message.with_number(MASTER, master))
            .with_some(self.namespace, |message, namespace| {
                message.with_number(NAMESPACE, namespace.as_raw_fd().cast_unsigned())
            })
    }
}

impl Socket {
    /// Every interface.
    pub fn links(&mut self) -> Result<Vec<Link>, Errno> {
        self.list(|| Message::new(GET_LINK, 0, &header(0, None)), NEW_LINK, Link::read)
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Link, Errno> {
        self.links()?.into_iter().find(|link| link.name == name).ok_or(Errno::NODEV)
    }

    /// Changes an interface.
    pub fn change_link(&mut self, index: u32, change: &Change<'_>) -> Result<(), Errno> {
        self.order(change.message(index, 0))
    }

    /// Makes a bridge.
    pub fn add_bridge(&mut self, bridge: &Change<'_>) -> Result<(), Errno> {
        self.order(bridge.message(0, NEW).with_nested(INFO, |info| info.with_name(KIND, "bridge")))
    }

    /// Makes a cable with two ends.
    pub fn add_cable(&mut self, one: &Change<'_>, other: &Change<'_>) -> Result<(), Errno> {
        let peer = other.message(0, 0).finish(0);
        self.order(one.message(0, NEW).with_nested(INFO, |info| {
            info.with_name(KIND, "veth")
                .with_nested(DATA, |data| data.with(PEER, &peer[crate::wire::HEADER..]))
        }))
    }

    /// Takes an interface away.
    pub fn remove_link(&mut self, index: u32) -> Result<(), Errno> {
        self.order(Message::new(DEL_LINK, 0, &header(index, None)))
    }

    /// What has become of interfaces since that was asked last, without waiting. The socket has to be one that hears of
    /// links.
    pub fn link_news(&self) -> Result<News, Errno> {
        let mut news = News::default();
        let whole = self.drain(|message| {
            // A bridge tells of its ports by the same words, and a port that leaves it is not gone.
            let is_of_links = message.body.first() == Some(&0);
            let link = Link::read(message.body).filter(|_| is_of_links);
            match (message.kind, link) {
                (NEW_LINK, Some(link)) => news.there.push(link.name),
                (DEL_LINK, Some(link)) => news.gone.push(link.name),
                _ => {}
            }
        })?;
        news.some_lost = !whole;
        Ok(news)
    }

    /// Waits until an interface works, `time` at most. The socket has to be one that hears of links.
    pub fn wait_for_link(&mut self, index: u32, time: Duration) -> Result<(), Errno> {
        let deadline = Instant::now() + time;
        let mut news = self.links()?;
        loop {
            if news.iter().any(|link| link.index == index && link.is_running()) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::TIMEDOUT);
            }
            news = match self.news(left, NEW_LINK, Link::read) {
                Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT),
                // Some were lost.
                Err(Errno::NOBUFS) => self.links()?,
                news => news?,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Group, elsewhere};

    #[test]
    fn a_cable_is_made_changed_and_taken_away() {
        elsewhere(|| {
            let mut socket = Socket::open(Group::Links).unwrap();
            let links = socket.links().unwrap();
            assert!(links.iter().any(|link| link.is_loopback() && link.name == "lo"));
            let named = |name| Change { name: Some(name), ..Change::default() };
            socket.add_bridge(&named("b")).unwrap();
            let bridge = socket.link("b").unwrap();
            assert_eq!((bridge.kind.as_str(), bridge.is_ethernet()), ("bridge", true));
            let one = Change { mac: Some([2, 0, 0, 0, 0, 9]), mtu: Some(1400), ..named("one") };
            socket.add_cable(&one, &named("two")).unwrap();
            let [one, two] = ["one", "two"].map(|name| socket.link(name).unwrap());
            assert_eq!((one.mac.as_slice(), one.mtu), (&[2, 0, 0, 0, 0, 9][..], 1400));
            assert!(!one.is_up() && one.is_ethernet() && one.kind == "veth");
            let up = Change { up: Some(true), ..Change::default() };
            socket.change_link(one.index, &up).unwrap();
            let soon = Duration::from_millis(20);
            assert_eq!(socket.wait_for_link(one.index, soon), Err(Errno::TIMEDOUT));
            let change = Change { master: Some(bridge.index), ..up.clone() };
            socket.change_link(two.index, &change).unwrap();
            socket.wait_for_link(one.index, Duration::from_secs(60)).unwrap();
            assert_eq!(socket.link("two").unwrap().master, Some(bridge.index));
            assert_eq!(socket.add_bridge(&named("b")), Err(Errno::EXIST));
            socket.remove_link(one.index).unwrap();
            assert_eq!(socket.link("two"), Err(Errno::NODEV), "the other end is gone too");
        });
    }

    #[test]
    fn who_listens_hears_of_links_that_come_and_go() {
        elsewhere(|| {
            let mut socket = Socket::open(Group::Nobody).unwrap();
            let listener = Socket::open(Group::Links).unwrap();
            assert_eq!(listener.link_news(), Ok(News::default()));
            let named = |name| Change { name: Some(name), ..Change::default() };
            socket.add_bridge(&named("b")).unwrap();
            let bridge = socket.link("b").unwrap().index;
            socket.add_cable(&named("one"), &named("two")).unwrap();
            let one = socket.link("one").unwrap().index;
            socket.change_link(one, &Change { master: Some(bridge), ..Change::default() }).unwrap();
            socket.change_link(one, &Change { master: Some(0), ..Change::default() }).unwrap();
            let news = listener.link_news().unwrap();
            assert!(["b", "one", "two"].iter().all(|name| news.there.contains(&(*name).into())));
            assert_eq!((news.gone, news.some_lost), (vec![], false), "none of them went");
            socket.remove_link(bridge).unwrap();
            assert_eq!(listener.link_news().unwrap().gone, ["b"]);
        });
    }
}
