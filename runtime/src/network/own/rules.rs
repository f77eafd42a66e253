//! The host's rules, as one script for nft(8) that replaces all that were there.

use std::fmt::Write;
use std::net::IpAddr;

use netlink::tables::Family;

use super::network::{Lease, Network, PREFIX6};
use super::ports::Port;

/// The tables that are ours alone.
pub(super) const TABLES: [(Family, &str); 2] =
    [(Family::Inet, "microvm"), (Family::Bridge, "microvm")];

/// The rules for these networks and who is on them.
pub(super) fn all(networks: &[(Network, Vec<Lease>)]) -> String {
    let mut script = String::new();
    for (family, name) in TABLES {
        let family = match family {
            Family::Inet => "inet",
            Family::Bridge => "bridge",
        };
        // One that is there can be deleted, and one that is not is there now.
        let _ = writeln!(script, "table {family} {name} {{}}\ndelete table {family} {name}");
    }
    let leases = || networks.iter().flat_map(|(_, leases)| leases);
    let published: String = leases().flat_map(publish).collect();
    let translated: String = networks.iter().map(|(network, _)| translate(network)).collect();
    let admitted: String = networks.iter().map(|(network, _)| admit(network)).collect();
    let jumps: String =
        leases().map(|lease| format!("    iifname \"{0}\" jump {0}\n", lease.tap)).collect();
    let checks: String = leases().map(check).collect();
    let _ = write!(
        script,
        "table inet microvm {{
  chain published {{
{published}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    fib daddr type local jump published
  }}
  chain output {{
    type nat hook output priority dstnat
    fib daddr type local jump published
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
{translated}  }}
  chain forward {{
    type filter hook forward priority filter
{admitted}  }}
}}
table bridge microvm {{
{checks}  chain prerouting {{
    type filter hook prerouting priority filter
{jumps}  }}
}}
"
    );
    script
}

/// What comes to a published port goes to its container.
fn publish(lease: &Lease) -> Vec<String> {
    let rule = |port: &Port| {
        let Port { address, host, container, protocol } = port;
        let (only, family, to) = match address {
            IpAddr::V4(_) => ("ip daddr", "ipv4", IpAddr::V4(lease.ip4)),
            IpAddr::V6(_) => ("ip6 daddr", "ipv6", IpAddr::V6(lease.ip6)),
        };
        let only = match address.is_unspecified() {
            true => format!("meta nfproto {family}"),
            false => format!("{only} {address}"),
        };
        let (kind, to) = match to {
            IpAddr::V4(to) => ("ip", to.to_string()),
            IpAddr::V6(to) => ("ip6", format!("[{to}]")),
        };
        format!("    {only} {protocol} dport {host} dnat {kind} to {to}:{container}\n")
    };
    lease.ports.iter().map(rule).collect()
}

/// Who leaves a network has the host's address; so has who comes back to it by a published port.
fn translate(network: &Network) -> String {
    let (four, six) = subnets(network);
    let bridge = network.bridge();
    format!(
        "    ip saddr {four} ip daddr != {four} masquerade
    ip6 saddr {six} ip6 daddr != {six} masquerade
    ip saddr {four} ip daddr {four} ct status dnat masquerade
    ip6 saddr {six} ip6 daddr {six} ct status dnat masquerade
    ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
"
    )
}

/// From elsewhere comes what was asked for, and what goes to a published port.
fn admit(network: &Network) -> String {
    let bridge = network.bridge();
    format!(
        "    oifname \"{bridge}\" ct state established,related accept
    oifname \"{bridge}\" ct status dnat accept
    oifname \"{bridge}\" iifname != \"{bridge}\" drop
"
    )
}

/// A guest speaks for itself alone: by its own addresses, and as no router. What it sends to the host's loopback, to
/// which the bridge leads because published ports are reached from there, does not arrive.
fn check(lease: &Lease) -> String {
    let Lease { tap, ip4, ip6, .. } = lease;
    let mac = lease.mac_words();
    let link = lease.link_local();
    format!(
        "  chain {tap} {{
    ether saddr != {mac} drop
    ether type arp arp saddr ether {mac} arp saddr ip {ip4} accept
    ip daddr 127.0.0.0/8 drop
    ether type ip ip saddr {ip4} accept
    icmpv6 type nd-router-advert drop
    icmpv6 type nd-neighbor-advert icmpv6 taddr != {{ {ip6}, {link} }} drop
    ether type ip6 ip6 saddr {{ ::, {ip6}, {link} }} accept
    drop
  }}
"
    )
}

fn subnets(network: &Network) -> (String, String) {
    (network.words(), format!("{}/{PREFIX6}", network.subnet6()))
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
        let script = all(&[(network("town"), vec![web.clone(), lease(3)])]);
        for rule in [
            "meta nfproto ipv4 tcp dport 8080 dnat ip to 10.190.7.2:80",
            "ip daddr 127.0.0.1 udp dport 53 dnat ip to 10.190.7.2:5353",
            "ip6 daddr ::1 tcp dport 81 dnat ip6 to [fd4d:5600:7::2]:80",
            "ip saddr 10.190.7.0/24 ip daddr != 10.190.7.0/24 masquerade",
            "oifname \"mv-town\" iifname != \"mv-town\" drop",
            "ether saddr != 02:4d:0a:be:07:02 drop",
            "ether type ip ip saddr 10.190.7.3 accept",
        ] {
            assert!(script.contains(rule), "{rule} in {script}");
        }
        assert_eq!(script.matches(&format!("jump {}\n", web.tap)).count(), 1);
    }
}
