//! What images cost until they can be run: pulled from a registry and unpacked, in time and in room on the disk,
//! by microvm, podman and containerd.

mod engine;
mod table;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::figures::{Machine, median};
use crate::race::Contender;
use crate::report::ms;
use crate::start::machine;
use engine::{Engine, NAMES};
pub(crate) use table::table;

/// What `stopwatch images` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where `microvm`, `docker-registry` and, in `registry`, its files are
    #[arg(long, value_name = "DIR")]
    outputs: PathBuf,
    /// A directory on a file system that overlays can lie on, made for this
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stopwatch")]
    scratch: PathBuf,
    /// How often each image is pulled, by each
    #[arg(long, default_value_t = 2)]
    runs: usize,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Images {
    pub(crate) machine: Machine,
    /// Who pulled, and the first line of its `--version`.
    pub(crate) engines: Vec<(String, String)>,
    pub(crate) images: Vec<Image>,
}

/// An image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) layers: usize,
    /// Of all layers, as they come.
    pub(crate) packed_bytes: u64,
    /// In the order of the engines.
    pub(crate) costs: Vec<Cost>,
}

/// What an image costs with one engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) turns: Vec<Turn>,
}

/// An image, brought into an empty store and removed again. Times are from spawn to wait.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) pull_ns: u64,
    /// Of the same command when all is there.
    pub(crate) again_ns: u64,
    pub(crate) remove_ns: u64,
    /// Room that the store takes more than when it was empty, with the image and without it.
    pub(crate) stored_bytes: u64,
    pub(crate) left_bytes: u64,
}

impl Cost {
    /// The median of something of all turns.
    pub(crate) fn of(&self, what: impl Fn(&Turn) -> u64) -> Option<u64> {
        median(self.turns.iter().map(what).collect())
    }
}

/// The images in the registry, the smallest first.
const IMAGES: [&str; 3] = ["small", "middle", "large"];

/// Pulls all images with all engines.
pub(crate) fn measure(arguments: &Arguments) -> Result<Images> {
    let Arguments { outputs, scratch, runs } = arguments;
    ensure!(*runs > 0, "no figure comes from 0 runs");
    fs::create_dir(scratch).with_context(|| scratch.display().to_string())?;
    let registry = registry(outputs, scratch)?;
    let host = registry.ready.split_once(LISTENING).map_or("", |(_, rest)| rest);
    let host = host.split(['"', ',']).next().unwrap_or_default();
    let reference = |name: &str| format!("{host}/{name}:latest");

    let mut pulled = Vec::new();
    for name in IMAGES {
        for engine in NAMES {
            for run in 0..*runs {
                let place = scratch.join(format!("{name}-{engine}-{run}"));
                let one =
                    Pulled::new(Engine::new(engine, outputs, &place)?, &reference(name), place);
                let one = one.with_context(|| format!("{engine}, {name}"))?;
                // It takes minutes until the figures are seen.
                eprintln!("{name}, {engine}: {} ms", ms(one.pull_ns));
                pulled.push(one);
            }
        }
    }
    // Only now: an ext4 without a journal looks at each inode that was freed in the last minute before it gives out
    // another (`recently_deleted` in Linux' fs/ext4/ialloc.c), and who comes next would pay for that.
    let mut turns = pulled.into_iter().map(Pulled::remove);
    let mut image = |name: &str| -> Result<Image> {
        let layers = layers(&reference(name))?;
        let costs = NAMES
            .iter()
            .map(|_| Ok(Cost { turns: turns.by_ref().take(*runs).collect::<Result<_>>()? }));
        Ok(Image {
            name: name.to_owned(),
            layers: layers.len(),
            packed_bytes: layers.iter().map(|layer| layer.size).sum(),
            costs: costs.collect::<Result<_>>()?,
        })
    };
    let images = IMAGES.iter().map(|name| image(name)).collect::<Result<_>>()?;
    let engine = |name: &&str| Ok(((*name).to_owned(), engine::version(name, outputs)?));
    let engines = NAMES.iter().map(engine).collect::<Result<_>>()?;
    Ok(Images { machine: machine()?, engines, images })
}

/// What the registry says before its address when it can be asked.
const LISTENING: &str = "listening on ";

/// The registry, which only gives.
fn registry(outputs: &Path, scratch: &Path) -> Result<Daemon> {
    let config = scratch.join("registry.yml");
    let said = format!(
        "version: 0.1\nlog: {{ level: info, formatter: text, accesslog: {{ disabled: true }} }}\n\
         storage: {{ filesystem: {{ rootdirectory: {} }}, maintenance: {{ uploadpurging: {{ enabled: false }}, \
         readonly: {{ enabled: true }} }} }}\nhttp: {{ addr: 127.0.0.1:0 }}\n",
        outputs.join("registry").display()
    );
    fs::write(&config, said).with_context(|| config.display().to_string())?;
    let mut serve = Command::new(outputs.join("docker-registry"));
    serve.arg("serve").arg(&config);
    Daemon::start(serve, LISTENING)
}

/// A descriptor (OCI image specification).
#[derive(Deserialize)]
struct Layer {
    size: u64,
}

/// The layers that an image's manifest has.
fn layers(reference: &str) -> Result<Vec<Layer>> {
    #[derive(Deserialize)]
    struct Manifest {
        layers: Vec<Layer>,
    }
    let image = format!("docker://{reference}");
    let words = ["inspect", "--raw", "--tls-verify=false", &image];
    let json = Contender::new("skopeo", &words).words()?;
    let manifest: Manifest = serde_json::from_str(&json).with_context(|| image)?;
    Ok(manifest.layers)
}

/// An image in a store that was empty.
struct Pulled {
    engine: Engine,
    reference: String,
    place: PathBuf,
    /// The room that the store took before.
    empty_bytes: u64,
    stored_bytes: u64,
    pull_ns: u64,
    again_ns: u64,
}

impl Pulled {
    fn new(engine: Engine, reference: &str, place: PathBuf) -> Result<Self> {
        let empty_bytes = room(&engine.store)?;
        let pull_ns = lap(&engine.pull(reference), &place)?;
        let stored_bytes = room(&engine.store)?.saturating_sub(empty_bytes);
        let again_ns = lap(&engine.pull(reference), &place)?;
        let reference = reference.to_owned();
        Ok(Self { engine, reference, place, empty_bytes, stored_bytes, pull_ns, again_ns })
    }

    fn remove(self) -> Result<Turn> {
        let Self { engine, reference, place, empty_bytes, stored_bytes, pull_ns, again_ns } = self;
        let remove_ns = lap(&engine.remove(&reference), &place)?;
        let left_bytes = room(&engine.store)?.saturating_sub(empty_bytes);
        Ok(Turn { pull_ns, again_ns, remove_ns, stored_bytes, left_bytes })
    }
}

fn lap(contender: &Contender, place: &Path) -> Result<u64> {
    // What others have left to be written is not this one's to wait for.
    rustix::fs::sync();
    let lap = contender.lap(place)?;
    Ok(lap.ended_ns - lap.began_ns)
}

/// The room on the disk of all that is in a directory, as `du` counts it; none if there is no directory.
fn room(directory: &Path) -> Result<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let (mut pending, mut bytes) = (vec![directory.to_owned()], 0);
    while let Some(path) = pending.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.with_context(|| path.display().to_string())?,
        };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
            for entry in entries {
                pending.push(entry.with_context(|| path.display().to_string())?.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_takes_its_room_once() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        assert_eq!(room(&path("none")).unwrap(), 0);
        let empty = room(scratch.path()).unwrap();
        fs::create_dir(path("deep")).unwrap();
        let deep = room(scratch.path()).unwrap() - empty;
        fs::write(path("deep/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(path("deep/file"), path("link")).unwrap();
        let file = fs::metadata(path("link")).unwrap().blocks() * 512;
        assert!(file >= 1 << 20);
        assert_eq!(room(scratch.path()).unwrap(), empty + deep + file);
    }
}
