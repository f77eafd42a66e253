//! What the network costs: TCP between a container and a peer on the host's side, and what a container takes to
//! start by the network it is on. runc's container has one end of a veth, and ours the same; and then there is a
//! network of microvm's own.

mod table;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::wire::Wire;
use crate::bundle::Bundle;
use crate::exits;
use crate::figures::{Machine, Series};
use crate::inside::{self, PROGRAM};
use crate::race::Contender;
use crate::report::ms;
use crate::start::{Ours, Place, machine};
use crate::talk::{Listener, Peer, Way};
pub(crate) use table::table;

/// What `stopwatch network` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Starts that count, on each network
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) machine: Machine,
    /// Each way to talk, over each network.
    pub(crate) talks: Vec<Talk>,
    /// From start to exit of busybox `/bin/true` on each network.
    pub(crate) starts: Vec<Series>,
}

/// One way to talk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Talk {
    pub(crate) way: Way,
    /// How often it was done.
    pub(crate) count: u64,
    /// By what the container has; [`CONTAINERS`].
    pub(crate) costs: BTreeMap<String, Cost>,
}

/// What it costs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) ns: u64,
    /// That the peer's interface has seen, both ways; one that is yet to be cut into segments is one.
    pub(crate) packets: u64,
    /// VM exits by what the guest did, of as many once more: to count them takes time.
    pub(crate) exits: BTreeMap<String, u64>,
}

impl Talk {
    /// What it costs as a multiple of what it costs runc's container.
    pub(crate) fn ratio(&self, with: &str) -> Option<f64> {
        Some(self.costs.get(with)?.ns as f64 / self.costs.get(RUNC)?.ns as f64)
    }
}

/// runc's container with an end of a veth.
const RUNC: &str = "runc, veth";

/// Ours with the same: its frames are redirected to a tap.
const VETH: &str = "microvm, veth";

/// Ours on microvm's own network: its tap is in a bridge.
const BRIDGE: &str = "microvm, bridge";

/// What containers have that talk.
pub(crate) const CONTAINERS: [&str; 3] = [RUNC, VETH, BRIDGE];

/// The interface and the address of the host on the network `default`.
const DEFAULT: (&str, Ipv4Addr) = ("mv-default", Ipv4Addr::new(10, 190, 0, 1));

/// Measures all.
pub(crate) fn measure(arguments: &Arguments) -> Result<Network> {
    let Arguments { place: Place { outputs, scratch }, runs } = arguments;
    ensure!(*runs > 0, "no figure comes from 0 runs");
    let ours = arguments.place.ours()?;
    let bundle = Bundle::new(&outputs.join("demo-rootfs"), scratch)?;
    let wire = Wire::new("stopwatch")?;
    let starts = starts(&ours, &bundle, &wire, *runs, scratch)?;
    let mut talks: Vec<_> = (Way::ALL.into_iter())
        .map(|way| Talk { way, count: way.usual(), costs: BTreeMap::new() })
        .collect();
    bundle.edit(carry(&inside::on_host()?))?;
    for container in CONTAINERS {
        let (interface, address) =
            if container == BRIDGE { DEFAULT } else { (&*wire.host, Wire::HOST) };
        let listener = Listener::new()?;
        let (binding, peer) = (inside::binding()?, listener.at(address)?.to_string());
        let words = [PROGRAM, "talk", &peer];
        bundle.edit(|spec| spec["process"]["args"] = json!(words))?;
        let contender = match container {
            BRIDGE => {
                let run = ["run", "--rm", "--network", "default", "-v", &binding, "demo"];
                ours.call(&[&run[..], &words].concat())
            }
            VETH => ours.call(&run_bundle(&bundle.path())),
            _ => Contender::new("runc", &run_bundle(&bundle.path())),
        };
        let measure = |peer| costs(peer, &mut talks, container, interface);
        converse(&contender, &listener, scratch, measure).context(container)?;
    }
    Ok(Network { machine: machine()?, talks, starts })
}

/// Runs a container whose program connects, and ends the connection when `work` is done with it.
fn converse(
    contender: &Contender,
    listener: &Listener,
    scratch: &Path,
    work: impl FnOnce(Peer) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let container = scope.spawn(|| contender.lap(scratch));
        let worked = listener.peer().and_then(work);
        let ended = container.join().unwrap_or_else(|panic| resume_unwind(panic));
        match (worked, ended) {
            // Its own words say more than that it is gone.
            (Err(error), Err(ended)) => Err(ended.context(error)),
            (worked, ended) => worked.and(ended.map(drop)),
        }
    })
}

/// Talks each way: once to be warm, once against the clock, and once to count the exits.
fn costs(mut peer: Peer, talks: &mut [Talk], container: &str, interface: &str) -> Result<()> {
    for talk in talks {
        let (way, count) = (talk.way, talk.count);
        peer.time(way, count)?;
        let before = packets(interface)?;
        let ns = peer.time(way, count)?;
        let packets = packets(interface)? - before;
        let exits = match container {
            RUNC => BTreeMap::new(),
            _ => exits::count(|| peer.time(way, count).map(drop))?,
        };
        // It takes minutes until the figures are seen.
        eprintln!("{container}: {count} {}: {} ms", way.name(), ms(ns));
        talk.costs.insert(container.to_owned(), Cost { ns, packets, exits });
    }
    Ok(())
}

/// Packets that an interface has received and sent.
fn packets(interface: &str) -> Result<u64> {
    let count = |way: &str| -> Result<u64> {
        let path = format!("/sys/class/net/{interface}/statistics/{way}_packets");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        text.trim().parse().with_context(|| path)
    };
    Ok(count("rx")? + count("tx")?)
}

/// Starts and ends containers, the first of each kind without a clock.
fn starts(
    ours: &Ours,
    bundle: &Bundle,
    wire: &Wire,
    runs: usize,
    scratch: &Path,
) -> Result<Vec<Series>> {
    let path = bundle.path();
    let series = |name: &str, contender: &Contender| Series {
        name: name.to_owned(),
        version: String::new(),
        outcome: contender.series(1, runs, scratch),
    };
    let on = |network| ours.call(&["run", "--rm", "--network", network, "demo", "/bin/true"]);
    let bundled = [
        ("runc", Contender::new("runc", &run_bundle(&path))),
        ("microvm", ours.call(&run_bundle(&path))),
    ];
    let bundled = |having: &str| {
        bundled.each_ref().map(|(name, contender)| series(&format!("{name}, {having}"), contender))
    };

    let mut all = Vec::from(bundled("no interface"));
    bundle.edit(connect(&wire.path()))?;
    all.extend(bundled("veth"));
    all.push(series("microvm, none", &on("none")));
    all.push(series("microvm, default", &on("default")));
    // As long as somebody is there, the bridge and the rules are.
    let neighbour = "neighbour";
    let run = ["run", "--detach", "--network", "default", "--name", neighbour, "demo"];
    ours.call(&[&run[..], &["sleep", "1000000"]].concat()).lap(scratch)?;
    all.push(series("microvm, default, not alone", &on("default")));
    ours.call(&["rm", "--force", neighbour]).lap(scratch)?;
    Ok(all)
}

/// What a runtime is told that runs a bundle.
fn run_bundle(path: &str) -> [&str; 4] {
    ["run", "--bundle", path, "stopwatch"]
}

/// Puts a container into this network namespace.
fn connect(namespace: &str) -> impl FnOnce(&mut Value) {
    move |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        for one in namespaces.into_iter().flatten().filter(|one| one["type"] == "network") {
            one["path"] = json!(namespace);
        }
    }
}

/// Gives a container this program.
fn carry(program: &str) -> impl FnOnce(&mut Value) {
    let mount = json!({
        "destination": PROGRAM,
        "type": "bind",
        "source": program,
        "options": ["bind", "ro"],
    });
    move |spec| {
        spec["mounts"].as_array_mut().into_iter().for_each(|mounts| mounts.push(mount.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_put_into_a_namespace_with_this_program_in_it() {
        let mut spec = json!({
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }] },
            "mounts": [{ "destination": "/proc" }],
        });
        connect("/run/netns/one")(&mut spec);
        carry("/bin/own")(&mut spec);
        let namespaces =
            json!([{ "type": "pid" }, { "type": "network", "path": "/run/netns/one" }]);
        assert_eq!(spec["linux"]["namespaces"], namespaces);
        assert_eq!(spec["mounts"][1]["destination"], PROGRAM);
        assert_eq!(spec["mounts"][1]["source"], "/bin/own");
    }

    #[test]
    fn a_container_that_ends_says_why_and_nobody_waits_for_it() {
        let scratch = tempfile::tempdir().unwrap();
        let listener = Listener::new().unwrap();
        let peer = listener.at(Ipv4Addr::LOCALHOST).unwrap();
        // Somebody connects and goes; the container has its own words.
        drop(std::net::TcpStream::connect(peer).unwrap());
        let contender = Contender::new("/bin/sh", &["-c", "echo the reason >&2; exit 3"]);
        let work = |mut peer: Peer| peer.time(Way::RoundTrip, 2).map(drop);
        let error = converse(&contender, &listener, scratch.path(), work).unwrap_err();
        assert!(format!("{error:#}").ends_with("the reason"), "{error:#}");
    }
}
