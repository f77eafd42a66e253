//! What a program does to files, against the clock. It runs on the host and in a container, by the same words.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::fs::{Advice, OFlags, fadvise};
use serde::{Deserialize, Serialize};

use crate::race::monotonic_ns;

/// What `stopwatch exercise` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What is done
    way: Way,
    /// The directory it is done in, made if it is not there
    #[arg(long, value_name = "DIR")]
    place: PathBuf,
    /// How often it is done; 0 for the preparation alone
    #[arg(long)]
    count: usize,
    /// How many files there are to be found and removed
    #[arg(long, default_value_t = FILES)]
    files: usize,
}

/// What is done to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// Writes mebibytes one behind the other, and waits at the end until they are kept
    SequentialWrite,
    /// Reads mebibytes one behind the other that are not in the page cache
    SequentialRead,
    /// Writes 4 KiB here and there, around the page cache
    RandomWrite,
    /// Reads 4 KiB from here and there, around the page cache
    RandomRead,
    /// Makes files of a line, a hundred in a directory
    Make,
    /// Asks for the attributes of all of them
    Find,
    /// Removes all of them
    Remove,
}

impl Way {
    /// What it is called on the command line.
    pub(crate) fn name(self) -> String {
        word(self)
    }

    /// How often it is done for a figure, with so many files to be made, found and removed.
    pub(crate) fn usual(self, files: usize) -> usize {
        match self {
            Self::SequentialWrite | Self::SequentialRead => MIB,
            Self::RandomWrite | Self::RandomRead => 500,
            Self::Make | Self::Find | Self::Remove => files,
        }
    }
}

/// What a value is called on the command line.
pub(crate) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// How long a file is that is read or written to.
const MIB: usize = 32;

/// How many files there are if nobody wants more. Each costs dozens of VM exits, which the deterministic host takes its
/// time for.
pub(crate) const FILES: usize = 300;

/// What is read or written around the page cache, which wants to be asked for whole ones.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// Prepares, and gives back how many nanoseconds the rest took.
pub(crate) fn exercise(arguments: &Arguments) -> Result<u64> {
    let Arguments { way, place, count, files } = arguments;
    let (count, path) = (*count, place.join("file"));
    fs::create_dir_all(place).with_context(|| place.display().to_string())?;
    match way {
        Way::SequentialWrite => timed(|| write(&path, count)),
        Way::SequentialRead => {
            write(&path, MIB)?;
            fadvise(File::open(&path)?, 0, None, Advice::DontNeed)?;
            timed(|| read(&path, count))
        }
        Way::RandomWrite | Way::RandomRead => {
            write(&path, MIB)?;
            timed(|| here_and_there(&path, count, *way == Way::RandomWrite))
        }
        Way::Make => timed(|| make(place, count)),
        Way::Find => {
            make(place, *files)?;
            timed(|| if count > 0 { find(place, &|_| Ok(())) } else { Ok(()) })
        }
        Way::Remove => {
            make(place, *files)?;
            let remove = |path: &Path| Ok(fs::remove_file(path)?);
            timed(|| if count > 0 { find(place, &remove) } else { Ok(()) })
        }
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let began_ns = monotonic_ns();
    work()?;
    Ok(monotonic_ns() - began_ns)
}

fn write(path: &Path, mib: usize) -> Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

fn read(path: &Path, mib: usize) -> Result<()> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..mib {
        file.read_exact(&mut piece)?;
    }
    Ok(())
}

fn here_and_there(path: &Path, count: usize, writes: bool) -> Result<()> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(writes).custom_flags(direct).open(path)?;
    let mut page = Page([1; 4096]);
    let pages = (MIB as u64) << 8;
    // A walk over all pages before one comes a second time: the step has no divisor in common with their number.
    for step in (0..pages).cycle().take(count) {
        let at = step * 7919 % pages * 4096;
        if writes {
            file.write_all_at(&page.0, at)?;
        } else {
            file.read_exact_at(&mut page.0, at)?;
        }
    }
    Ok(())
}

fn make(place: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let directory = place.join(format!("directory{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&directory)?;
        }
        fs::write(directory.join(number.to_string()), "a line\n")?;
    }
    Ok(())
}

/// Does `work` to each file below `place` that [`make`] made.
fn find(place: &Path, work: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            find(&path, work)?;
        } else {
            work(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_does_what_it_says_and_takes_time() {
        for way in Way::value_variants() {
            let scratch = tempfile::tempdir().unwrap();
            let place = scratch.path().join("new");
            let files = |count| {
                let arguments = Arguments { way: *way, place: place.clone(), count, files: FILES };
                let ns = exercise(&arguments).unwrap();
                let mut files = 0;
                find(&place, &|_| Ok(())).unwrap();
                for directory in fs::read_dir(&place).unwrap() {
                    files += fs::read_dir(directory.unwrap().path()).map_or(1, Iterator::count);
                }
                (ns > 0, files)
            };
            let expected = match way {
                Way::Make => 7,
                Way::Find => FILES,
                Way::Remove => 0,
                _ => 1,
            };
            assert_eq!(files(7), (true, expected), "{way:?}");
        }
    }
}
