//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::socket::SET;
use crate::wire::{Message, attributes, number};
use crate::{Socket, family, ip, octets};

const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

/// `struct rtmsg`.
const HEADER: usize = 12;

const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const METRIC: u16 = 6;
const SOURCE: u16 = 7;
const HOPS: u16 = 9;
const TABLE: u16 = 15;
const VIA: u16 = 18;

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;
/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// `RTPROT_BOOT`: somebody said so once.
const BOOT: u8 = 3;
/// `RTPROT_KERNEL`: it is there because of an address.
const KERNEL: u8 = 2;
/// `RTPROT_RA`: a router has said so.
const ROUTER: u8 = 9;
/// `RTNH_F_ONLINK`: the gateway is on the link, whatever the addresses say.
const ON_LINK: u32 = 4;
/// `RTM_F_CLONED`: a cached decision.
const CLONED: u32 = 0x200;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; of no bits, everywhere.
    pub destination: IpAddr,
    /// Bits of that which count.
    pub prefix: u8,
    /// Over which interface.
    pub index: u32,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// From which of our addresses.
    pub source: Option<IpAddr>,
    /// The less, the better.
    pub metric: Option<u32>,
    /// How far it is (`RT_SCOPE_*`).
    pub scope: u8,
    /// The gateway is on the link, whatever the addresses say.
    pub on_link: bool,
    /// What it is besides, which cannot be said here: several next hops, or a gateway of another family.
    pub is_more: bool,
}

impl Route {
    /// Those that somebody has decided on; not those that follow from an address or a router's word.
    fn read(body: &[u8]) -> Option<Self> {
        let &[family, prefix, _, _, table, protocol, scope, kind] = body.first_chunk()?;
        let flags = number(body, 8)?;
        let everywhere: IpAddr = match family {
            2 => Ipv4Addr::UNSPECIFIED.into(),
            10 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut route = Self {
            destination: everywhere,
            prefix,
            index: 0,
            gateway: None,
            source: None,
            metric: None,
            scope,
            on_link: flags & ON_LINK != 0,
            is_more: false,
        };
        let mut table = u32::from(table);
        for (kind, value) in attributes(body, HEADER) {
            match kind {
                DESTINATION => route.destination = ip(value)?,
                INTERFACE => route.index = number(value, 0)?,
                GATEWAY => route.gateway = ip(value),
                METRIC => route.metric = number(value, 0),
                SOURCE => route.source = ip(value),
                TABLE => table = number(value, 0)?,
                HOPS | VIA => route.is_more = true,
                _ => {}
            }
        }
        let is_decided = ![KERNEL, ROUTER].contains(&protocol) && kind == UNICAST;
        (table == MAIN && is_decided && flags & CLONED == 0).then_some(route)
    }
}

impl Route {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let Self { destination, prefix, index, gateway, source, metric, scope, on_link, .. } = self;
        let more = if *on_link { ON_LINK } else { 0 };
        let mut header =
            vec![family(destination), *prefix, 0, 0, MAIN as u8, BOOT, *scope, UNICAST];
        header.extend(more.to_ne_bytes());
        Message::new(kind, flags, &header)
            .with_number(INTERFACE, *index)
            .with_some((*prefix > 0).then_some(destination), |message, destination| {
                message.with(DESTINATION, &octets(destination))
            })
            .with_some(*gateway, |message, gateway| message.with(GATEWAY, &octets(&gateway)))
            .with_some(*source, |message, source| message.with(SOURCE, &octets(&source)))
            .with_some(*metric, |message, metric| message.with_number(METRIC, metric))
    }
}

impl Socket {
    /// The routes of the main table that somebody has decided on.
    pub fn routes(&mut self) -> Result<Vec<Route>, Errno> {
        self.list(|| Message::new(GET_ROUTE, 0, &[0; HEADER]), NEW_ROUTE, Route::read)
    }

    /// Adds a route.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Errno> {
        self.order(route.message(NEW_ROUTE, SET))
    }

    /// Takes a route away.
    pub fn remove_route(&mut self, route: &Route) -> Result<(), Errno> {
        self.order(route.message(DEL_ROUTE, 0))
    }
}
