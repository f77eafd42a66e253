//! Things that take minutes to build, kept outside the clone under the hash of what went in.
//!
//! An entry is a directory `<kind>-<key>`. It is built under another name and renamed when it is
//! whole, so one that can be seen is complete, whenever the builder was killed. A lock per entry
//! makes a second builder wait and then find it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::{paths, step};

/// The hash of everything that decides what an entry holds.
#[derive(Clone, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// A key of nothing yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a named part. Two keys are equal only if they have the same parts in the same order.
    pub(crate) fn part(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        for bytes in [name.as_bytes(), content] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Adds a file by its content; its place does not matter.
    pub(crate) fn file(self, name: &str, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        Ok(self.part(name, content))
    }

    /// As a file name: 16 hexadecimal digits.
    pub(crate) fn short(&self) -> String {
        self.0.clone().finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An entry that nobody has asked for in this time makes room when another of its kind is built.
const UNUSED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The directory of `kind` and `key`, built by `build` in a directory that it is given when there
/// is none yet.
pub(crate) fn entry(
    kind: &str,
    key: &Key,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let name = format!("{kind}-{}", key.short());
    let whole = cache.join(&name);
    if whole.is_dir() {
        mark_used(&whole)?;
        return Ok(whole);
    }
    let _lock = lock(&cache.join(format!(".{name}.lock")), &name)?;
    if whole.is_dir() {
        return Ok(whole);
    }
    let half = cache.join(format!(".{name}.half"));
    remove_if_there(&half)?;
    fs::create_dir(&half).with_context(|| half.display().to_string())?;
    build(&half)?;
    fs::rename(&half, &whole)
        .with_context(|| format!("{} to {}", half.display(), whole.display()))?;
    remove_unused(&cache, kind, SystemTime::now() - UNUSED)?;
    Ok(whole)
}

/// Whether [`entry`] would find the directory and build nothing.
pub(crate) fn holds(kind: &str, key: &Key) -> Result<bool> {
    Ok(paths::cache()?.join(format!("{kind}-{}", key.short())).is_dir())
}

/// Holds the file `path` locked until the answer is dropped. Says `what` it waits for if it must.
pub(crate) fn lock(path: &Path, what: &str) -> Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        step::say(&format!("{what}: waiting for another xtask that is at it"));
        flock(file.as_fd(), FlockOperation::LockExclusive)
            .with_context(|| path.display().to_string())?;
    }
    Ok(file)
}

/// An entry's own time of change is when it was last asked for.
fn mark_used(entry: &Path) -> Result<()> {
    File::open(entry)
        .and_then(|directory| directory.set_modified(SystemTime::now()))
        .with_context(|| entry.display().to_string())
}

/// Removes the entries of `kind` that were last asked for before `then`. Whoever has a file of one
/// open keeps that file.
fn remove_unused(cache: &Path, kind: &str, then: SystemTime) -> Result<()> {
    let is_key = |key: &str| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    for entry in fs::read_dir(cache).with_context(|| cache.display().to_string())? {
        let entry = entry.with_context(|| cache.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_kind = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
        let used = || entry.metadata().and_then(|seen| seen.modified());
        if of_kind.is_some_and(is_key) && used().is_ok_and(|used| used < then) {
            step::say(&format!("removing {name}, which nobody has used for long"));
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_join_to_the_same_bytes_make_different_keys() {
        let one = Key::new().part("a", "bc");
        let two = Key::new().part("ab", "c");
        assert_ne!(one.short(), two.short());
    }

    #[test]
    fn the_same_parts_make_the_same_key() {
        let key = || Key::new().part("packages", "runc crun").part("format", "1");
        assert_eq!(key().short(), key().short());
    }

    #[test]
    fn only_what_nobody_uses_makes_room() {
        let cache = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let names =
            ["kernel-0123456789abcdef", "kernel-fedcba9876543210", "kernel-of-mine", "hosts"];
        for name in names {
            fs::create_dir(cache.path().join(name)).unwrap();
            let directory = File::open(cache.path().join(name)).unwrap();
            directory.set_modified(now - Duration::from_secs(100)).unwrap();
        }
        mark_used(&cache.path().join(names[1])).unwrap();
        remove_unused(cache.path(), "kernel", now - Duration::from_secs(50)).unwrap();
        let left = names.map(|name| cache.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
    }
}
