//! Containers on networks of microvm's own.

use std::fs;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};
use rustix::process::Signal;
use tests::{Beside, House, Outcome, Running, when_it_soaks};

use crate::networks::{SERVE, page};

crate::stories![
    containers_reach_each_other_by_name_and_the_world_by_a_port,
    who_comes_later_is_known_by_name_until_he_leaves,
    a_container_of_several_cpus_has_queues_for_each,
    a_network_is_gone_with_the_last_who_was_on_it,
    what_a_killed_supervisor_has_left_goes_with_the_next,
    the_rules_of_the_host_are_these,
    a_guest_cannot_speak_for_another,
    networks_are_made_listed_and_removed,
    what_no_vm_can_have_is_refused_with_the_reason,
    a_container_of_which_nothing_is_said_is_on_the_default_network,
    names_are_asked_where_somebody_says,
    the_host_is_as_it_was_when_many_have_come_and_gone,
    what_a_guest_sends_and_receives_is_limited,
];

/// Where networks are written down.
const PLACE: &str = "/run/microvm/networks";

/// What of the host's network can be changed by us, without what others have counted.
fn picture() -> [String; 3] {
    let say = |words: &[&str]| Outcome::of(Command::new(words[0]).args(&words[1..])).text();
    [
        say(&["ip", "-o", "link"]),
        say(&["ip", "route"]),
        say(&["nft", "--stateless", "list", "ruleset"]),
    ]
}

/// Starts a container, and waits until it says that it is up.
#[track_caller]
fn start(house: &House, name: &str, options: &[&str]) -> Running {
    let run = [&["run", "--rm", "--name", name], options, &["demo", "sh", "-c", SERVE]].concat();
    let mut running = house.start(run);
    running.read_until("up\n");
    running
}

#[track_caller]
fn end(house: &House, name: &str, running: Running) {
    house.call(["kill", name]).expect_code(0);
    running.finish().expect_code(137);
}

fn containers_reach_each_other_by_name_and_the_world_by_a_port() {
    let house = House::new();
    let ports = ["-p", "127.0.0.1:18081:80", "-p", "18082:80"];
    let web = start(&house, "web", &[&["--network", "default"], &ports[..]].concat());
    assert_eq!(page("127.0.0.1:18081"), "page\n", "from the loopback");
    assert_eq!(page("10.190.0.1:18082"), "page\n", "by an address of the host's");
    assert_eq!(page("10.190.0.2:80"), "page\n", "by its own address");
    let visit = |url: &str| {
        let run = ["run", "--rm", "--network", "default", "demo", "wget", "-q", "-O", "-", url];
        house.call(run).expect_code(0).text()
    };
    assert_eq!(visit("http://web/"), "page\n", "by its name");
    assert_eq!(visit("http://[fd4d:5600::2]/"), "page\n", "by its other address");
    assert_eq!(visit("http://10.190.0.1:18082/"), "page\n", "by a port of the host's");
    let exec = ["exec", "web", "sh", "-c", "grep -c web /etc/hosts; ls /sys/class/net"];
    assert_eq!(house.call(exec).expect_code(0).text(), "2\neth0\nlo\n");
    end(&house, "web", web);
    house.expect_nothing_left();
}

fn who_comes_later_is_known_by_name_until_he_leaves() {
    let house = House::new();
    let on_it = ["--network", "default"];
    let first = start(&house, "first", &on_it);
    let alone = start(&house, "alone", &["--network", "none"]);
    let own = "10.9.9.9 written";
    house.call(["exec", "first", "sh", "-c", &format!("echo {own} >> /etc/hosts")]).expect_code(0);
    let later = start(&house, "later", &on_it);
    let killed = start(&house, "killed", &on_it);
    // What is told to a guest is told soon, and not at once.
    let sees = |container: &str, test: &str| {
        let script = format!("until {test}; do sleep 0.1; done; cat /etc/hosts");
        house.call(["exec", container, "sh", "-c", &script]).expect_code(0).text()
    };
    let hosts = sees("first", "grep -q killed /etc/hosts && grep -q later /etc/hosts");
    assert!(hosts.contains(own), "what the container wrote is still there: {hosts}");
    let wget = ["exec", "first", "wget", "-q", "-O", "-", "http://later/"];
    assert_eq!(house.call(wget).expect_code(0).text(), "page\n");
    killed.signal(Signal::KILL);
    killed.finish().expect_code(137);
    end(&house, "later", later);
    let hosts = sees("first", "! grep -q -e later -e killed /etc/hosts");
    assert_eq!(hosts.lines().count(), 5, "localhost, itself and what it wrote: {hosts}");
    let hosts = house.call(["exec", "alone", "cat", "/etc/hosts"]).expect_code(0).text();
    assert!(!hosts.contains("first"), "{hosts}");
    house.call(["rm", "killed"]).expect_code(0);
    end(&house, "first", first);
    end(&house, "alone", alone);
    house.expect_nothing_left();
}

fn a_container_of_several_cpus_has_queues_for_each() {
    let house = House::new();
    let web = start(&house, "web", &["--network", "default", "--cpus", "2"]);
    let queues = house.call(["exec", "web", "ls", "/sys/class/net/eth0/queues"]);
    assert_eq!(queues.expect_code(0).text(), "rx-0\nrx-1\ntx-0\ntx-1\n");
    // Each visitor is a flow of its own, which the host's kernel brings by one of the queues.
    std::thread::scope(|scope| {
        let visits: Vec<_> = (0..8).map(|_| scope.spawn(|| page("10.190.0.2:80"))).collect();
        assert!(visits.into_iter().all(|visit| visit.join().unwrap() == "page\n"));
    });
    end(&house, "web", web);
    house.expect_nothing_left();
}

fn a_network_is_gone_with_the_last_who_was_on_it() {
    let house = House::new();
    let before = picture();
    let names = ["a", "b", "c"];
    let house_of_all = &house;
    let running = std::thread::scope(|scope| {
        let start =
            |name| scope.spawn(move || start(house_of_all, name, &["--network", "default"]));
        names.map(start).map(|starting| starting.join().unwrap())
    });
    let list = house.call(["network", "ls"]).expect_code(0).text();
    let row: Vec<_> = list.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["default", "10.190.0.0/24", "mv-default", "3"]);
    names.into_iter().zip(running).for_each(|(name, running)| end(&house, name, running));
    assert_eq!(picture(), before);
    assert!(!Path::new(PLACE).exists());
    house.expect_nothing_left();
}

fn what_a_killed_supervisor_has_left_goes_with_the_next() {
    let house = House::new();
    let before = picture();
    let one = start(&house, "one", &["--network", "default", "-p", "18083:80"]);
    one.signal(Signal::KILL);
    one.finish().expect_code(137);
    house.call(["rm", "one"]).expect_code(0);
    // The port and the address are free again.
    let two = start(&house, "two", &["--network", "default", "-p", "18083:80"]);
    assert_eq!(page("10.190.0.2:80"), "page\n");
    end(&house, "two", two);
    assert_eq!(picture(), before);
    assert!(!Path::new(PLACE).exists());
    house.expect_nothing_left();
}

fn the_rules_of_the_host_are_these() {
    const INET: &str = "
        chain published {
            meta nfproto ipv4 tcp dport 18086 dnat ip to 10.190.0.2:80
            ip daddr 127.0.0.1 udp dport 18086 dnat ip to 10.190.0.2:53
            ip6 daddr ::1 tcp dport 18087 dnat ip6 to [fd4d:5600::2]:80
        }
        chain prerouting {
            type nat hook prerouting priority dstnat; policy accept;
            fib daddr type local jump published
        }
        chain output {
            type nat hook output priority dstnat; policy accept;
            fib daddr type local jump published
        }
        chain postrouting {
            type nat hook postrouting priority srcnat; policy accept;
            ip saddr 10.190.0.0/24 ip daddr != 10.190.0.0/24 masquerade
            ip saddr 10.190.0.0/24 ip daddr 10.190.0.0/24 ct status dnat masquerade
            ip6 saddr fd4d:5600::/64 ip6 daddr != fd4d:5600::/64 masquerade
            ip6 saddr fd4d:5600::/64 ip6 daddr fd4d:5600::/64 ct status dnat masquerade
            ip saddr 127.0.0.0/8 oifname \"mv-default\" masquerade
        }
        chain forward {
            type filter hook forward priority filter; policy accept;
            oifname \"mv-default\" ct state established,related accept
            oifname \"mv-default\" ct status dnat accept
            oifname \"mv-default\" iifname != \"mv-default\" drop
        }";
    const BRIDGE: &str = "
        chain TAP {
            ether saddr != 02:4d:0a:be:00:02 drop
            arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether 02:4d:0a:be:00:02 \
                arp saddr ip 10.190.0.2 accept
            ip daddr 127.0.0.0/8 drop
            ip saddr 10.190.0.2 accept
            icmpv6 type nd-router-advert drop
            icmpv6 type nd-neighbor-advert icmpv6 taddr != fd4d:5600::2 \
                icmpv6 taddr != fe80::4d:aff:febe:2 drop
            ip6 saddr :: accept
            ip6 saddr fd4d:5600::2 accept
            ip6 saddr fe80::4d:aff:febe:2 accept
            drop
        }
        chain prerouting {
            type filter hook prerouting priority filter; policy accept;
            iifname \"TAP\" jump TAP
        }";
    let house = House::new();
    let ports = ["-p", "18086:80", "-p", "127.0.0.1:18086:53/udp", "-p", "[::1]:18087:80"];
    let web = start(&house, "web", &[&["--network", "default"], &ports[..]].concat());
    let [links, ..] = picture();
    let mut names = links.split_whitespace().filter_map(|word| word.strip_suffix(':'));
    let tap = names.find(|name| name.starts_with("mt")).unwrap();
    for (family, rules) in [("inet", INET), ("bridge", BRIDGE)] {
        let shown = Command::new("nft").args(["list", "table", family, "microvm"]).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap().replace(tap, "TAP");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let expected = words(&format!("table {family} microvm {{ {rules} }}"));
        assert_eq!(words(&shown), expected, "{shown}");
    }
    end(&house, "web", web);
    house.expect_nothing_left();
}

fn a_guest_cannot_speak_for_another() {
    let house = House::new();
    // As long as somebody is there, the host is.
    let web = start(&house, "web", &["--network", "default"]);
    let [host, loopback] =
        ["10.190.0.1", "127.0.0.1"].map(|ip| UdpSocket::bind((ip, 18084)).unwrap());
    let own = std::env::current_exe().unwrap();
    let volume = format!("{}:/bin/half:ro", own.display());
    let options = ["run", "--rm", "--network", "default", "-v", &volume];
    house.call([&options[..], &["demo", "half", "impostor"]].concat()).expect_code(0);
    let mut said = [0; 64];
    let (bytes, from) = host.recv_from(&mut said).unwrap();
    let first = (&said[..bytes], from.ip().to_string());
    assert_eq!(
        first,
        (&b"it is I"[..], "10.190.0.3".to_owned()),
        "what was said before is not heard"
    );
    loopback.set_nonblocking(true).unwrap();
    let heard = loopback.recv_from(&mut said).unwrap_err();
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock, "the host's loopback is its own");
    end(&house, "web", web);
    house.expect_nothing_left();
}

/// Speaks to the host by another's address first, then to the host's loopback, and then as it should.
pub(crate) fn impostor() {
    let host: SocketAddrV4 = "10.190.0.1:18084".parse().unwrap();
    let (family, kind) = (AddressFamily::INET, SocketType::RAW);
    let raw = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::RAW)).unwrap();
    let words = b"it is another";
    for (from, to) in [([10, 190, 0, 77], [10, 190, 0, 1]), ([10, 190, 0, 3], [127, 0, 0, 1])] {
        // An IPv4 header, whose length and sums the kernel fills in, and a UDP header without a sum. It goes
        // the host's way, whatever it says.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([from, to].concat());
        let length = u16::try_from(8 + words.len()).unwrap();
        for number in [7u16, host.port(), length, 0] {
            packet.extend(number.to_be_bytes());
        }
        packet.extend(words);
        sendto(&raw, &packet, SendFlags::empty(), &host).unwrap();
    }
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"it is I", host).unwrap();
}

fn networks_are_made_listed_and_removed() {
    let house = House::new();
    let call = |words: &[&str]| house.call([&["network"], words].concat());
    assert_eq!(call(&["create", "north"]).expect_code(0).text(), "north\n");
    assert_eq!(
        call(&["create", "--subnet", "10.191.0.0/24", "south"]).expect_code(0).text(),
        "south\n"
    );
    assert_eq!(call(&["ls", "-q"]).expect_code(0).text(), "default\nnorth\nsouth\n");
    call(&["create", "north"]).expect_refusal("a network named north exists already");
    let web = start(&house, "web", &["--network", "south"]);
    let inspect = call(&["inspect", "south"]).expect_code(0);
    let inspect: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!(inspect[0]["containers"][0]["ip4"], "10.191.0.2");
    call(&["rm", "south"]).expect_refusal("network south is in use by web");
    let options = ["run", "--rm", "--network", "north", "demo"];
    let apart =
        [&options[..], &["wget", "-q", "-T", "5", "-O", "-", "http://10.191.0.2/"]].concat();
    assert_ne!(house.call(apart).code, 0, "networks are apart");
    end(&house, "web", web);
    assert_eq!(call(&["rm", "north", "south"]).expect_code(0).text(), "north\nsouth\n");
    assert!(!Path::new(PLACE).exists());
    house.expect_nothing_left();
}

fn what_no_vm_can_have_is_refused_with_the_reason() {
    let house = House::new();
    let refusal = |options: &[&str], thing: &str| {
        house.call([&["run", "--rm"], options, &["demo", "true"]].concat()).expect_refusal(thing);
    };
    refusal(&["--network", "host"], "a kernel of its own");
    refusal(&["--network", "container:web"], "a VM of its own");
    refusal(&["--network", "nowhere"], "no network named nowhere");
    refusal(&["-p", "80:80"], "no port can be published where there is no network");
    refusal(&["--network", "default", "-p", "eighty"], "\"eighty\"");
    let taken = TcpListener::bind("0.0.0.0:18085").unwrap();
    refusal(&["--network", "default", "-p", "18085:80"], "port 18085/tcp of 0.0.0.0");
    drop(taken);
    assert!(!Path::new(PLACE).exists(), "{:?}", fs::read_dir(PLACE).unwrap().collect::<Vec<_>>());
    house.expect_nothing_left();
}

/// `run` as a person has it, whose environment says nothing of networks.
fn plain(house: &House, options: &[&str], script: &str) -> Command {
    let run = [&["run", "--rm"], options, &["demo", "sh", "-c", script]].concat();
    let mut command = house.command(run);
    command.env_remove("MICROVM_NETWORK");
    command
}

/// The same for root who has no power over the host's network.
fn powerless(command: &Command) -> Command {
    let mut powerless = Command::new("setpriv");
    powerless.args(["--inh-caps", "-net_admin", "--bounding-set", "-net_admin"]);
    powerless.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => powerless.env(name, value),
            None => powerless.env_remove(name),
        };
    }
    powerless
}

fn a_container_of_which_nothing_is_said_is_on_the_default_network() {
    const INTERFACES: &str = "ls /sys/class/net";
    let house = House::new();
    let before = picture();
    let said =
        Outcome::of(&mut plain(&house, &[], "ip -o route; ls /sys/class/net")).expect_code(0);
    assert!(said.text().starts_with("default via 10.190.0.1 dev eth0"), "{}", said.text());
    assert_eq!(said.stderr, "");
    let said = Outcome::of(&mut plain(&house, &["--network", "none"], INTERFACES)).expect_code(0);
    assert_eq!((said.text().as_str(), said.stderr.as_str()), ("lo\n", ""));
    let said = Outcome::of(plain(&house, &[], INTERFACES).env("PATH", "/nowhere")).expect_code(0);
    assert_eq!(said.text(), "eth0\nlo\n", "no program of the host's is needed for it");
    // Where it cannot be had, the container runs, and whoever started it hears why.
    let said = Outcome::of(&mut powerless(&plain(&house, &[], INTERFACES))).expect_code(0);
    assert_eq!(said.text(), "lo\n");
    let why = "this kernel does not let us use nftables: Operation not permitted";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    let published = plain(&house, &["-p", "18083:80"], "true");
    let said = Outcome::of(&mut powerless(&published)).expect_code(125);
    assert!(said.stderr.contains("no port can be published"), "{}", said.stderr);
    assert_eq!(picture(), before);
    house.expect_nothing_left();
}

fn names_are_asked_where_somebody_says() {
    let house = House::new();
    let web = start(&house, "web", &["--network", "default"]);
    let words = "--no-daemon --no-resolv --no-hosts --bind-interfaces --listen-address=10.190.0.1 \
                 --user=root --pid-file --address=/site.box.test/10.190.0.2";
    let mut server = Command::new("dnsmasq");
    server.args(words.split_whitespace()).stderr(Stdio::null());
    let server = Beside::start(&mut server, "10.190.0.1:53");
    let ask = |options: &[&str], script: &str| {
        let run = [&["run", "--rm", "--network", "default"], options];
        let words = [&run.concat()[..], &["demo", "sh", "-c", script]].concat();
        house.call(words).expect_code(0).text()
    };
    let dns = ["--dns", "10.190.0.1", "--dns-search", "box.test", "--dns-option", "ndots:1"];
    let script = "cat /etc/resolv.conf; \
                  until wget -q -O - http://site.box.test/; do sleep 0.1; done; wget -q -O - http://site/";
    let said = ask(&dns, script);
    let [conf, pages] = said.split_at(said.find("page").unwrap()).into();
    assert_eq!(pages, "page\npage\n");
    let mut lines: Vec<_> = conf.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["nameserver 10.190.0.1", "options ndots:1", "search box.test"]);
    let hosts = ["--add-host", "other:10.190.0.2", "--add-host", "me:host-gateway"];
    assert_eq!(
        ask(&hosts, "wget -q -O - http://other/; grep me /etc/hosts"),
        "page\n10.190.0.1\tme\n"
    );
    drop(server);
    end(&house, "web", web);
    house.expect_nothing_left();
}

fn the_host_is_as_it_was_when_many_have_come_and_gone() {
    const AT_ONCE: usize = 4;
    let house = House::new();
    let before = picture();
    for _ in 0..when_it_soaks(100 / AT_ONCE, 2) {
        let all: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let port = format!("{}:80", 18100 + number);
                let script = "ping -c 1 -w 60 10.190.0.1 > /dev/null && echo up";
                let mut command = plain(&house, &["-p", &port], script);
                command.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for one in all {
            let said = one.wait_with_output().unwrap();
            assert!(said.status.success(), "{}", said.status);
            assert_eq!(String::from_utf8_lossy(&said.stdout), "up\n");
        }
        assert_eq!(picture(), before);
        assert!(!Path::new(PLACE).exists());
    }
    house.expect_nothing_left();
}

fn what_a_guest_sends_and_receives_is_limited() {
    const BYTES: u64 = 192 << 10;
    let house = House::new();
    // As long as somebody is there, the host is.
    let web = start(&house, "web", &["--network", "default"]);
    let listener = TcpListener::bind("10.190.0.1:18085").unwrap();
    let network = "default,tx-bps=64k,tx-bps-burst=64k";
    let script = format!("head -c {BYTES} /dev/zero | nc -w 100 10.190.0.1 18085");
    let running = house.start(["run", "--rm", "--network", network, "demo", "sh", "-c", &script]);
    let mut stream = listener.accept().unwrap().0;
    let begun = Instant::now();
    assert_eq!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap(), BYTES);
    // The burst is through at once, and the rest by the rate: never faster, however fast the machine is.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs((BYTES - (64 << 10)) / (64 << 10)), "{took:?}");
    drop(stream);
    running.finish().expect_code(0);
    // The other direction has a limit of its own. Of 60 answers 20 are there at once, and 20 in each second after:
    // the next is asked for when one is there.
    let network = "default,rx-pps=20,rx-pps-burst=20";
    let script = "cat /proc/uptime; ping -q -A -c 60 10.190.0.1 >&2; cat /proc/uptime";
    let said = house
        .call(["run", "--rm", "--network", network, "demo", "sh", "-c", script])
        .expect_code(0);
    assert!(said.stderr.contains(" 60 packets received"), "{}", said.stderr);
    let up: Vec<f64> =
        said.text().lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(up[1] - up[0] >= 2.0, "{up:?}");
    end(&house, "web", web);
    house.expect_nothing_left();
}
