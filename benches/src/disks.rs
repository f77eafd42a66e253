//! What files cost in a VM: on a disk of its own, and on the host's file system through virtio-fs, beside the
//! host's file system itself, which a container of runc's has by a bind mount, and beside virtiofsd.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::exercise::{FILES, Way, word};
use crate::exits;
use crate::inside::{self, PROGRAM, borrowed};
use crate::race::Contender;
use crate::report::{line, ms};
use crate::start::{Ours, Place};
use crate::virtiofsd::Guest;

/// What `stopwatch disks` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// One way to use files alone
    #[arg(long)]
    only: Option<Way>,
    /// Files on this alone
    #[arg(long)]
    on: Option<Ground>,
    /// So many files to be made, found and removed
    #[arg(long, default_value_t = FILES)]
    files: usize,
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
    pub(crate) guest: BTreeMap<Ground, Cost>,
}

/// What the files of a VM are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ground {
    /// A disk of the VM's own
    VirtioBlk,
    /// A directory of the host's
    VirtioFs,
    /// The same by the server and the VMM of others
    Virtiofsd,
}

impl Ground {
    /// What it is called on the command line.
    pub(crate) fn name(self) -> String {
        word(self)
    }
}

/// What it costs in a VM.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) ns: u64,
    /// VM exits, without those of the start, the preparation and the end.
    pub(crate) exits: u64,
}

impl Row {
    fn ratio(&self, on: Ground) -> Option<f64> {
        Some(self.guest.get(&on)?.ns as f64 / self.host_ns as f64)
    }
}

/// Where the files are in a container.
const DATA: &str = "/data";

/// Measures all ways on all grounds, or what is wanted of them.
pub(crate) fn measure(arguments: &Arguments) -> Result<Disks> {
    let Arguments { place, only, .. } = arguments;
    let ours = place.ours()?;
    let peer = Guest::new(&place.outputs, &place.scratch)?;
    let ways = Way::value_variants().iter();
    let wanted = ways.filter(|way| only.is_none_or(|only| only == **way));
    let rows = wanted.map(|way| row(*way, arguments, &ours, &peer));
    Ok(Disks { rows: rows.collect::<Result<_>>()? })
}

fn row(way: Way, arguments: &Arguments, ours: &Ours, peer: &Guest) -> Result<Row> {
    let &Arguments { ref place, on: only, files, .. } = arguments;
    let count = way.usual(files);
    let shared = place.scratch.join("shared");
    let words = |at: &str, count: usize| {
        let (count, files) = (count.to_string(), files.to_string());
        ["exercise", &way.name(), "--place", at, "--count", &count, "--files", &files]
            .map(str::to_owned)
    };
    let on_host = words(&shared.display().to_string(), count);
    let host_ns = clean(&shared, || {
        nanoseconds(&Contender::new(inside::on_host()?, &borrowed(&on_host)).first_line()?)
    })?;

    let binding = inside::binding()?;
    let sharing = format!("{}:{DATA}", shared.display());
    let in_ours = |options: [&str; 2], count: usize| {
        let run = ["run", "--rm", "--network", "none", "-v", &binding];
        let words = words(DATA, count);
        ours.call(&[&run[..], &options, &["demo", PROGRAM], &borrowed(&words)].concat())
            .first_line()
    };
    let on_block = |count| in_ours(["--storage", "size=1g"], count);
    let on_share = |count| in_ours(["-v", &sharing], count);
    let on_peer = |count| peer.says(&shared, &borrowed(&words(Guest::FILES, count)));
    let mut guest = BTreeMap::new();
    for on in Ground::value_variants().iter().copied().filter(|on| only.is_none_or(|o| o == *on)) {
        let run: &dyn Fn(usize) -> Result<String> = match on {
            Ground::VirtioBlk => &on_block,
            Ground::VirtioFs => &on_share,
            Ground::Virtiofsd => &on_peer,
        };
        let cost = |count| -> Result<Cost> {
            let mut ns = 0;
            let exits = clean(&shared, || {
                exits::count(|| {
                    ns = nanoseconds(&run(count)?)?;
                    Ok(())
                })
            });
            Ok(Cost { ns, exits: exits?.values().sum() })
        };
        // The first makes what the others find: a template, and pages in memory.
        cost(0)?;
        let (without, with) = (cost(0)?, cost(count)?);
        let exits = with.exits.saturating_sub(without.exits);
        // The whole takes long: whoever waits sees that it goes on.
        let (way, on_what) = (way.name(), on.name());
        eprintln!("{way} on {on_what}: {count} times in {} ms, {exits} exits", ms(with.ns));
        guest.insert(on, Cost { ns: with.ns, exits });
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

/// What files cost, way by way.
pub(crate) fn table(disks: &Disks) -> String {
    let mut out = "Files on the host and in a VM: time of all, as a multiple of the host's, and VM exits of each\n\n"
        .to_owned();
    let grounds = Ground::value_variants();
    let mut heading = format!("{:<18}{:>7}{:>12}", "", "times", "host ms");
    for on in grounds {
        heading.push_str(&format!("{:>12}{:>8}{:>8}", on.name(), "x host", "exits"));
    }
    line(&mut out, format_args!("{heading}"));
    for row in &disks.rows {
        let (name, host_ms) = (row.way.name(), ms(row.host_ns));
        let mut text = format!("{name:<18}{:>7}{host_ms:>12}", row.count);
        for on in grounds {
            let (Some(cost), Some(ratio)) = (row.guest.get(on), row.ratio(*on)) else { continue };
            let exits = cost.exits as f64 / row.count as f64;
            text.push_str(&format!("{:>12}{ratio:>8.2}{exits:>8.1}", ms(cost.ns)));
        }
        line(&mut out, format_args!("{text}"));
    }
    out.push_str(
        "\nThe host's file system is a tmpfs: to read it is to copy memory. virtiofsd serves a guest of QEMU's, by its\n\
         `--cache auto`, which believes attributes for a second; so does ours, but for who opens a file.\n\n",
    );
    out
}

/// What a command says that it took.
fn nanoseconds(line: &str) -> Result<u64> {
    let ns = line.parse().with_context(|| format!("{line:?} is no number of nanoseconds"))?;
    ensure!(ns > 0, "it took no time");
    Ok(ns)
}
