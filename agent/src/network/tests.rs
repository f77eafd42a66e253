//! Cables in a network namespace of a thread's own play the cards.

use std::io::Write;
use std::net::IpAddr;
use std::thread;

use proto::network::{Address, Neighbour, Network, Route};

use super::*;

/// What is at the other end of the first cable.
const ROUTER: &str = "10.9.0.1";

fn ip(word: &str) -> IpAddr {
    word.parse().unwrap()
}

fn named(name: &str) -> Change<'_> {
    Change { name: Some(name), ..Change::default() }
}

/// Runs `test` where `eth0` and `eth1` are cables whose other ends are up, and no other interface but the
/// loopback is.
fn with_cards(test: impl FnOnce(&mut Socket) + Send + 'static) {
    let told = thread::spawn(move || {
        if sys::unshare(NewNamespaces::NETWORK).is_err() {
            let _ = writeln!(std::io::stderr(), "skipped: no new network namespace");
            return;
        }
        let mut here = Socket::open(Group::Nobody).unwrap();
        for (card, end) in [("eth0", "end0"), ("eth1", "end1")] {
            here.add_cable(&named(card), &named(end)).unwrap();
        }
        test(&mut here);
    });
    told.join().unwrap();
}

fn network() -> Network {
    let address = |word, prefix| Address {
        ip: ip(word),
        prefix,
        peer: None,
        broadcast: None,
        scope: 0,
        no_route: false,
    };
    let route = |destination, prefix, slot, gateway: Option<&str>, scope| Route {
        destination: ip(destination),
        prefix,
        slot,
        gateway: gateway.map(ip),
        source: None,
        metric: None,
        scope,
        on_link: false,
    };
    Network {
        interfaces: vec![
            // What the other is called so far.
            Interface {
                slot: 0,
                name: "eth1".into(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1400,
                finished: true,
                addresses: vec![address("10.9.0.2", 24), address("fd00:9::2", 64)],
            },
            Interface {
                slot: 1,
                name: "net1".into(),
                mac: [2, 0, 0, 0, 0, 2],
                mtu: 1500,
                finished: false,
                addresses: vec![address("10.8.0.2", 32)],
            },
        ],
        routes: vec![
            route("10.8.0.1", 32, 1, None, 253),
            route("0.0.0.0", 0, 0, Some(ROUTER), 0),
            route("::", 0, 0, Some("fd00:9::1"), 0),
        ],
        neighbours: vec![Neighbour { slot: 0, ip: ip(ROUTER), mac: [2, 0, 0, 0, 0, 9] }],
    }
}

#[test]
fn cards_turn_intowhat_the_host_has_said() {
    with_cards(|here| {
        for end in ["end0", "end1"] {
            let end = here.link(end).unwrap();
            here.change_link(end.index, &Change { up: Some(true), ..Change::default() }).unwrap();
        }
        change(&Network::default(), &network(), None).unwrap();
        let first = here.link("eth1").unwrap();
        let about = (first.mac.as_slice(), first.mtu, first.is_running());
        assert_eq!(about, (&[2, 0, 0, 0, 0, 1][..], 1400, true));
        let second = here.link("net1").unwrap();
        let addresses = here.addresses().unwrap();
        let of =
            |index, word: &str| addresses.iter().any(|it| it.index == index && it.ip == ip(word));
        assert!(of(first.index, "10.9.0.2") && of(first.index, "fd00:9::2"), "{addresses:?}");
        assert!(of(second.index, "10.8.0.2"), "{addresses:?}");
        let routes = here.routes().unwrap();
        let gateways: Vec<_> = routes.iter().filter_map(|route| route.gateway).collect();
        assert_eq!(gateways, [ip(ROUTER), ip("fd00:9::1")], "{routes:?}");
        let lone = routes.iter().find(|route| route.destination == ip("10.8.0.1")).unwrap();
        assert_eq!((lone.index, lone.prefix, lone.scope), (second.index, 32, 253));
        let neighbours = here.neighbours().unwrap();
        assert!(neighbours.iter().any(|it| it.ip == ip(ROUTER) && it.mac == [2, 0, 0, 0, 0, 9]));
    });
}

#[test]
fn what_cannot_be_done_is_named() {
    with_cards(|_| {
        let refusal = |spoil: fn(&mut Network)| {
            let mut network = network();
            network.interfaces.remove(0);
            network.routes.clear();
            network.neighbours.clear();
            spoil(&mut network);
            change(&Network::default(), &network, None).unwrap_err().to_string()
        };
        let slot = refusal(|network| network.interfaces[0].slot = 7);
        assert_eq!(slot, "eth7: no such device");
    });
}

#[test]
fn what_the_host_has_changed_is_changed_and_the_rest_stays() {
    with_cards(|here| {
        for end in ["end0", "end1"] {
            let end = here.link(end).unwrap();
            here.change_link(end.index, &Change { up: Some(true), ..Change::default() }).unwrap();
        }
        let (there, place) = elsewhere().unwrap();
        for card in ["eth0", "eth1"] {
            let index = here.link(card).unwrap().index;
            let away = Change { namespace: Some(place.as_fd()), ..Change::default() };
            here.change_link(index, &away).unwrap();
        }
        let mut parked = Parked { there, place };
        let both = network();
        let mut one = both.clone();
        // The second is gone; the first has another address, and leads elsewhere.
        one.interfaces.truncate(1);
        one.interfaces[0].addresses[0].ip = ip("10.7.0.2");
        one.interfaces[0].mtu = 1300;
        one.routes.retain(|route| route.slot == 0 && route.destination.is_ipv6());
        one.neighbours.clear();
        let mut last = Network::default();
        let mut turn_into = |now: &Network| {
            change(&last, now, Some(&mut parked)).unwrap();
            last = now.clone();
        };
        let mut look = || {
            let mut names: Vec<_> =
                here.links().unwrap().into_iter().map(|link| link.name).collect();
            let own = |ip: &IpAddr| !ip.to_string().starts_with("fe80");
            let addresses = here.addresses().unwrap().into_iter().map(|it| it.ip).filter(own);
            let routes = here.routes().unwrap().into_iter().filter_map(|it| it.gateway);
            let (mut addresses, mut routes) =
                (addresses.collect::<Vec<_>>(), routes.collect::<Vec<_>>());
            names.sort();
            addresses.sort();
            routes.sort();
            (names, addresses, routes)
        };
        turn_into(&both);
        let first = look();
        assert_eq!(first.0, ["end0", "end1", "eth1", "lo", "net1"]);
        turn_into(&one);
        let fewer = (
            ["end0", "end1", "eth1", "lo"].map(str::to_owned).to_vec(),
            vec![ip("10.7.0.2"), ip("fd00:9::2")],
            vec![ip("fd00:9::1")],
        );
        assert_eq!(look(), fewer);
        turn_into(&both);
        assert_eq!(look(), first);
        turn_into(&Network::default());
        assert_eq!(look().0, ["end0", "end1", "lo"]);
    });
}
