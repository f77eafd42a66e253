//! Containers on networks that CNI's plugins make: their callers are containerd, CRI-O and nerdctl.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Bundle, House, Namespace, ip};

use crate::clients::{Containerd, expect_nothing_left};
use crate::networks::{SERVE, bundle_in, page};

crate::stories![
    a_bridge_and_a_published_port,
    other_kinds_of_interfaces,
    containerd_s_client_makes_the_network_of_a_container_that_waits,
];

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A plugin, called as its callers do: by words in the environment and a configuration on standard input.
#[track_caller]
fn call(command: &str, namespace: &Namespace, configuration: &Value) -> Value {
    let plugin = Path::new(PLUGINS).join(configuration["type"].as_str().unwrap());
    let mut plugin = Command::new(plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "story")
        .env("CNI_NETNS", namespace.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(plugin.stdin.take().unwrap(), configuration).unwrap();
    let said = plugin.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{command} {configuration}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// The configuration of an interface with an address of this subnet, and a way out.
fn configuration(place: &TempDir, kind: &str, subnet: &str, more: Value) -> Value {
    let mut configuration = json!({
        "cniVersion": "1.0.0",
        "name": "story",
        "type": kind,
        "ipam": {
            "type": "host-local",
            "dataDir": place.path(),
            "ranges": [[{ "subnet": subnet }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    configuration.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    configuration
}

fn place() -> TempDir {
    tempfile::Builder::new().prefix("story-").tempdir().unwrap()
}

/// A container that serves a page in `namespace`, once it can be reached.
fn serve(namespace: &Namespace) -> (Bundle, House) {
    let bundle = bundle_in(namespace, &format!("({SERVE}) > /said"));
    let house = House::new();
    house.create(&bundle, "web");
    house.call(["start", "web"]).expect_code(0);
    assert_eq!(bundle.wait_for("said"), "up\n");
    (bundle, house)
}

fn end(house: &House) {
    house.call(["delete", "--force", "web"]).expect_code(0);
    house.expect_cleared("web");
}

fn a_bridge_and_a_published_port() {
    let (place, namespace) = (place(), Namespace::new("cni-bridge"));
    let more = json!({ "bridge": "cni-story", "isGateway": true, "ipMasq": true });
    let bridge = configuration(&place, "bridge", "10.81.0.0/24", more);
    let result = call("ADD", &namespace, &bridge);
    let ports = json!({
        "cniVersion": "1.0.0",
        "name": "story",
        "type": "portmap",
        "prevResult": result,
        "runtimeConfig": {
            "portMappings": [{ "hostPort": 18096, "containerPort": 80, "protocol": "tcp" }],
        },
    });
    call("ADD", &namespace, &ports);
    let (_bundle, house) = serve(&namespace);
    assert_eq!(page("10.81.0.2:80"), "page\n");
    assert_eq!(page("10.81.0.1:18096"), "page\n");
    assert_eq!(page("127.0.0.1:18096"), "page\n");
    end(&house);
    call("DEL", &namespace, &ports);
    call("DEL", &namespace, &bridge);
    ip("link delete cni-story");
}

fn other_kinds_of_interfaces() {
    let outside = Namespace::new("cni-outside");
    ip("link add cni-master type veth peer name far");
    ip(&format!("link set far netns {}", outside.path()));
    ip("link set cni-master up");
    outside.ip("address add 10.82.0.1/24 dev far");
    outside.ip("link set far up");
    for kind in ["macvlan", "ipvlan"] {
        let (place, namespace) = (place(), Namespace::new("cni-kind"));
        let more = json!({ "master": "cni-master" });
        let configuration = configuration(&place, kind, "10.82.0.0/24", more);
        call("ADD", &namespace, &configuration);
        let (_bundle, house) = serve(&namespace);
        let said = outside.call(&["busybox", "wget", "-q", "-O", "-", "http://10.82.0.2/"]);
        assert_eq!(said, "page\n", "{kind}");
        end(&house);
        call("DEL", &namespace, &configuration);
    }
    ip("link delete cni-master");
    let (place, namespace) = (place(), Namespace::new("cni-kind"));
    let configuration = configuration(&place, "ptp", "10.83.0.0/24", json!({}));
    call("ADD", &namespace, &configuration);
    let (_bundle, house) = serve(&namespace);
    assert_eq!(page("10.83.0.2:80"), "page\n", "ptp");
    end(&house);
    call("DEL", &namespace, &configuration);
}

/// What containerd's client looks for in this machine's directories, as long as a story lasts.
struct Machine;

impl Machine {
    const CONFIGURATION: &str = "/etc/cni/net.d/10-story.conflist";
    const PLUGINS: &str = "/opt/cni/bin";

    fn new(plugin: &Value) -> Self {
        for file in [Self::CONFIGURATION, Self::PLUGINS] {
            fs::create_dir_all(Path::new(file).parent().unwrap()).unwrap();
        }
        let list = json!({ "cniVersion": "1.0.0", "name": "story", "plugins": [plugin] });
        fs::write(Self::CONFIGURATION, list.to_string()).unwrap();
        std::os::unix::fs::symlink(PLUGINS, Self::PLUGINS).unwrap();
        Self
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::CONFIGURATION);
        let _ = fs::remove_file(Self::PLUGINS);
    }
}

fn containerd_s_client_makes_the_network_of_a_container_that_waits() {
    let place = place();
    let more = json!({ "bridge": "cni-story", "isGateway": true });
    let _machine = Machine::new(&configuration(&place, "bridge", "10.84.0.0/24", more));
    let world = TcpListener::bind("0.0.0.0:18097").unwrap();
    let answering = thread::spawn(move || {
        let (mut visitor, from) = world.accept().unwrap();
        let mut asked = [0; 1024];
        let _ = visitor.read(&mut asked).unwrap();
        visitor.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").unwrap();
        from.ip().to_string()
    });
    let containerd = Containerd::start();
    let image = containerd.demo();
    let script = "ls /sys/class/net; wget -q -O - http://10.84.0.1:18097/";
    let run = ["run", "--rm", "--cni", "--runtime", "io.containerd.runc.v2", "--runc-binary"];
    let program = tests::program().unwrap();
    let words = [program.to_str().unwrap(), &image, "story", "sh", "-c", script];
    let said = containerd.ctr(&[&run[..], &words].concat()).expect_code(0);
    assert_eq!(said.text(), "eth0\nlo\nhello\n");
    assert_eq!(answering.join().unwrap(), "10.84.0.2");
    ip("link delete cni-story");
    expect_nothing_left();
}
