//! What a container finds in its files about names.

use std::fs;
use std::net::IpAddr;

use proto::spec::Mount;

use super::network::Lease;
use crate::plan::{LOCALHOST, file};

/// Where a machine's own list of name servers is, and the one to take if that names a server of the machine's
/// own, which no guest can ask.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// `/etc/hosts` and `/etc/resolv.conf` for a container, which knows those who are on its network.
pub(super) fn files(hostname: &str, lease: &Lease, others: &[Lease]) -> Vec<Mount> {
    let texts = RESOLV_CONF.map(|path| fs::read_to_string(path).unwrap_or_default());
    vec![
        file("/etc/hosts", hosts(hostname, lease, others)),
        file("/etc/resolv.conf", resolv_conf(&texts)),
    ]
}

fn hosts(hostname: &str, lease: &Lease, others: &[Lease]) -> String {
    let mut text = LOCALHOST.to_owned();
    let mut line = |lease: &Lease, names: &str| {
        text.push_str(&format!("{}\t{names}\n{}\t{names}\n", lease.ip4, lease.ip6));
    };
    line(lease, &format!("{hostname} {}", lease.name));
    for other in others.iter().filter(|other| other.ip4 != lease.ip4) {
        line(other, &other.name);
    }
    text
}

/// The first text that names a server which a guest can ask, without those that it cannot.
fn resolv_conf(texts: &[String]) -> String {
    let reachable = |line: &&str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        !is_server || server.is_some_and(|server| !server.is_loopback())
    };
    let names_one =
        |text: &&String| text.lines().filter(reachable).any(|it| it.starts_with("nameserver"));
    let text = texts.iter().find(names_one).or(texts.first());
    let lines = text.map(|text| text.lines().filter(reachable)).into_iter().flatten();
    lines.filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::network::testing::lease;
    use super::*;

    #[test]
    fn a_server_that_is_the_machine_itself_is_no_guests() {
        let stub = "# by resolved\nnameserver 127.0.0.53\nsearch lan\n".to_owned();
        let real = "nameserver 192.0.2.1\nnameserver ::1\nsearch lan\n".to_owned();
        assert_eq!(resolv_conf(&[stub.clone(), real]), "nameserver 192.0.2.1\nsearch lan\n");
        assert_eq!(resolv_conf(&[stub, String::new()]), "search lan\n");
    }

    #[test]
    fn a_container_knows_itself_and_its_neighbours() {
        let text = hosts("box", &lease(2), &[lease(2), lease(3)]);
        assert!(text.contains("\n10.190.7.2\tbox c2\n"), "{text}");
        assert!(text.ends_with("10.190.7.3\tc3\nfd4d:5600:7::3\tc3\n"), "{text}");
        assert_eq!(text.matches("c2").count(), 2);
    }
}
