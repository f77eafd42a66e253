//! In network namespaces of threads' own; they need root.

use std::io::Write;
use std::net::IpAddr;

use std::thread;

use netlink::address::Address;
use netlink::link::Change;
use netlink::route::Route;
use netlink::{Group, Socket};
use nix::sched::{CloneFlags, unshare};

use super::*;

fn ip(word: &str) -> IpAddr {
    word.parse().unwrap()
}

fn named(name: &str) -> Change<'_> {
    Change { name: Some(name), ..Change::default() }
}

fn up() -> Change<'static> {
    Change { up: Some(true), ..Change::default() }
}

/// Runs `test` in a network namespace with nothing in it but a loopback that is off.
fn elsewhere(test: impl FnOnce(&mut Socket) + Send + 'static) {
    let told = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(&mut Socket::open(Group::Nobody).unwrap()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: no network namespace: {error}");
        }
    });
    told.join().unwrap();
}

/// A cable that is up, whose one end is called `name` and has addresses; the index of that end.
fn cable(here: &mut Socket, name: &str, words: &[(&str, u8)]) -> u32 {
    let other = format!("{name}-far");
    let one = Change { mac: Some([2, 0, 0, 0, 1, name.len() as u8]), ..named(name) };
    here.add_cable(&one, &named(&other)).unwrap();
    let [index, far] = [name, &other].map(|name| here.link(name).unwrap().index);
    here.change_link(index, &up()).unwrap();
    for (ip, prefix) in words {
        let address = Address {
            index,
            ip: ip.parse().unwrap(),
            prefix: *prefix,
            peer: None,
            broadcast: None,
            scope: 0,
            no_route: false,
        };
        here.add_address(&address).unwrap();
    }
    // What stays off is not carried.
    let _ = far;
    index
}

fn route(index: u32, to: &str, prefix: u8, gateway: Option<&str>) -> Route {
    Route {
        destination: ip(to),
        prefix,
        index,
        gateway: gateway.map(ip),
        source: None,
        metric: None,
        scope: if gateway.is_some() { 0 } else { 253 },
        on_link: false,
        is_more: false,
    }
}

#[test]
fn a_guest_is_told_what_is_there_and_nothing_else() {
    elsewhere(|here| {
        let lo = here.link("lo").unwrap().index;
        here.change_link(lo, &up()).unwrap();
        let index = cable(here, "eth0", &[("10.1.0.5", 24), ("fd00:1::5", 64)]);
        here.add_route(&route(index, "169.254.1.1", 32, None)).unwrap();
        here.add_route(&route(index, "0.0.0.0", 0, Some("169.254.1.1"))).unwrap();
        here.add_route(&route(index, "::", 0, Some("fd00:1::1"))).unwrap();
        let found = survey::look(here).unwrap();
        let carried = survey::interfaces(&found).unwrap();
        let places: Vec<_> = carried.iter().cloned().map(Some).collect();
        let network = survey::network(&found, &places).unwrap();
        let names: Vec<_> = carried.iter().map(|it| (it.name.as_str(), it.index)).collect();
        assert_eq!(names, [("eth0", index)]);
        let interface = &network.interfaces[0];
        assert_eq!((interface.slot, interface.mac), (0, [2, 0, 0, 0, 1, 4]));
        let addresses: Vec<_> = interface.addresses.iter().map(|it| (it.ip, it.prefix)).collect();
        assert_eq!(addresses, [(ip("10.1.0.5"), 24), (ip("fd00:1::5"), 64)]);
        let routes: Vec<_> = network.routes.iter().map(|it| (it.prefix, it.gateway)).collect();
        let gateways = [Some(ip("169.254.1.1")), Some(ip("fd00:1::1"))];
        assert_eq!(routes, [(32, None), (0, gateways[0]), (0, gateways[1])]);
    });
}

#[test]
fn what_cannot_be_carried_is_named() {
    elsewhere(|here| {
        for name in ["a", "bb", "ccc", "dddd", "eeeee"] {
            cable(here, name, &[]);
        }
        let refusal = carry(1).unwrap_err().to_string();
        let names =
            "the network namespace has 5 interfaces, over the limit of 4: a, bb, ccc, dddd, eeeee";
        assert_eq!(refusal, names);
        assert_eq!(here.ingresses().unwrap(), [0; 0]);
    });
}

#[test]
fn a_namespace_with_a_loopback_alone_gives_none() {
    elsewhere(|here| {
        let lo = here.link("lo").unwrap().index;
        here.change_link(lo, &up()).unwrap();
        let wiring = carry(1).unwrap();
        assert!(wiring.cards.is_empty() && wiring.network.is_empty());
    });
}

#[test]
fn a_tap_and_what_is_redirected_go_with_the_vm() {
    elsewhere(|here| {
        let index = cable(here, "eth0", &[("10.1.0.5", 24)]);
        let wiring = match carry(1) {
            Ok(wiring) => wiring,
            Err(NetworkError::Refused { what, source }) if what.starts_with("redirecting") => {
                let _ = writeln!(std::io::stderr(), "skipped: {what}: {source}");
                assert_eq!(here.ingresses().unwrap(), [0; 0], "undone");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let tap = here.link(&survey::tap_name(index)).unwrap();
        assert!(tap.is_up());
        assert_eq!(here.ingresses().unwrap(), [index, tap.index]);
        assert!(matches!(carry(1), Err(NetworkError::Taken { .. })), "one VM in a namespace");
        drop(wiring);
        assert_eq!(here.link(&survey::tap_name(index)), Err(Errno::NODEV));
        assert_eq!(here.ingresses().unwrap(), [0; 0]);
    });
}

#[test]
fn what_becomes_of_a_namespace_is_followed() {
    elsewhere(|here| {
        let Held::Carried(mut carried) = carry(1).unwrap().held else { panic!("nobody follows") };
        assert!(carried.changes().unwrap().is_none());
        let index = cable(here, "eth0", &[("10.1.0.5", 24)]);
        let come = match carried.changes() {
            Err(NetworkError::Refused { what, source }) if what.starts_with("redirecting") => {
                let _ = writeln!(std::io::stderr(), "skipped: {what}: {source}");
                return;
            }
            come => come.unwrap().unwrap(),
        };
        assert!(matches!(come.wires[..], [(0, Some(_))]), "{come:?}");
        assert_eq!(come.network.interfaces[0].addresses.len(), 1);
        assert!(carried.changes().unwrap().is_none(), "our own taps are no news");
        here.add_route(&route(index, "0.0.0.0", 0, Some("10.1.0.1"))).unwrap();
        let led = carried.changes().unwrap().unwrap();
        assert_eq!((led.wires.len(), led.network.routes.len()), (0, 1));
        let second = cable(here, "eth1", &[]);
        let more = carried.changes().unwrap().unwrap();
        assert!(matches!(more.wires[..], [(1, Some(_))]), "{more:?}");
        here.remove_link(index).unwrap();
        let gone = carried.changes().unwrap().unwrap();
        assert!(matches!(gone.wires[..], [(0, None)]), "{gone:?}");
        let names: Vec<_> = gone.network.interfaces.iter().map(|it| (it.slot, &*it.name)).collect();
        assert_eq!(names, [(1, "eth1")], "who stays has the slot that he had");
        for name in ["a", "bb", "ccc", "dddd"] {
            cable(here, name, &[]);
        }
        let refusal = carried.changes().unwrap_err().to_string();
        assert!(refusal.contains("over the limit of 4"), "{refusal}");
        assert_eq!(here.ingresses().unwrap()[0], second, "and who is there stays");
        drop(carried);
        assert!(!here.ingresses().unwrap().contains(&second));
    });
}
