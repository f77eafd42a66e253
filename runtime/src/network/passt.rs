//! A network for those who are not root: passt, a network stack in user space, a process for each VM.
//!
//! ```text
//!   world ── the user's own sockets ── passt ══ stream socket ══ VMM ── the guest's eth0
//! ```
//!
//! passt answers for everybody the guest speaks to, and does what it says by sockets of its own, as the user that
//! started it. It has only the other end of our socket, and ends when that does.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use netlink::{Errno, Group, Socket};
use proto::spec::Mount;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::names::{self, Servers};
use super::own::{Newcomer, Port, Protocol};
use super::{Held, Home, NetworkError, Wiring, refused};
use crate::descriptors;
use crate::vm::Wire;

/// What a container says that wants it.
pub(super) const NAME: &str = "passt";

/// What is started for it.
pub(super) const PROGRAM: &str = "passt";

/// Whose pid is in there, in the container's directory.
const PID_FILE: &str = "passt.pid";

/// The longest packet. passt speaks to the world by sockets, where no packet has a length; between it and the
/// guest long ones are few.
const MTU: u16 = 65_520;

/// On the wire to passt there is nobody else, whoever's guest it is.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 191, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 191, 0, 1);
const PREFIX: u8 = 24;
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd4d, 0x5600, 0xffff, 0, 0, 0, 0, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd4d, 0x5600, 0xffff, 0, 0, 0, 0, 1);
const PREFIX6: u8 = 64;

/// Whom the guest asks for names: passt asks the first of the machine's own servers, be it the machine itself.
const NAMES: Ipv4Addr = Ipv4Addr::new(10, 191, 0, 3);

/// A network stack that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Stack {
    /// What says that it has ended, if it has not done so yet.
    pidfd: Option<OwnedFd>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(pidfd) = &self.pidfd else { return };
        // It keeps nothing that it would have to put in order.
        if pidfd_send_signal(pidfd, Signal::KILL).is_ok() {
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None);
        }
    }
}

/// Starts one for a container.
pub(super) fn join(newcomer: &Newcomer, dir: &Path) -> Result<(Wiring, Vec<Mount>), NetworkError> {
    let has_ipv6 = has_ipv6().map_err(refused("looking at the network"))?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(refused("a socket for passt"))?;
    let stack = start(newcomer, has_ipv6, theirs, &dir.join(PID_FILE))?;
    let names = format!("{} {}", newcomer.hostname, newcomer.name);
    let (known, servers) = ([(GUEST.into(), names)], Servers::One(NAMES.into()));
    let files = names::files(&known, &servers, &newcomer.names, GATEWAY.into());
    let (wire, about) = (Wire::Stream(ours), (mac(&newcomer.id), MTU));
    let wiring = Wiring::of_one(newcomer, wire, about, &homes(has_ipv6), Held::Stack(stack));
    Ok((wiring, files))
}

/// Whether the machine has a way out by IPv6: else a guest would wait for each name that has such an address.
fn has_ipv6() -> Result<bool, Errno> {
    let routes = Socket::open(Group::Nobody)?.routes()?;
    Ok(routes.iter().any(|route| route.destination.is_ipv6() && route.gateway.is_some()))
}

/// It goes to the background as soon as it has all ports.
fn start(
    newcomer: &Newcomer,
    has_ipv6: bool,
    socket: OwnedFd,
    pid_file: &Path,
) -> Result<Stack, NetworkError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            NetworkError::Passt("not installed (Debian package passt)".to_owned())
        }
        _ => NetworkError::Passt(source.to_string()),
    };
    descriptors::pass_on(&socket, true).map_err(failed)?;
    let mut passt = Command::new(PROGRAM);
    passt.args(["--quiet", "--fd", &socket.as_raw_fd().to_string()]);
    passt.arg("--pid").arg(pid_file).args(words(newcomer, has_ipv6));
    passt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let said = passt.output().map_err(failed)?;
    drop(socket);
    if !said.status.success() {
        let words = String::from_utf8_lossy(&said.stderr);
        // What it says last is why it ends.
        let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it ended");
        return Err(NetworkError::Passt(last.trim().to_owned()));
    }
    let pid = fs::read_to_string(pid_file).map_err(failed)?;
    let _ = fs::remove_file(pid_file);
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| NetworkError::Passt("it does not say who it is".to_owned()))?;
    // One that has ended since is nobody.
    Ok(Stack { pidfd: pidfd_open(pid, PidfdFlags::empty()).ok() })
}

/// What it is told: passt(1).
fn words(newcomer: &Newcomer, has_ipv6: bool) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    let mut say = |option: &str, value: &dyn ToString| {
        words.extend([option.to_owned(), value.to_string()]);
    };
    say("--address", &GUEST);
    say("--netmask", &PREFIX);
    say("--gateway", &GATEWAY);
    if has_ipv6 {
        say("--address", &GUEST6);
        say("--gateway", &GATEWAY6);
    }
    say("--dns-forward", &NAMES);
    // What listens at the machine's own loopback is not there for guests.
    say("--map-host-loopback", &"none");
    for (option, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let mut ports = newcomer.ports.iter().filter(|port| port.protocol == protocol).peekable();
        if ports.peek().is_none() {
            // Else the ports of the other protocol would be this one's too.
            say(option, &"none");
        }
        ports.for_each(|port| say(option, &published(port)));
    }
    if !has_ipv6 {
        words.push("--ipv4-only".to_owned());
    }
    // The guest is told by its agent.
    words.extend(["--no-dhcp", "--no-dhcpv6", "--no-ra"].map(str::to_owned));
    words
}

fn published(port: &Port) -> String {
    let Port { address, host, container, .. } = port;
    if address.is_unspecified() {
        return format!("{host}:{container}");
    }
    format!("{address}/{host}:{container}")
}

fn mac(id: &str) -> [u8; 6] {
    let byte = |at: usize| id.get(at..at + 2).and_then(|word| u8::from_str_radix(word, 16).ok());
    let [a, b, c, d] = [0, 2, 4, 6].map(|at| byte(at).unwrap_or_default());
    [2, b'M', a, b, c, d]
}

/// What the guest has, and who leads it elsewhere.
fn homes(has_ipv6: bool) -> Vec<Home> {
    let four = (GUEST.into(), PREFIX, GATEWAY.into());
    let six = has_ipv6.then_some((GUEST6.into(), PREFIX6, GATEWAY6.into()));
    [four].into_iter().chain(six).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(ports: &[&str]) -> Newcomer {
        Newcomer {
            network: NAME.into(),
            id: "0badcafe".repeat(8),
            name: "web".into(),
            hostname: "box".into(),
            ports: ports.iter().map(|word| word.parse().unwrap()).collect(),
            names: Default::default(),
            to_guest: Default::default(),
            from_guest: Default::default(),
        }
    }

    #[test]
    fn passt_is_told_what_is_published_and_nothing_else_is() {
        let told = |ports: &[&str]| words(&newcomer(ports), false).join(" ");
        assert!(told(&[]).contains("--tcp-ports none --udp-ports none"));
        let ports = ["8080:80", "127.0.0.1:53:5353/udp", "[::1]:1:2"];
        let expected = "--tcp-ports 8080:80 --tcp-ports ::1/1:2 --udp-ports 127.0.0.1/53:5353";
        assert!(told(&ports).contains(expected), "{}", told(&ports));
        assert!(told(&[]).contains("--map-host-loopback none"));
        assert_eq!(mac(&newcomer(&[]).id), [2, b'M', 0x0b, 0xad, 0xca, 0xfe]);
    }

    #[test]
    fn a_guest_has_an_address_of_ipv6_where_the_machine_has_a_way_out() {
        let addresses = |has_ipv6| homes(has_ipv6).len();
        assert_eq!((addresses(false), addresses(true)), (1, 2));
        let told = |has_ipv6| words(&newcomer(&[]), has_ipv6).contains(&"--ipv4-only".to_owned());
        assert_eq!((told(false), told(true)), (true, false));
    }
}
