use std::collections::BTreeMap;
use std::path::Path;

use proto::spec::TerminalSize;
use serde_json::{Value, json};

use super::*;
use crate::state::record::Id;

fn host() -> Host {
    Host {
        memory_bytes: 8 << 30,
        terminal: TerminalSize { rows: 24, columns: 80 },
        stdin_is_terminal: false,
        environment: BTreeMap::new(),
        id: Id::from_bits([7; 32]),
    }
}

/// The least that is a container.
fn least() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }] },
    })
}

fn decided(spec: Value) -> Result<Decided, Refused> {
    let bundle = Bundle { path: "/bundle".into(), spec: serde_json::from_value(spec).unwrap() };
    decide(&bundle, "box".parse().unwrap(), &host())
}

/// The least with `value` at `path` ("linux.resources").
fn with(path: &str, value: Value) -> Result<Decided, Refused> {
    let mut spec = least();
    let mut place = &mut spec;
    for word in path.split('.') {
        place = &mut place[word];
    }
    *place = value;
    decided(spec)
}

#[test]
fn the_least_bundle_becomes_a_container_in_a_small_vm() {
    let Decided { plan, network, .. } = decided(least()).unwrap();
    assert_eq!((plan.vcpus, plan.ram_bytes), (1, 512 << 20));
    assert_eq!(plan.container.root, Root::Share { name: "root".into() });
    assert_eq!(plan.container.namespaces, [Namespace::Pid]);
    assert_eq!(plan.shares[0].path, Path::new("/bundle/rootfs"));
    assert_eq!(network, Network::New);
}

#[test]
fn every_field_that_cannot_be_honoured_is_refused_by_its_name() {
    let network = json!({ "type": "network" });
    for (path, value, said) in [
        ("ociVersion", json!("2.0.0"), "ociVersion is"),
        ("root", Value::Null, "root is missing"),
        ("process", Value::Null, "process is missing"),
        ("process.args", json!([]), "process.args is empty"),
        ("process.cwd", json!("here"), "process.cwd is not an absolute path"),
        ("process.env", json!(["A=\u{0}"]), "process.env holds a zero byte"),
        ("process.commandLine", json!("x"), "process.commandLine is for Windows"),
        (
            "process.ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 9 }),
            "process.ioPriority.priority",
        ),
        ("hostname", json!("x"), "hostname needs a uts namespace"),
        ("linux.namespaces", json!([]), "linux.namespaces has no network namespace"),
        ("linux.namespaces", json!([network, network]), "linux.namespaces names network twice"),
        (
            "linux.namespaces",
            json!([{ "type": "pid", "path": "/proc/1/ns/pid" }]),
            "linux.namespaces[pid].path",
        ),
        ("linux.intelRdt", json!({}), "linux.intelRdt is not supported"),
        (
            "linux.personality",
            json!({ "domain": "LINUX", "flags": ["X"] }),
            "linux.personality.flags",
        ),
        (
            "mounts",
            json!([{ "destination": "/a", "source": "/b", "options": ["bind", "idmap"] }]),
            "mounts[0]",
        ),
        ("vm", json!({ "kernel": { "path": "/k" } }), "vm is not supported"),
    ] {
        let error = with(path, value).expect_err(path).to_string();
        assert!(error.starts_with(said), "{path}: {error}");
    }
}

#[test]
fn a_limit_makes_the_vm_and_leaves_room_for_the_guest_itself() {
    let vm = |resources: Value| {
        let plan = with("linux.resources", resources).unwrap().plan;
        (plan.vcpus, plan.ram_bytes >> 20)
    };
    assert_eq!(vm(json!({ "memory": { "limit": 1 << 30 } })), (1, 1024 + 96));
    assert_eq!(vm(json!({ "memory": { "limit": 4096 } })), (1, 128));
    assert_eq!(vm(json!({ "memory": { "limit": -1 } })), (1, 512));
    assert_eq!(vm(json!({ "memory": { "limit": 1_i64 << 60 } })), (1, 8192));
    assert_eq!(vm(json!({ "cpu": { "quota": 250_000, "period": 100_000 } })), (3, 512));
    assert_eq!(vm(json!({ "cpu": { "quota": 900_000_000, "period": 1000 } })).0, 32);
}

#[test]
fn names_of_the_specification_reach_the_guest_as_they_are() {
    let mut spec = least();
    spec["hostname"] = json!("web");
    spec["linux"]["namespaces"] = json!([
        { "type": "uts" }, { "type": "user" }, { "type": "network", "path": "/run/netns/x" },
    ]);
    spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 5, "size": 9 }]);
    spec["linux"]["sysctl"] = json!({ "b.c": "1", "a.b": "2" });
    spec["linux"]["devices"] =
        json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 5, "fileMode": 384 }]);
    spec["process"]["capabilities"] = json!({ "bounding": ["CAP_KILL"], "ambient": ["CAP_CHOWN"] });
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_CORE", "soft": 1, "hard": 2 }]);
    spec["hooks"] = json!({
        "prestart": [{ "path": "/a" }], "createRuntime": [{ "path": "/b", "timeout": 5 }],
        "startContainer": [{ "path": "/c", "args": ["c", "x"] }],
    });
    let Decided { plan, network, hooks, .. } = decided(spec).unwrap();
    let container = plan.container;
    assert_eq!(container.hostname.as_deref(), Some("web"));
    assert_eq!(network, Network::At("/run/netns/x".into()));
    assert_eq!((container.uid_mappings[0].host_id, container.uid_mappings[0].size), (5, 9));
    assert_eq!(container.sysctl[0], ("a.b".to_owned(), "2".to_owned()));
    assert_eq!(
        (container.devices[0].kind.as_str(), container.devices[0].file_mode),
        ("c", Some(384))
    );
    assert_eq!(container.process.capabilities.bounding, ["CAP_KILL"]);
    assert_eq!(container.process.capabilities.ambient, ["CAP_CHOWN"]);
    assert_eq!(container.process.rlimits[0].kind, "RLIMIT_CORE");
    let paths: Vec<_> =
        hooks.create_runtime.iter().map(|hook| hook.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/a", "/b"]);
    assert_eq!(container.start_hooks[0].args, ["c", "x"]);
}

#[test]
fn the_labels_of_a_first_process_are_its_vm_s() {
    let labels = |path: &str, label: &str| with(path, json!(label)).unwrap().plan.labels;
    assert_eq!(labels("process.apparmorProfile", "x").apparmor.as_deref(), Some("x"));
    assert_eq!(labels("process.selinuxLabel", "u:r:t:s0").selinux.as_deref(), Some("u:r:t:s0"));
    for none in ["", "unconfined"] {
        assert!(labels("process.apparmorProfile", none).is_empty(), "{none:?}");
    }
}
