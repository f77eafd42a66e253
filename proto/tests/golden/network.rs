//! What a guest is told of its network.

use std::net::Ipv6Addr;

use proto::network::{Address, Interface, Neighbour, Network, Route};

use super::*;

#[test]
fn a_network_stands() {
    let network = Network {
        interfaces: vec![Interface {
            slot: 0,
            name: "eth0".into(),
            mac: [2, 0, 0, 0, 0, 255],
            mtu: 1500,
            finished: true,
            addresses: vec![Address {
                ip: [10, 0, 0, 2].into(),
                prefix: 24,
                peer: None,
                broadcast: Some([10, 0, 0, 255].into()),
                scope: 0,
                no_route: false,
            }],
        }],
        routes: vec![Route {
            destination: Ipv6Addr::UNSPECIFIED.into(),
            prefix: 0,
            slot: 0,
            gateway: Some(Ipv6Addr::LOCALHOST.into()),
            source: None,
            metric: Some(7),
            scope: 253,
            on_link: true,
        }],
        neighbours: vec![Neighbour { slot: 0, ip: [10, 0, 0, 1].into(), mac: [2, 0, 0, 0, 0, 1] }],
    };
    let json = concat!(
        r#"{"interfaces":[{"slot":0,"name":"eth0","mac":[2,0,0,0,0,255],"mtu":1500,"finished":true,"addresses":"#,
        r#"[{"ip":"10.0.0.2","prefix":24,"broadcast":"10.0.0.255","scope":0,"no_route":false}]}],"#,
        r#""routes":[{"destination":"::","prefix":0,"slot":0,"gateway":"::1","metric":7,"#,
        r#""scope":253,"on_link":true}],"#,
        r#""neighbours":[{"slot":0,"ip":"10.0.0.1","mac":[2,0,0,0,0,1]}]}"#,
    );
    stands(network.clone(), json);
    let adoption = Adoption { seed: [0; 32], wall_clock_ns: 0, disk_sectors: vec![], network };
    let said = frame::encode(&adoption).unwrap();
    let said = std::str::from_utf8(&said[4..]).unwrap();
    assert!(said.ends_with(&format!(r#","network":{json}}}"#)), "{said}");
}

#[test]
fn calls_about_the_network_stand() {
    stands(
        call(Request::Connect { network: Network::default() }),
        r#"{"id":7,"request":{"do":"connect","network":{"interfaces":[],"routes":[],"neighbours":[]}}}"#,
    );
    let (gone, come) = (vec!["10.0.0.2\tone".into()], vec!["10.0.0.3\ttwo".into()]);
    stands(
        call(Request::Introduce { container: "web".into(), gone, come }),
        concat!(
            r#"{"id":7,"request":{"do":"introduce","container":"web","#,
            r#""gone":["10.0.0.2\tone"],"come":["10.0.0.3\ttwo"]}}"#,
        ),
    );
}
