//! What files cost in a VM: on a disk of its own, and on the host's file system through virtio-fs, beside the
//! host's file system itself. A container of runc's has that one, by a bind mount.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::exercise::Way;
use crate::exits;
use crate::inside::{self, PROGRAM, borrowed};
use crate::race::Contender;
use crate::start::{Ours, Place};

/// What `stopwatch disks` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Disks {
    pub(crate) rows: Vec<Row>,
}

/// One way to use files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) way: Way,
    /// How often it was done.
    pub(crate) count: usize,
    /// On the host.
    pub(crate) host_ns: u64,
    /// In a VM, by what the files are on.
    pub(crate) guest: BTreeMap<String, Cost>,
}

/// What it costs in a VM.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) ns: u64,
    /// VM exits, without those of the start, the preparation and the end.
    pub(crate) exits: u64,
}

impl Row {
    pub(crate) fn ratio(&self, on: &str) -> Option<f64> {
        Some(self.guest.get(on)?.ns as f64 / self.host_ns as f64)
    }
}

/// A disk of the VM's own.
pub(crate) const BLOCK: &str = "virtio-blk";

/// A directory of the host's.
pub(crate) const SHARE: &str = "virtio-fs";

/// Where the files are in a container.
const DATA: &str = "/data";

/// Measures all ways.
pub(crate) fn measure(arguments: &Arguments) -> Result<Disks> {
    let place = &arguments.place;
    let ours = place.ours()?;
    let rows = Way::value_variants().iter().map(|way| row(*way, place, &ours));
    Ok(Disks { rows: rows.collect::<Result<_>>()? })
}

fn row(way: Way, place: &Place, ours: &Ours) -> Result<Row> {
    let count = way.usual();
    let shared = place.scratch.join("shared");
    let words = |at: &str, count: usize| {
        let word = way.to_possible_value().map(|value| value.get_name().to_owned());
        let word = word.unwrap_or_default();
        ["exercise", &word, "--place", at, "--count", &count.to_string()].map(str::to_owned)
    };
    let on_host = words(&shared.display().to_string(), count);
    let host_ns =
        clean(&shared, || said(&Contender::new(inside::on_host()?, &borrowed(&on_host))))?;

    let binding = inside::binding()?;
    let sharing = format!("{}:{DATA}", shared.display());
    let mut guest = BTreeMap::new();
    for (on, options) in [(BLOCK, ["--storage", "size=1g"]), (SHARE, ["-v", &sharing])] {
        let run = |count: usize| -> Result<Cost> {
            let run = ["run", "--rm", "--network", "none", "-v", &binding];
            let words = words(DATA, count);
            let words = [&run[..], &options, &["demo", PROGRAM], &borrowed(&words)].concat();
            let mut ns = 0;
            let exits = clean(&shared, || {
                exits::count(|| {
                    ns = said(&ours.call(&words))?;
                    Ok(())
                })
            })?;
            Ok(Cost { ns, exits: exits.values().sum() })
        };
        // The first makes what the others find: a template, and pages in memory.
        run(0)?;
        let (without, with) = (run(0)?, run(count)?);
        let exits = with.exits.saturating_sub(without.exits);
        guest.insert(on.to_owned(), Cost { ns: with.ns, exits });
    }
    Ok(Row { way, count, host_ns, guest })
}

/// In a directory that is empty before, and gone after.
fn clean<T>(directory: &std::path::Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::fs::create_dir(directory).with_context(|| directory.display().to_string())?;
    let done = work();
    std::fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    done
}

/// The nanoseconds that a command says.
fn said(contender: &Contender) -> Result<u64> {
    let line = contender.first_line()?;
    let ns = line.parse().with_context(|| format!("{line:?} is no number of nanoseconds"))?;
    ensure!(ns > 0, "it took no time");
    Ok(ns)
}
