//! Disks that containers write to.
//!
//! ```text
//! <store>/storage/<root of all state, escaped>/<container's id>.ext4
//! ```
//!
//! Not in a container's state directory: that is in memory on most machines and gone after a reboot. A disk is
//! a sparse file, empty at first ([`ext4`]). It goes when its container is removed; one whose container
//! vanished without that, with the state of all others at a reboot, goes with `microvm prune`. The disk of a
//! container that is to leave nothing has no name from the start.
//!
//! What stands on a disk is the guest's word: nothing of the host ever mounts or reads it.

pub(crate) mod ext4;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use crate::host;
use crate::state::record::Id;

/// The directory in the store.
const SHELF: &str = "storage";

/// How a disk's name ends.
const ENDING: &str = ".ext4";

/// Why a container has no disk to write to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The file system refused.
    #[error("storage {}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There are no random bytes to name its file system with.
    #[error(transparent)]
    Host(#[from] host::HostError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { path, source }
}

/// Where the disk of container `id` is, whose state is below `root`.
pub(crate) fn path(store: &Path, root: &Path, id: &impl fmt::Display) -> PathBuf {
    shelf(store, root).join(format!("{id}{ENDING}"))
}

/// Whether `path` can be the disk of container `id`.
pub(crate) fn can_be_of(path: &Path, id: &Id) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    path.is_absolute() && name.and_then(|name| name.strip_suffix(ENDING)) == Some(id.as_ref())
}

/// Makes a disk of `bytes` at `path`, held as [`open`] holds it.
pub(crate) fn create(path: &Path, bytes: u64) -> Result<File, StorageError> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    }
    let random = host::random()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let birth = ext4::Birth { random, seconds: u32::try_from(now.as_secs()).unwrap_or(u32::MAX) };
    let options = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = options.map_err(at(path))?;
    let made = hold(&file).and_then(|()| ext4::write(&file, bytes, &birth));
    if let Err(source) = made {
        let _ = fs::remove_file(path);
        return Err(at(path)(source));
    }
    Ok(file)
}

/// Opens the disk at `path`. It is held by whoever has this descriptor or one that was inherited from it: a VM
/// that has lost its owner and is about to end is waited for, so that no two ever write to it.
pub(crate) fn open(path: &Path) -> Result<File, StorageError> {
    let file = File::options().read(true).write(true).open(path).map_err(at(path))?;
    hold(&file).map_err(at(path))?;
    Ok(file)
}

fn hold(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::LockExclusive)?)
}

/// Takes a disk away. Who has it open keeps it.
pub(crate) fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Every disk of a container below `root`, by the container's id.
pub(crate) fn list(store: &Path, root: &Path) -> Result<BTreeSet<String>, StorageError> {
    let shelf = shelf(store, root);
    let items = match fs::read_dir(&shelf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        items => items.map_err(at(&shelf))?,
    };
    let id = |name: &str| name.strip_suffix(ENDING).map(str::to_owned);
    let names = items.map(|item| Ok(item?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = names.map_err(at(&shelf))?;
    Ok(names.iter().filter_map(|name| name.to_str().and_then(id)).collect())
}

/// Takes away what is left of containers that are not there any more: `before`, as [`list`] gave it before
/// the containers below `root` were looked at, without those that are `alive`. Gives the ids, and the bytes
/// that are free again.
pub(crate) fn sweep(
    store: &Path,
    root: &Path,
    before: &BTreeSet<String>,
    alive: &BTreeSet<String>,
) -> Result<(Vec<String>, u64), StorageError> {
    let (mut removed, mut freed) = (Vec::new(), 0);
    for id in before.difference(alive) {
        let path = path(store, root, id);
        freed += fs::metadata(&path).map_or(0, |about| about.blocks() * 512);
        remove(&path)?;
        removed.push(id.clone());
    }
    Ok((removed, freed))
}

/// The directory of disks of containers below `root`: no other root's has the same name.
fn shelf(store: &Path, root: &Path) -> PathBuf {
    let mut name = String::new();
    for &byte in root.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    store.join(SHELF).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_two_roots_or_containers_are_never_in_one_place() {
        let (one, other) = (Id::from_bits([1; 32]), Id::from_bits([2; 32]));
        let roots = ["/run/microvm", "/run-microvm", "/run%2fmicrovm", "/run", "/"];
        let store = Path::new("/store");
        let paths: BTreeSet<_> = (roots.iter())
            .flat_map(|root| [&one, &other].map(|id| path(store, Path::new(root), id)))
            .collect();
        assert_eq!(paths.len(), 2 * roots.len());
        for path in &paths {
            assert_eq!(path.components().count(), 5, "{}", path.display());
            assert!(can_be_of(path, &one) != can_be_of(path, &other));
        }
        assert!(!can_be_of(Path::new("/etc/passwd"), &one));
    }

    #[test]
    fn what_no_container_has_is_swept_and_the_rest_stays() {
        let store = tempfile::tempdir().unwrap();
        let (root, ids) = (Path::new("/run/x"), [1, 2].map(|bits| Id::from_bits([bits; 32])));
        for id in &ids {
            create(&path(store.path(), root, id), ext4::MIN_BYTES).unwrap();
        }
        let before = list(store.path(), root).unwrap();
        assert_eq!(before.len(), 2);
        let alive = BTreeSet::from([ids[0].to_string()]);
        let (removed, freed) = sweep(store.path(), root, &before, &alive).unwrap();
        assert_eq!((removed, freed > 0), (vec![ids[1].to_string()], true));
        assert_eq!(list(store.path(), root).unwrap(), alive);
        assert!(list(store.path(), Path::new("/run/y")).unwrap().is_empty());
    }

    #[test]
    fn a_disk_has_one_holder_and_one_maker() {
        let store = tempfile::tempdir().unwrap();
        let path = path(store.path(), Path::new("/r"), &Id::from_bits([1; 32]));
        let held = create(&path, ext4::MIN_BYTES).unwrap();
        assert!(create(&path, ext4::MIN_BYTES).is_err(), "it would be emptied");
        let second = File::open(&path).unwrap();
        assert!(flock(&second, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(held);
        open(&path).unwrap();
    }
}
