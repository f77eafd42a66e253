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

/// What somebody wants a container to be told, instead of what the machine's own files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Whom it asks.
    pub(crate) servers: Vec<IpAddr>,
    /// Where it looks for short names.
    pub(crate) search: Vec<String>,
    /// And how.
    pub(crate) options: Vec<String>,
    /// Lines of `/etc/hosts` besides; without an address, the host's.
    pub(crate) hosts: Vec<(String, Option<IpAddr>)>,
}

/// `/etc/hosts`, with the names of those on its network and no others but what is wanted, and `/etc/resolv.conf`, for a
/// container that meets the host at this address.
pub(super) fn files(
    known: &[(IpAddr, String)],
    servers: &Servers,
    wanted: &Names,
    host: IpAddr,
) -> Vec<Mount> {
    let more = wanted.hosts.iter().map(|(name, at)| (at.unwrap_or(host), name.clone()));
    let known: Vec<_> = known.iter().cloned().chain(more).collect();
    let texts = RESOLV_CONF.map(|path| fs::read_to_string(path).unwrap_or_default());
    let resolv_conf = match servers {
        Servers::Machines => resolv_conf(&texts),
        Servers::One(server) => asked_of(*server, &texts[0]),
    };
    let resolv_conf = instead(resolv_conf, wanted);
    let hosts = Mount { introduces: true, ..file("/etc/hosts", hosts(&known)) };
    vec![hosts, file("/etc/resolv.conf", resolv_conf)]
}

/// A text with the lines that are wanted in the places of its own of that kind.
fn instead(text: String, wanted: &Names) -> String {
    let servers = wanted.servers.iter().map(|server| format!("nameserver {server}")).collect();
    let line = |keyword: &str, words: &[String]| -> Vec<_> {
        let line = || format!("{keyword} {}", words.join(" "));
        (!words.is_empty()).then(line).into_iter().collect()
    };
    let kinds = [
        ("nameserver", servers),
        ("search", line("search", &wanted.search)),
        ("options", line("options", &wanted.options)),
    ];
    kinds.into_iter().filter(|(_, lines): &(_, Vec<_>)| !lines.is_empty()).fold(
        text,
        |text, (keyword, lines)| {
            let others = text.lines().filter(|line| !line.starts_with(keyword)).map(str::to_owned);
            lines.into_iter().chain(others).map(|line| line + "\n").collect()
        },
    )
}

fn hosts(known: &[(IpAddr, String)]) -> String {
    let lines = known.iter().map(|(address, names)| line(*address, names) + "\n");
    std::iter::once(LOCALHOST.to_owned()).chain(lines).collect()
}

/// A line of `/etc/hosts`.
pub(super) fn line(address: IpAddr, names: &str) -> String {
    format!("{address}\t{names}")
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
    fn what_is_wanted_stands_in_the_place_of_what_is_there() {
        let text = "nameserver 192.0.2.1\nsearch lan\noptions edns0\n".to_owned();
        assert_eq!(instead(text.clone(), &Names::default()), text);
        let servers = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let wanted = Names { servers, search: vec!["a".into(), "b".into()], ..Names::default() };
        let expected = "search a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions edns0\n";
        assert_eq!(instead(text, &wanted), expected);
        let hosts = vec![("db".to_owned(), "10.0.0.9".parse().ok()), ("here".to_owned(), None)];
        let wanted = Names { hosts, ..Names::default() };
        let files = files(&[], &Servers::Machines, &wanted, [10, 0, 0, 1].into());
        let hosts = files[0].content.as_deref().unwrap();
        assert!(hosts.ends_with("10.0.0.9\tdb\n10.0.0.1\there\n"), "{hosts}");
    }

    #[test]
    fn one_server_is_asked_in_the_machines_own_words() {
        let text = "# by resolved\nnameserver 127.0.0.53\nsearch lan\noptions edns0\n";
        let asked = "nameserver 192.0.2.3\nsearch lan\noptions edns0\n";
        assert_eq!(asked_of([192, 0, 2, 3].into(), text), asked);
    }
}
