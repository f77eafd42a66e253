//! Addresses of interfaces.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::socket::SET;
use crate::wire::{Message, attributes, number};
use crate::{Socket, family, ip, octets};

const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;

/// `struct ifaddrmsg`.
const HEADER: usize = 8;

const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;

/// `IFA_F_NODAD`: nobody is asked whether he has the same.
const NOBODY_IS_ASKED: u32 = 2;
/// `IFA_F_NOPREFIXROUTE`.
const NO_ROUTE: u32 = 0x200;
/// `RT_SCOPE_LINK`.
const LINK_SCOPE: u8 = 253;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of it that its network has in common.
    pub prefix: u8,
    /// Who is at the other end, of a line that has two.
    pub peer: Option<IpAddr>,
    /// Whom all listen to, in IPv4.
    pub broadcast: Option<IpAddr>,
    /// Where it means something (`RT_SCOPE_*`).
    pub scope: u8,
    /// Its network is not reached by having it.
    pub no_route: bool,
}

impl Address {
    /// It means something on its own link only.
    pub fn is_of_the_link(&self) -> bool {
        self.scope == LINK_SCOPE
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let Self { index, ip, prefix, peer, broadcast, scope, no_route } = self;
        let more = NOBODY_IS_ASKED | if *no_route { NO_ROUTE } else { 0 };
        let mut header = vec![family(ip), *prefix, NOBODY_IS_ASKED as u8, *scope];
        header.extend(index.to_ne_bytes());
        let broadcast = broadcast.filter(IpAddr::is_ipv4);
        Message::new(kind, flags, &header)
            .with(LOCAL, &octets(ip))
            .with(ADDRESS, &octets(&peer.unwrap_or(*ip)))
            .with_some(broadcast, |message, broadcast| message.with(BROADCAST, &octets(&broadcast)))
            .with_number(FLAGS, more)
    }

    fn read(body: &[u8]) -> Option<Self> {
        let &[_, prefix, flags, scope] = body.first_chunk()?;
        let (mut local, mut other, mut broadcast, mut flags) = (None, None, None, u32::from(flags));
        for (kind, value) in attributes(body, HEADER) {
            match kind {
                ADDRESS => other = ip(value),
                LOCAL => local = ip(value),
                BROADCAST => broadcast = ip(value),
                FLAGS => flags = number(value, 0)?,
                _ => {}
            }
        }
        // IPv6 says `LOCAL` only of a line with two ends.
        let ip = local.or(other)?;
        let peer = other.filter(|other| *other != ip);
        let no_route = flags & NO_ROUTE != 0;
        Some(Self { index: number(body, 4)?, ip, prefix, peer, broadcast, scope, no_route })
    }
}

impl Socket {
    /// Every address of every interface.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Errno> {
        self.list(|| Message::new(GET_ADDRESS, 0, &[0; HEADER]), NEW_ADDRESS, Address::read)
    }

    /// Gives an interface an address, which works at once.
    pub fn add_address(&mut self, address: &Address) -> Result<(), Errno> {
        self.order(address.message(NEW_ADDRESS, SET))
    }

    /// Takes an address from its interface.
    pub fn remove_address(&mut self, address: &Address) -> Result<(), Errno> {
        self.order(address.message(DEL_ADDRESS, 0))
    }
}
