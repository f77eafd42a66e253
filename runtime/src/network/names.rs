//! What a container finds in its files about names.

use std::fs;
use std::net::IpAddr;

use proto::spec::Mount;

use crate::plan::{LOCALHOST, file};

/// Where a machine's own list of name servers is, and the one to take if that names a server of the machine's
/// own, which no guest can ask.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Whom a container's resolver asks.
pub(super) enum Servers {
    /// The machine's own.
    Machines,
    /// This one, which asks for it.
    One(IpAddr),
}

/// `/etc/hosts`, with these names and no others but that of the guest itself, and `/etc/resolv.conf` for a
/// container.
pub(super) fn files(known: &[(IpAddr, String)], servers: &Servers) -> Vec<Mount> {
    let texts = RESOLV_CONF.map(|path| fs::read_to_string(path).unwrap_or_default());
    let resolv_conf = match servers {
        Servers::Machines => resolv_conf(&texts),
        Servers::One(server) => asked_of(*server, &texts[0]),
    };
    vec![file("/etc/hosts", hosts(known)), file("/etc/resolv.conf", resolv_conf)]
}

fn hosts(known: &[(IpAddr, String)]) -> String {
    let lines = known.iter().map(|(address, names)| format!("{address}\t{names}\n"));
    std::iter::once(LOCALHOST.to_owned()).chain(lines).collect()
}

/// What a text says, but for the servers.
fn asked_of(server: IpAddr, text: &str) -> String {
    let says_more = |line: &&str| line.starts_with("search") || line.starts_with("options");
    let rest = text.lines().filter(says_more).map(|line| format!("{line}\n"));
    std::iter::once(format!("nameserver {server}\n")).chain(rest).collect()
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
    use super::*;

    #[test]
    fn a_server_that_is_the_machine_itself_is_no_guests() {
        let stub = "# by resolved\nnameserver 127.0.0.53\nsearch lan\n".to_owned();
        let real = "nameserver 192.0.2.1\nnameserver ::1\nsearch lan\n".to_owned();
        assert_eq!(resolv_conf(&[stub.clone(), real]), "nameserver 192.0.2.1\nsearch lan\n");
        assert_eq!(resolv_conf(&[stub, String::new()]), "search lan\n");
    }

    #[test]
    fn one_server_is_asked_in_the_machines_own_words() {
        let text = "# by resolved\nnameserver 127.0.0.53\nsearch lan\noptions edns0\n";
        let asked = "nameserver 192.0.2.3\nsearch lan\noptions edns0\n";
        assert_eq!(asked_of([192, 0, 2, 3].into(), text), asked);
    }
}
