//! Volumes: directories that containers keep data in, and that outlive them.
//!
//! ```text
//! <store>/volumes/.lock               held while a volume is made, given to a container or removed
//! <store>/volumes/.new, .gone         what is being made or removed
//! <store>/volumes/<name>/volume.json  what is known of it
//! <store>/volumes/<name>/data/        what containers see
//! ```
//!
//! Who uses a volume is written in the containers' records, and so it is known only of containers under the
//! same state directory. The directory around a volume is nobody's but ours: what a container has left in
//! it may be a program that becomes its owner.

mod guard;
mod name;
mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::state::record::now;
use crate::state::{Root, StateError};

pub(crate) use self::guard::Anonymous;
pub(crate) use self::name::Name;

/// Version of [`Volume`]'s shape on disk.
const VERSION: u32 = 1;

/// The longest description of a volume worth reading.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;

const NEW: &str = ".new";
const GONE: &str = ".gone";

/// All volumes of a store.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    path: PathBuf,
}

/// The right to make, give out and remove volumes, until dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    version: u32,
    pub(crate) name: Name,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// Nobody named it: it was made for one container.
    #[serde(default)]
    pub(crate) anonymous: bool,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// Why a volume cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The file system refused.
    #[error("volume {}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is written about one is not believed.
    #[error("volume {}: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is one already.
    #[error("a volume named {name} exists already")]
    NameTaken {
        /// Its name.
        name: Name,
    },
    /// There is none.
    #[error("volume {word:?} does not exist")]
    NotFound {
        /// What was asked for.
        word: String,
    },
    /// A container has it.
    #[error("volume {name} is used by container {container}")]
    InUse {
        /// Its name.
        name: Name,
        /// One of the containers, perhaps an ended one.
        container: String,
    },
    /// There is no store to keep it in.
    #[error(transparent)]
    Store(#[from] image::OpenStoreError),
    /// Which containers have it is not known.
    #[error(transparent)]
    State(#[from] StateError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { path, source }
}

/// The containers that have volumes, ended ones too: name of a volume → name of one of them.
pub(crate) fn in_use(root: &Root) -> Result<BTreeMap<Name, String>, StateError> {
    let mut used = BTreeMap::new();
    for entry in root.entries()? {
        // One that cannot be read may have any.
        let record = entry.record?;
        for name in record.volumes {
            used.insert(name, record.name.to_string());
        }
    }
    Ok(used)
}

impl Volumes {
    /// The volumes of the store at `store`, which is made if it is not there.
    pub(crate) fn open(store: &Path) -> Result<Self, VolumeError> {
        // It judges the directory.
        image::Store::open(store)?;
        let path = store.join("volumes");
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(at(&path))?;
        Ok(Self { path })
    }

    /// Waits until nobody else makes, gives out or removes volumes.
    pub(crate) fn turn(&self) -> Result<Turn, VolumeError> {
        let path = self.path.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(at(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
        for half in [NEW, GONE] {
            remove(&self.path.join(half))?;
        }
        Ok(Turn { _lock: lock })
    }

    /// Makes a volume.
    pub(crate) fn create(
        &self,
        name: Name,
        labels: BTreeMap<String, String>,
        anonymous: bool,
        _turn: &Turn,
    ) -> Result<Volume, VolumeError> {
        let (new, path) = (self.path.join(NEW), self.path.join(name.as_ref()));
        if path.symlink_metadata().is_ok() {
            return Err(VolumeError::NameTaken { name });
        }
        let volume = Volume { version: VERSION, name, created: now(), anonymous, labels };
        let make = || {
            let json = serde_json::to_vec(&volume)?;
            DirBuilder::new().mode(0o700).create(&new)?;
            fs::write(new.join("volume.json"), json)?;
            DirBuilder::new().create(new.join("data"))?;
            // Whatever the caller's umask is.
            fs::set_permissions(
                new.join("data"),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?;
            fs::rename(&new, &path)
        };
        make().map_err(at(&path))?;
        Ok(volume)
    }

    /// The volume of this name, made if it is not there.
    pub(crate) fn provide(
        &self,
        name: &Name,
        labels: &BTreeMap<String, String>,
        anonymous: bool,
        turn: &Turn,
    ) -> Result<Volume, VolumeError> {
        match self.find(name) {
            Err(VolumeError::NotFound { .. }) => {
                self.create(name.clone(), labels.clone(), anonymous, turn)
            }
            found => found,
        }
    }

    /// The volume of this name.
    pub(crate) fn find(&self, name: &Name) -> Result<Volume, VolumeError> {
        let path = self.path.join(name.as_ref()).join("volume.json");
        let mut json = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(MAX_DESCRIPTION_BYTES).read_to_end(&mut json).map_err(at(&path))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VolumeError::NotFound { word: name.to_string() });
            }
            Err(error) => return Err(at(&path)(error)),
        };
        let corrupt = |why: String| VolumeError::Corrupt { path: path.clone(), why };
        let volume: Volume =
            serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
        if volume.version != VERSION {
            return Err(corrupt(format!("version {}, not {VERSION}", volume.version)));
        }
        if volume.name != *name {
            return Err(corrupt(format!("name {} is not its directory's", volume.name)));
        }
        Ok(volume)
    }

    /// Every volume, by name.
    pub(crate) fn all(&self) -> Result<Vec<Volume>, VolumeError> {
        let mut names = BTreeSet::new();
        for item in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let name = item.map_err(at(&self.path))?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<Name>().ok()));
        }
        let mut volumes = Vec::new();
        for name in names {
            match self.find(&name) {
                // Removed since the directory was read.
                Err(VolumeError::NotFound { .. }) => {}
                volume => volumes.push(volume?),
            }
        }
        Ok(volumes)
    }

    /// What containers see of a volume.
    pub(crate) fn data(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_ref()).join("data")
    }

    /// Removes a volume that no container under `root` has.
    pub(crate) fn remove(&self, name: &Name, root: &Root, turn: &Turn) -> Result<(), VolumeError> {
        if let Some(container) = in_use(root)?.remove(name) {
            return Err(VolumeError::InUse { name: name.clone(), container });
        }
        self.clear(name, turn)
    }

    /// Removes all volumes that no container under `root` has, or those of them that nobody named. Gives
    /// back what was removed, and the bytes that are free again.
    pub(crate) fn prune(
        &self,
        named_too: bool,
        root: &Root,
        turn: &Turn,
    ) -> Result<(Vec<Name>, u64), VolumeError> {
        let used = in_use(root)?;
        let (mut removed, mut freed_bytes) = (Vec::new(), 0);
        for volume in self.all()? {
            if !used.contains_key(&volume.name) && (named_too || volume.anonymous) {
                let bytes = bytes_below(&self.data(&volume.name));
                self.clear(&volume.name, turn)?;
                freed_bytes += bytes;
                removed.push(volume.name);
            }
        }
        Ok((removed, freed_bytes))
    }

    fn clear(&self, name: &Name, _turn: &Turn) -> Result<(), VolumeError> {
        let (path, gone) = (self.path.join(name.as_ref()), self.path.join(GONE));
        match fs::rename(&path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(VolumeError::NotFound { word: name.to_string() })
            }
            Err(error) => Err(at(&path)(error)),
            Ok(()) => remove(&gone),
        }
    }
}

fn remove(path: &Path) -> Result<(), VolumeError> {
    removal::remove(path).map_err(at(path))
}

/// What a directory and all in it take of the disk; what cannot be read takes nothing. Containers decide
/// how deep it is, so nothing here recurses.
fn bytes_below(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
