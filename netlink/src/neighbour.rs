//! Neighbours that somebody has named: who has which address on a link.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::socket::SET;
use crate::wire::{Message, attributes, number};
use crate::{Socket, family, ip, octets};

const NEW_NEIGHBOUR: u16 = 28;
const DEL_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;

/// `struct ndmsg`.
const HEADER: usize = 12;

const ADDRESS: u16 = 1;
const MAC: u16 = 2;

/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;

/// A neighbour that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is reached by.
    pub index: u32,
    /// Its address.
    pub ip: IpAddr,
    /// The address of its interface.
    pub mac: [u8; 6],
}

impl Neighbour {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let Self { index, ip, mac } = self;
        let mut header = vec![family(ip), 0, 0, 0];
        header.extend(index.to_ne_bytes());
        header.extend(PERMANENT.to_ne_bytes());
        header.extend([0; 2]);
        Message::new(kind, flags, &header).with(ADDRESS, &octets(ip)).with(MAC, mac)
    }

    fn read(body: &[u8]) -> Option<Self> {
        let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(body, HEADER) {
            match kind {
                ADDRESS => address = ip(value),
                MAC => mac = value.try_into().ok(),
                _ => {}
            }
        }
        let neighbour = Self { index: number(body, 4)?, ip: address?, mac: mac? };
        (state & PERMANENT != 0).then_some(neighbour)
    }
}

impl Socket {
    /// The neighbours that stay.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Errno> {
        self.list(|| Message::new(GET_NEIGHBOUR, 0, &[0; HEADER]), NEW_NEIGHBOUR, Neighbour::read)
    }

    /// Names a neighbour.
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Errno> {
        self.order(neighbour.message(NEW_NEIGHBOUR, SET))
    }

    /// Forgets a neighbour.
    pub fn remove_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Errno> {
        self.order(neighbour.message(DEL_NEIGHBOUR, 0))
    }
}
