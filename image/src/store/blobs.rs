//! Layers as they came, by digest: what images share, and what they can be saved from again.
//!
//! ```text
//!   partial/<digest>  ──(whole, synced, its digest right)──►  blobs/sha256/<digest>
//! ```
//!
//! Whoever brings a blob holds a lock on its file in `partial`, and the next one who wants the same waits for
//! that instead of bringing it again. A process that is killed lets go of the lock, and the next one goes on
//! with what there is. What nobody has gone on with for a day is swept.
//!
//! Blobs of no image are taken away by whoever changes something, unless somebody holds a shared lock on
//! `partial` itself: then they may be of an image that is on its way.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Lock, Store, sync_directory};
use crate::Digest;

/// How long the beginning of a blob is kept for somebody to go on with.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// The file system refused: where, and why.
type Refused = (PathBuf, io::Error);

/// A blob that is wanted.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is there.
    There,
    /// It is ours to bring.
    Ours(Partial),
}

/// The beginning of a blob, nobody else's until dropped.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
}

/// As long as it lives, blobs without an image are left alone.
#[derive(Debug)]
pub(super) struct Bringing {
    _directory: File,
}

impl Store {
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Keeps blobs safe that no image has yet.
    pub(super) fn bring(&self) -> Result<Bringing, Refused> {
        let path = self.partials();
        let directory = File::open(&path).map_err(|source| (path.clone(), source))?;
        flock(&directory, FlockOperation::LockShared).map_err(|error| (path, error.into()))?;
        Ok(Bringing { _directory: directory })
    }

    /// Waits until nobody else is bringing `digest`, and says whether somebody has.
    pub(super) fn claim(&self, digest: Digest) -> Result<Claim, Refused> {
        let (blob, path) = (self.blob(digest), self.partials().join(digest.hex()));
        let at = |source| (path.clone(), source);
        loop {
            if blob.exists() {
                return Ok(Claim::There);
            }
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            let file = options.open(&path).map_err(at)?;
            flock(&file, FlockOperation::LockExclusive).map_err(|error| at(error.into()))?;
            // While we waited it may have become the blob, or have been swept.
            let ours = file.metadata().map_err(at)?;
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Claim::Ours(Partial { file, path }));
            }
        }
    }

    /// Makes what was brought the blob.
    pub(super) fn keep(&self, partial: &Partial, digest: Digest) -> Result<(), Refused> {
        let blob = self.blob(digest);
        let kept = partial
            .file
            .sync_all()
            .and_then(|()| fs::rename(&partial.path, &blob))
            .and_then(|()| sync_directory(&self.blobs()));
        kept.map_err(|source| (blob, source))
    }

    /// Takes blobs away that are none of `used`. Gives back their bytes.
    pub(super) fn collect(&self, used: &BTreeSet<Digest>, _lock: &Lock) -> Result<u64, Refused> {
        let path = self.partials();
        let directory = File::open(&path).map_err(|source| (path.clone(), source))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(0),
            locked => locked.map_err(|error| (path, error.into()))?,
        }
        let blobs = self.blobs();
        let at = |source| (blobs.clone(), source);
        let mut freed = 0;
        for entry in fs::read_dir(&blobs).map_err(at)? {
            let entry = entry.map_err(at)?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::from_hex(name).ok());
            if digest.is_some_and(|digest| !used.contains(&digest)) {
                freed += entry.metadata().map_err(at)?.blocks() * 512;
                remove(&entry.path())?;
            }
        }
        Ok(freed)
    }

    /// Takes beginnings away that nobody is at: old ones, or all of them. Gives back their bytes.
    pub(super) fn sweep_partials(&self, all: bool) -> Result<u64, Refused> {
        let partials = self.partials();
        let at = |source| (partials.clone(), source);
        let mut freed = 0;
        for entry in fs::read_dir(&partials).map_err(at)? {
            let path = entry.map_err(at)?.path();
            // It may become a blob while we look at it.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let age = metadata
                .modified()
                .ok()
                .and_then(|then| SystemTime::now().duration_since(then).ok());
            if !all && age.is_none_or(|age| age < PARTIAL_AGE) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                freed += metadata.blocks() * 512;
                remove(&path)?;
            }
        }
        Ok(freed)
    }
}

fn remove(path: &Path) -> Result<(), Refused> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        _ => Ok(()),
    }
}

/// The lock, however many signals come meanwhile.
fn flock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            locked => return locked,
        }
    }
}
