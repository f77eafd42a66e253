//! The host's rules: two tables that replace all that was in them. `nft list ruleset` shows them in words.

use std::net::IpAddr;

use netlink::rule::{Base, Connection, ESTABLISHED, Is, Meta, RELATED, Rule, TRANSLATED};
use netlink::tables::{Chain, Family, Hook, Place, Table};

use super::network::{Lease, Network, PREFIX6};
use super::ports::{Port, Protocol};

/// The tables that are ours alone.
pub(super) const TABLES: [(Family, &str); 2] =
    [(Family::Inet, "microvm"), (Family::Bridge, "microvm")];

/// `ETH_P_IP`, `ETH_P_ARP`, `ETH_P_IPV6`.
const IP: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FOUR: u8 = 2;
const SIX: u8 = 10;
/// Of what is in a packet: `IPPROTO_*`.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Which address of a packet's.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// A packet's address, of the kind that `address` is of.
fn place(end: End, address: &IpAddr) -> u32 {
    match (end, address) {
        (End::Source, IpAddr::V4(_)) => 12,
        (End::Destination, IpAddr::V4(_)) => 16,
        (End::Source, IpAddr::V6(_)) => 8,
        (End::Destination, IpAddr::V6(_)) => 24,
    }
}

/// Asks for a packet of the kind that an address is of.
fn of_kind(rule: Rule, address: &IpAddr) -> Rule {
    rule.meta(Meta::Family, Is::Equal, &[if address.is_ipv4() { FOUR } else { SIX }])
}

/// The rules for these networks and who is on them.
pub(super) fn all(networks: &[(Network, Vec<Lease>)]) -> [Table; 2] {
    let leases = || networks.iter().flat_map(|(_, leases)| leases);
    let hung = |name: &str, kind, place, priority, rules| Chain {
        name: name.to_owned(),
        hook: Some(Hook { kind, place, priority }),
        rules,
    };
    let published = || vec![Rule::default().for_this_machine().jump(PUBLISHED)];
    let each = |rules: fn(&Network) -> Vec<Rule>| {
        networks.iter().flat_map(|(network, _)| rules(network)).collect()
    };
    // Priorities are those which nft(8) calls dstnat, srcnat and filter.
    let chains = vec![
        Chain {
            name: PUBLISHED.to_owned(),
            hook: None,
            rules: leases().flat_map(publish).collect(),
        },
        hung("prerouting", "nat", Place::Prerouting, -100, published()),
        hung("output", "nat", Place::Output, -100, published()),
        hung("postrouting", "nat", Place::Postrouting, 100, each(translate)),
        hung("forward", "filter", Place::Forward, 0, each(admit)),
    ];
    let jump = |lease: &Lease| {
        Rule::default().meta(Meta::InName, Is::Equal, lease.tap.as_bytes()).jump(&lease.tap)
    };
    let check = |lease: &Lease| Chain { name: lease.tap.clone(), hook: None, rules: check(lease) };
    let jumps = leases().map(jump).collect();
    let gate = hung("prerouting", "filter", Place::Prerouting, -200, jumps);
    let checks = leases().map(check).chain([gate]).collect();
    let [inet, bridge] = TABLES.map(|(family, name)| Table { family, name, chains: vec![] });
    [Table { chains, ..inet }, Table { chains: checks, ..bridge }]
}

/// The chain of what comes to published ports.
const PUBLISHED: &str = "published";

/// What comes to a published port goes to its container.
fn publish(lease: &Lease) -> Vec<Rule> {
    let rule = |port: &Port| {
        let Port { address, host, container, protocol } = port;
        let to = match address {
            IpAddr::V4(_) => IpAddr::V4(lease.ip4),
            IpAddr::V6(_) => IpAddr::V6(lease.ip6),
        };
        let mut rule = of_kind(Rule::default(), address);
        if !address.is_unspecified() {
            let only = netlink::octets(address);
            rule = rule.bytes(Base::Network, place(End::Destination, address), Is::Equal, &only);
        }
        let protocol = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        rule.meta(Meta::Transport, Is::Equal, &[protocol])
            .bytes(Base::Transport, 2, Is::Equal, &host.to_be_bytes())
            .redirect_to(to, *container)
    };
    lease.ports.iter().map(rule).collect()
}

/// Who leaves a network has the host's address; so has who comes back to it by a published port.
fn translate(network: &Network) -> Vec<Rule> {
    let of = |subnet: (IpAddr, u8)| {
        let from = || {
            let rule = of_kind(Rule::default(), &subnet.0);
            rule.within(Base::Network, place(End::Source, &subnet.0), Is::Equal, subnet)
        };
        let to = |rule: Rule, is| {
            rule.within(Base::Network, place(End::Destination, &subnet.0), is, subnet)
        };
        [
            to(from(), Is::Other).masquerade(),
            to(from(), Is::Equal).connection(Connection::Status, TRANSLATED).masquerade(),
        ]
    };
    let four = (IpAddr::V4(network.subnet), network.prefix);
    let six = (IpAddr::V6(network.subnet6()), PREFIX6);
    let loopback = of_kind(Rule::default(), &four.0)
        .bytes(Base::Network, place(End::Source, &four.0), Is::Equal, &[127])
        .meta(Meta::OutName, Is::Equal, network.bridge().as_bytes())
        .masquerade();
    of(four).into_iter().chain(of(six)).chain([loopback]).collect()
}

/// From elsewhere comes what was asked for, and what goes to a published port.
fn admit(network: &Network) -> Vec<Rule> {
    let bridge = network.bridge();
    let to_it = || Rule::default().meta(Meta::OutName, Is::Equal, bridge.as_bytes());
    vec![
        to_it().connection(Connection::State, ESTABLISHED | RELATED).accept(),
        to_it().connection(Connection::Status, TRANSLATED).accept(),
        to_it().meta(Meta::InName, Is::Other, bridge.as_bytes()).drop(),
    ]
}

/// A guest speaks for itself alone: by its own addresses, and as no router. What it sends to the host's loopback, to
/// which the bridge leads because published ports are reached from there, does not arrive.
fn check(lease: &Lease) -> Vec<Rule> {
    /// Where a frame says what is in it, and from whom it is.
    const TYPE: u32 = 12;
    const MAC: u32 = 6;
    /// ARP for Ethernet and IPv4 (RFC 826), and where it says who asks.
    const HEADER: [u8; 6] = [0, 1, IP[0], IP[1], 6, 4];
    const ASKER: u32 = 8;
    /// Router and neighbour advertisements, and where the latter say of whom (RFC 4861, 4.2 and 4.4).
    const ROUTER: u8 = 134;
    const NEIGHBOUR: u8 = 136;
    const TARGET: u32 = 8;
    let Lease { mac, ip4, ip6, .. } = lease;
    let own = [ip6.octets(), lease.link_local().octets()];
    let frame = |kind: [u8; 2]| Rule::default().bytes(Base::Link, TYPE, Is::Equal, &kind);
    let advertises = |what: u8| {
        Rule::default()
            .meta(Meta::Protocol, Is::Equal, &IPV6)
            .meta(Meta::Transport, Is::Equal, &[ICMPV6])
            .bytes(Base::Transport, 0, Is::Equal, &[what])
    };
    let asker = [&mac[..], &ip4.octets()].concat();
    let neighbour = own.iter().fold(advertises(NEIGHBOUR), |rule, address| {
        rule.bytes(Base::Transport, TARGET, Is::Other, address)
    });
    let mut rules = vec![
        Rule::default().bytes(Base::Link, MAC, Is::Other, mac).drop(),
        frame(ARP)
            .bytes(Base::Network, 0, Is::Equal, &HEADER)
            .bytes(Base::Network, ASKER, Is::Equal, &asker)
            .accept(),
        Rule::default()
            .meta(Meta::Protocol, Is::Equal, &IP)
            .bytes(Base::Network, 16, Is::Equal, &[127])
            .drop(),
        frame(IP).bytes(Base::Network, 12, Is::Equal, &ip4.octets()).accept(),
        advertises(ROUTER).drop(),
        neighbour.drop(),
    ];
    // Without an address is who asks whether somebody has it.
    let from = [[0; 16]].into_iter().chain(own);
    rules.extend(from.map(|ip| frame(IPV6).bytes(Base::Network, 8, Is::Equal, &ip).accept()));
    rules.push(Rule::default().drop());
    rules
}

#[cfg(test)]
mod tests {
    use super::super::network::testing::{lease, network};
    use super::*;

    #[test]
    fn everybody_has_his_ports_and_speaks_for_himself() {
        let mut web = lease(2);
        web.ports = ["8080:80", "127.0.0.1:53:5353/udp", "[::1]:81:80"]
            .map(|it| it.parse().unwrap())
            .into();
        let [inet, bridge] = all(&[(network("town"), vec![web.clone(), lease(3)])]);
        let names = |table: &Table| -> Vec<_> {
            table.chains.iter().map(|chain| (chain.name.clone(), chain.rules.len())).collect()
        };
        let own = |lease: &Lease| (lease.tap.clone(), 10);
        assert_eq!(names(&bridge), [own(&web), own(&lease(3)), ("prerouting".to_owned(), 2)]);
        let expected = ["published", "prerouting", "output", "postrouting", "forward"];
        assert_eq!(
            names(&inet),
            expected.map(str::to_owned).into_iter().zip([3, 1, 1, 5, 3]).collect::<Vec<_>>()
        );
        let published = &inet.chains[0].rules;
        let udp = of_kind(Rule::default(), &IpAddr::V4(web.ip4))
            .bytes(Base::Network, 16, Is::Equal, &[127, 0, 0, 1])
            .meta(Meta::Transport, Is::Equal, &[17])
            .bytes(Base::Transport, 2, Is::Equal, &[0, 53])
            .redirect_to(web.ip4.into(), 5353);
        assert_eq!(published[1], udp);
    }
}
