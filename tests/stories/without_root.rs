//! A person who is not root, on the network that passt makes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tests::{House, Outcome, Running, ip};

use crate::networks::{SERVE, page};

crate::stories![
    who_is_not_root_reaches_the_world_and_is_reached,
    several_cpus_have_one_socket_of_passts,
    a_port_that_is_taken_is_named_and_nothing_stays,
    where_passt_is_missing_a_container_has_no_network_and_its_owner_hears_it,
    passt_ends_with_a_supervisor_that_is_killed,
];

/// Who it is.
const USER: u32 = 1000;

/// The group that he needs to be in to have a VM, where that is not everybody's: what starts a machine's services says
/// who may open the device.
fn group() -> u32 {
    let device = fs::metadata("/dev/kvm").unwrap();
    if device.mode() & 0o006 == 0o006 { USER } else { device.gid() }
}

/// An address of this machine's, for as long as a story lasts.
const OUTSIDE: &str = "192.0.2.1";

struct Address;

impl Address {
    fn add() -> Self {
        ip(&format!("addr add {OUTSIDE}/32 dev lo"));
        Self
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        ip(&format!("addr del {OUTSIDE}/32 dev lo"));
    }
}

/// A user of this machine, with all that is his.
struct Person {
    // Before the house, which looks at what there is.
    home: TempDir,
    house: House,
}

impl Person {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("story-").tempdir().unwrap();
        let house = House::without_templates();
        for place in [home.path(), house.state()] {
            chown(place, Some(USER), Some(USER)).unwrap();
        }
        let person = Self { home, house };
        let demo = std::env::var_os("MICROVM_DEMO").unwrap();
        let load = ["load".as_ref(), demo.as_os_str()];
        Outcome::of(person.command(load).stdout(Stdio::null())).expect_code(0);
        person
    }

    fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let store = self.home.path().join("store");
        let mut command = self.house.command_with_store(&store, args);
        command.uid(USER).gid(group()).current_dir("/").env("HOME", self.home.path());
        command.env_remove("MICROVM_NETWORK");
        command
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Starts a container that serves a page, and waits until it says that it is up.
    #[track_caller]
    fn serve(&self, options: &[&str]) -> Running {
        let run =
            [&["run", "--rm", "--name", "web"], options, &["demo", "sh", "-c", SERVE]].concat();
        let mut running = Running::of(&mut self.command(run));
        running.read_until("up\n");
        running
    }
}

fn who_is_not_root_reaches_the_world_and_is_reached() {
    const BYTES: u64 = 4 << 20;
    let person = Person::new();
    let _address = Address::add();
    let web = person.serve(&["-p", "18090:80"]);
    assert_eq!(page("127.0.0.1:18090"), "page\n");
    assert_eq!(page(&format!("{OUTSIDE}:18090")), "page\n");
    let inside =
        |script: &str| person.call(&["exec", "web", "sh", "-c", script]).expect_code(0).text();
    assert_eq!(inside("ls /sys/class/net"), "eth0\nlo\n");
    assert_eq!(inside("grep -c web /etc/hosts; grep nameserver /etc/resolv.conf"), {
        "1\nnameserver 10.191.0.3\n"
    });

    // To the world and from it, more than any socket has room for.
    let world = TcpListener::bind((OUTSIDE, 0)).unwrap();
    let port = world.local_addr().unwrap().port();
    let visit = |script: &str| {
        let words = ["exec", "web", "sh", "-c", script].map(str::to_owned);
        (Running::of(&mut person.command(words)), world.accept().unwrap().0)
    };
    let send = format!("head -c {BYTES} /dev/zero | nc -w 100 {OUTSIDE} {port}");
    let (visitor, mut stream) = visit(&send);
    assert_eq!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap(), BYTES);
    drop(stream);
    visitor.finish().expect_code(0);
    let fetch = format!("wget -q -O - http://{OUTSIDE}:{port}/ | wc -c");
    let (visitor, mut stream) = visit(&fetch);
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        asked.extend(byte);
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").unwrap();
    std::io::copy(&mut std::io::repeat(0).take(BYTES), &mut stream).unwrap();
    // The visitor hangs up first: passt of Debian 13 says only once that the world did, also where nobody heard it.
    assert_eq!(visitor.finish().expect_code(0).text(), format!("{BYTES}\n"));

    // A question in a packet, and that there is no answer.
    let server = UdpSocket::bind((OUTSIDE, 53)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    let asks = ["exec", "web", "nslookup", "-type=a", "box.test", OUTSIDE].map(str::to_owned);
    let asking = Running::of(&mut person.command(asks));
    let mut packet = [0; 512];
    let (bytes, from) = server.recv_from(&mut packet).unwrap();
    assert!(packet[..bytes].windows(8).any(|it| it == b"\x03box\x04tes"), "{packet:?}");
    // "This is a response", and "no such name" (RFC 1035, 4.1.1).
    (packet[2], packet[3]) = (packet[2] | 0x80, 3);
    server.send_to(&packet[..bytes], from).unwrap();
    let said = asking.finish().expect_code(1);
    assert!(format!("{}{}", said.text(), said.stderr).contains("NXDOMAIN"), "{said:?}");

    // What listens at the host's loopback is not there.
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    own.set_nonblocking(true).unwrap();
    let port = own.local_addr().unwrap().port();
    let script =
        format!("nc -w 3 10.191.0.1 {port} < /dev/null; nc -w 3 127.0.0.1 {port} < /dev/null");
    person.call(&["exec", "web", "sh", "-c", &script]).expect_code(1);
    assert_eq!(own.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    person.call(&["kill", "web"]).expect_code(0);
    web.finish().expect_code(137);
    person.house.expect_nothing_left();
}

fn several_cpus_have_one_socket_of_passts() {
    let person = Person::new();
    let web = person.serve(&["-p", "18092:80", "--cpus", "2"]);
    let queues = person.call(&["exec", "web", "ls", "/sys/class/net/eth0/queues"]);
    assert_eq!(queues.expect_code(0).text(), "rx-0\nrx-1\ntx-0\ntx-1\n");
    std::thread::scope(|scope| {
        let visits: Vec<_> = (0..8).map(|_| scope.spawn(|| page("127.0.0.1:18092"))).collect();
        assert!(visits.into_iter().all(|visit| visit.join().unwrap() == "page\n"));
    });
    person.call(&["kill", "web"]).expect_code(0);
    web.finish().expect_code(137);
    person.house.expect_nothing_left();
}

fn a_port_that_is_taken_is_named_and_nothing_stays() {
    let person = Person::new();
    let _taken = TcpListener::bind("0.0.0.0:18091").unwrap();
    let run = ["run", "--rm", "-p", "18091:80", "demo", "true"];
    let said = person.call(&run).expect_code(125);
    assert!(said.stderr.contains("passt: ") && said.stderr.contains("18091"), "{}", said.stderr);
    person.house.expect_nothing_left();
}

fn where_passt_is_missing_a_container_has_no_network_and_its_owner_hears_it() {
    let person = Person::new();
    let mut run = person.command(["run", "--rm", "demo", "ls", "/sys/class/net"]);
    let said = Outcome::of(run.env("PATH", "/nowhere")).expect_code(0);
    assert_eq!(said.text(), "lo\n");
    assert!(
        said.stderr.contains("passt is not installed (Debian package passt)"),
        "{}",
        said.stderr
    );
    let mut run = person.command(["run", "--rm", "--network", "passt", "demo", "true"]);
    Outcome::of(run.env("PATH", "/nowhere")).expect_refusal("passt: not installed");
    person.house.expect_nothing_left();
}

fn passt_ends_with_a_supervisor_that_is_killed() {
    let person = Person::new();
    let web = person.serve(&["-p", "18092:80"]);
    let passt = person.house.process("passt");
    let proc = format!("/proc/{}", passt.as_raw_nonzero());
    assert!(
        fs::read_to_string(format!("{proc}/status"))
            .unwrap()
            .contains(&format!("\nUid:\t{USER}\t"))
    );
    web.signal(Signal::KILL);
    web.finish().expect_code(137);
    person.call(&["rm", "web"]).expect_code(0);
    let pidfd = rustix::process::pidfd_open(passt, rustix::process::PidfdFlags::empty());
    if let Ok(pidfd) = pidfd {
        let mut wait = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut wait, None).unwrap();
    }
    // The port is free again.
    drop(TcpListener::bind("0.0.0.0:18092").unwrap());
    person.house.expect_nothing_left();
}
