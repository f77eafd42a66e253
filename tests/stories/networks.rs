//! Containers on networks that others have made for them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tests::{Bundle, House, Namespace, Outcome};

use crate::clients::{IMAGE, call, expect_nothing_left, load, podman};

crate::stories![
    a_guest_has_what_its_network_namespace_has,
    a_namespace_is_left_as_it_was_found,
    what_a_guest_cannot_be_given_is_refused_by_its_name,
    podman_s_containers_reach_each_other_by_name,
    podman_publishes_ports,
    podman_gives_several_networks,
    a_container_without_a_network_has_its_loopback_alone,
    what_becomes_of_a_network_is_followed,
    podman_connects_and_disconnects,
];

/// What a container does that serves one page, once it can be reached.
pub(crate) const SERVE: &str = "mkdir -p /www; echo page > /www/index.html; \
                     httpd -p 80 -h /www && echo up && exec sleep 1000";

/// A namespace for a container, and one that is its network.
fn container_and_network(name: &str) -> (Namespace, Namespace) {
    let [inside, outside] = ["in", "out"].map(|side| Namespace::new(&format!("{name}-{side}")));
    let peer = outside.path();
    inside.ip("link add eth0 mtu 1400 address 02:00:00:00:00:42 type veth peer name far");
    inside.ip(&format!("link set far netns {peer}"));
    outside.ip("address add 10.77.0.1/24 dev far");
    outside.ip("address add fd77::1/64 dev far nodad");
    outside.ip("link set far up");
    inside.ip("address add 10.77.0.2/24 dev eth0");
    inside.ip("address add fd77::2/64 dev eth0 nodad");
    inside.ip("link set eth0 up");
    inside.ip("route add 192.0.2.0/24 dev eth0 scope link");
    inside.ip("route add default via 10.77.0.1");
    inside.ip("-6 route add default via fd77::1");
    (inside, outside)
}

/// A bundle in a network namespace.
pub(crate) fn bundle_in(inside: &Namespace, script: &str) -> Bundle {
    let bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        for namespace in namespaces.iter_mut().filter(|it| it["type"] == "network") {
            namespace["path"] = json!(inside.path());
        }
        // For ping.
        for set in ["bounding", "effective", "permitted"] {
            let set = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            set.push("CAP_NET_RAW".into());
        }
    });
    bundle
}

fn a_guest_has_what_its_network_namespace_has() {
    let (inside, outside) = container_and_network("has");
    // Whoever is asked by ping answers before the container has said a word.
    let script = "b=/bin/busybox; $b ls /sys/class/net; cd /sys/class/net/eth0; cat mtu address; \
                  $b ip -o address show dev eth0 | $b awk '/global/ { print $4 }'; \
                  $b ip route | $b sort; $b ip -6 route | $b grep default; \
                  $b ping -c 1 -W 60 10.77.0.1 > /ping4 && echo yes > /first; \
                  $b ping -c 1 -W 60 fd77::1 > /ping6 && echo yes > /second; \
                  echo to and fro > /page; $b httpd -p 80 -h / && echo up > /up";
    let bundle = bundle_in(&inside, &format!("({script}) > /said 2>&1; exec sleep 1000"));
    let house = House::new();
    house.create(&bundle, "one");
    house.call(["start", "one"]).expect_code(0);
    bundle.wait_for("up");
    let said = bundle.wait_for("said");
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    let wanted = [
        "eth0",
        "lo",
        "1400",
        "02:00:00:00:00:42",
        "10.77.0.2/24",
        "fd77::2/64",
        "10.77.0.0/24 dev eth0 scope link  src 10.77.0.2",
        "192.0.2.0/24 dev eth0 scope link",
        "default via 10.77.0.1 dev eth0",
    ];
    assert_eq!(lines[..wanted.len()], wanted, "{said}");
    assert!(lines[wanted.len()].starts_with("default via fd77::1 dev eth0"), "{said}");
    assert_eq!(
        (bundle.wait_for("first"), bundle.wait_for("second")),
        ("yes\n".into(), "yes\n".into())
    );
    // And it is reached from there.
    for address in ["10.77.0.2", "[fd77::2]"] {
        let page = format!("http://{address}/page");
        assert_eq!(outside.call(&["busybox", "wget", "-q", "-O", "-", &page]), "to and fro\n");
    }
    house.call(["delete", "--force", "one"]).expect_code(0);
    house.expect_cleared("one");
}

fn a_namespace_is_left_as_it_was_found() {
    let (inside, _outside) = container_and_network("left");
    let picture = || {
        let rules = inside.call(&["sh", "-c", "tc qdisc; tc filter show dev eth0 ingress"]);
        [inside.ip("-o link"), inside.ip("route"), inside.ip("-6 route"), rules]
    };
    let before = picture();
    let bundle = bundle_in(&inside, "sleep 1000");
    let house = House::new();
    house.create(&bundle, "one");
    assert_ne!(picture(), before, "there is a tap");
    let another = house.quietly(&["create", "--bundle", bundle.path().to_str().unwrap(), "two"]);
    assert!(another.stderr.contains("eth0 is another VM's already"), "{}", another.stderr);
    house.call(["delete", "--force", "one"]).expect_code(0);
    assert_eq!(picture(), before, "after a container that was deleted");
    house.create(&bundle, "one");
    kill_process(house.process("supervise-bundle"), Signal::KILL).unwrap();
    house.call(["delete", "--force", "one"]).expect_code(0);
    assert_eq!(picture(), before, "after one whose supervisor was killed");
    house.create(&bundle, "one");
    kill_process(house.process("microvm vmm"), Signal::KILL).unwrap();
    house.call(["delete", "--force", "one"]).expect_code(0);
    assert_eq!(picture(), before, "after one whose VM was killed");
    house.expect_cleared("one");
}

fn what_a_guest_cannot_be_given_is_refused_by_its_name() {
    let inside = Namespace::new("refused");
    inside.ip("tuntap add wire0 mode tun");
    inside.ip("link set wire0 up");
    let bundle = bundle_in(&inside, "true");
    let house = House::new();
    let path = bundle.path().to_str().unwrap();
    let refused = house.quietly(&["create", "--bundle", path, "one"]).expect_code(1);
    assert!(refused.stderr.contains("interface wire0"), "{}", refused.stderr);
    inside.ip("link delete wire0");
    for number in 0..5 {
        inside.ip(&format!("link add e{number} type veth peer name f{number}"));
        inside.ip(&format!("link set e{number} up"));
    }
    let refused = house.quietly(&["create", "--bundle", path, "one"]).expect_code(1);
    assert!(refused.stderr.contains("over the limit of 4: e0, e1"), "{}", refused.stderr);
    house.expect_cleared("one");
}

/// Networks of podman's, made for a story.
struct Networks(Vec<&'static str>);

impl Networks {
    fn new(networks: &[(&'static str, &[&str])]) -> Self {
        for (name, options) in networks {
            call(&[&["network", "create"], *options, &[*name]].concat()).expect_code(0);
        }
        Self(networks.iter().map(|(name, _)| *name).collect())
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Outcome::of(&mut podman(["network", "rm", "-f", name]));
        }
    }
}

/// Starts a container in the background, and waits until it says that it is up.
#[track_caller]
fn start(name: &str, options: &[&str], script: &str) {
    load();
    let run = [&["run", "-d", "--name", name], options, &[IMAGE, "sh", "-c", script]].concat();
    call(&run).expect_code(0);
    let mut logs = podman(["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "up"), "{name} does not come up");
    let _ = logs.kill();
    logs.wait().unwrap();
}

/// Asks for a page from here.
pub(crate) fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

fn podman_s_containers_reach_each_other_by_name() {
    load();
    let networks = Networks::new(&[(
        "town",
        &["--ipv6", "--subnet", "fd78::/64", "--subnet", "10.78.0.0/24"],
    )]);
    start("web", &["--network", "town"], SERVE);
    let visit = |url: &str| {
        let options = ["run", "--rm", "--network", "town", IMAGE];
        call(&[&options[..], &["wget", "-q", "-O", "-", url]].concat())
    };
    assert_eq!(visit("http://web/").expect_code(0).text(), "page\n");
    let of = |format: &str| {
        call(&["inspect", "web", "--format", format]).expect_code(0).text().trim().to_owned()
    };
    let six = of("{{.NetworkSettings.Networks.town.GlobalIPv6Address}}");
    assert_eq!(visit(&format!("http://[{six}]/")).expect_code(0).text(), "page\n");
    let four = of("{{.NetworkSettings.Networks.town.IPAddress}}");
    assert_eq!(page(&format!("{four}:80")), "page\n", "from the host");
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    drop(networks);
    expect_nothing_left();
}

fn podman_publishes_ports() {
    start("web", &["-p", "127.0.0.1:18080:80"], SERVE);
    assert_eq!(page("127.0.0.1:18080"), "page\n");
    let exec = call(&["exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1/"]);
    assert_eq!(exec.expect_code(0).text(), "page\n", "an added process is on the same network");
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    let rules = Outcome::of(Command::new("nft").args(["list", "ruleset"])).text();
    assert!(!rules.contains("18080"), "{rules}");
    expect_nothing_left();
}

fn podman_gives_several_networks() {
    load();
    let networks = Networks::new(&[
        ("north", &["--subnet", "10.79.1.0/24"]),
        ("south", &["--subnet", "10.79.2.0/24"]),
    ]);
    let networks_of_it = ["--network", "north", "--network", "south"];
    let options =
        [&["run", "--rm", "--cap-add", "net_raw"], &networks_of_it[..], &[IMAGE]].concat();
    let script = "ls /sys/class/net; ip -o -4 address | awk '/eth/ { print $2 }' | sort; \
                  ping -c 1 -W 60 10.79.1.1 > /tmp/n && ping -c 1 -W 60 10.79.2.1 > /tmp/s && echo both";
    let said = call(&[&options[..], &["sh", "-c", script]].concat()).expect_code(0);
    assert_eq!(said.text(), "eth0\neth1\nlo\neth0\neth1\nboth\n");
    drop(networks);
    expect_nothing_left();
}

fn a_container_without_a_network_has_its_loopback_alone() {
    load();
    let script = "ls /sys/class/net; ping -c 1 -W 60 127.0.0.1 > /tmp/p && echo reached";
    let said = call(&[
        "run",
        "--rm",
        "--cap-add",
        "net_raw",
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(said.expect_code(0).text(), "lo\nreached\n");
    expect_nothing_left();
}

/// Waits for what comes sooner or later.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < tests::longest() / 2, "in vain: {what}");
        std::thread::yield_now();
    }
}

fn what_becomes_of_a_network_is_followed() {
    let (inside, outside) = (Namespace::new("follow-in"), Namespace::new("follow-out"));
    let script = "mkdir /www; echo page > /www/index.html; /bin/busybox httpd -p 80 -h /www; \
                  cd /sys/class/net; while :; do echo * > /seen; /bin/busybox usleep 100000; done";
    let bundle = bundle_in(&inside, script);
    let house = House::new();
    house.create(&bundle, "one");
    let come = |name: &str, number: u8| {
        let peer = outside.path();
        inside.ip(&format!("link add {name} type veth peer name far{number}"));
        inside.ip(&format!("link set far{number} netns {peer}"));
        outside.ip(&format!("address add 10.7{number}.0.1/24 dev far{number}"));
        outside.ip(&format!("link set far{number} up"));
        inside.ip(&format!("address add 10.7{number}.0.2/24 dev {name}"));
        inside.ip(&format!("link set {name} up"));
    };
    let visit = |address: &str| {
        let page = format!("http://{address}/");
        let words = ["busybox", "wget", "-q", "-T", "5", "-O", "-", &page];
        until(address, || Outcome::of(&mut outside.command(&words)).text() == "page\n");
    };
    let seen = |names: &str| {
        let seen = bundle.root().join("seen");
        until(names, || fs::read_to_string(&seen).unwrap_or_default() == format!("{names}\n"));
    };
    // As callers of CNI do it who want to see a container first.
    come("eth0", 1);
    house.call(["start", "one"]).expect_code(0);
    seen("eth0 lo");
    visit("10.71.0.2");
    // And while it runs.
    come("net1", 2);
    seen("eth0 lo net1");
    visit("10.72.0.2");
    inside.ip("link delete eth0");
    seen("lo net1");
    come("eth2", 3);
    seen("eth2 lo net1");
    visit("10.73.0.2");
    inside.ip("address delete 10.73.0.2/24 dev eth2");
    inside.ip("address add 10.73.0.3/24 dev eth2");
    visit("10.73.0.3");
    kill_process(house.process("supervise-bundle"), Signal::KILL).unwrap();
    house.call(["delete", "--force", "one"]).expect_code(0);
    let rules = "tc filter show dev net1 ingress; tc filter show dev eth2 ingress";
    assert_eq!(inside.call(&["sh", "-c", rules]), "");
    house.expect_cleared("one");
}

fn podman_connects_and_disconnects() {
    load();
    let networks = Networks::new(&[
        ("town", &["--subnet", "10.74.0.0/24"]),
        ("lake", &["--subnet", "10.75.0.0/24"]),
    ]);
    start("web", &["--network", "town"], SERVE);
    let interfaces =
        || call(&["exec", "web", "ls", "/sys/class/net"]).expect_code(0).text().replace('\n', " ");
    assert_eq!(interfaces(), "eth0 lo ");
    call(&["network", "connect", "--ip", "10.75.0.9", "lake", "web"]).expect_code(0);
    until("connected", || interfaces() == "eth0 eth1 lo ");
    until("reached", || TcpStream::connect("10.75.0.9:80").is_ok());
    assert_eq!(page("10.75.0.9:80"), "page\n");
    call(&["network", "disconnect", "lake", "web"]).expect_code(0);
    until("disconnected", || interfaces() == "eth0 lo ");
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    drop(networks);
    expect_nothing_left();
}
