//! Where images are kept.
//!
//! ```text
//!   version                            "1": the layout of everything else
//!   lock                               held by whoever changes something
//!   names.json                         canonical reference → image id
//!   images/sha256/<id>/config.json     the image's configuration, whose digest is the id
//!   images/sha256/<id>/disk.erofs      its layers, merged
//!   images/sha256/<id>/manifest.json   the digests of its layers
//!   blobs/sha256/<digest>              a layer as it came
//!   partial/<digest>                   the beginning of one, for a pull to go on with
//!   tmp/                               what is being made
//!   storage/, volumes/                 not ours: whoever runs containers keeps there what they write
//! ```
//!
//! Whatever is outside `tmp` and `partial` is whole: it is made there, synced, and renamed into its place. So who
//! only reads needs no lock, and a process that is killed leaves nothing but files in `tmp`, which the
//! next to open the store sweeps if it gets the lock. Changes wait for one another.

mod blobs;
mod commit;
mod error;
mod kept;
mod load;
mod make;
mod names;
mod prune;
mod pull;
mod save;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::config::{Description, MAX_JSON_BYTES};
use crate::{Config, Digest, Limits, Past, Platform, Reference};
pub use commit::{CommitError, Step};
pub use error::{FindError, LoadError, OpenStoreError, RemoveError};
pub use kept::Layer;
use names::Names;
pub use prune::{Pruned, Unneeded};
pub use save::{ArchiveKind, SaveError};

const VERSION: &str = "1";

/// The fewest digits that stand for a whole id.
const MIN_PREFIX: usize = 4;

/// A directory of images. Any number of processes may have it open.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
}

/// One image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its names, as people write them (`demo:latest`); empty if newer images took them.
    pub names: Vec<String>,
    /// The digest of its configuration, which is what docker calls the image's id.
    pub id: Digest,
    /// The read-only EROFS disk, a whole number of 4096-byte blocks. It is gone for good once it was
    /// removed from the store, so open it once; a descriptor stays good.
    pub disk: PathBuf,
    /// The disk's length.
    pub disk_bytes: u64,
    /// When it was built, in the words (RFC 3339) of its configuration.
    pub created: Option<String>,
    /// The digests of what its layers unpack to, lowest first.
    pub diff_ids: Vec<Digest>,
    /// How it was made, oldest step first.
    pub history: Vec<Past>,
    /// What it runs on.
    pub platform: Platform,
    /// How it wants to be run.
    pub config: Config,
}

/// What [`Store::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone.
    pub names: Vec<String>,
    /// The image, if its last name is gone and it went with it.
    pub image: Option<Digest>,
}

/// The right to change the store, until dropped.
#[derive(Debug)]
struct Lock {
    _file: File,
}

impl Store {
    /// Opens the store at `path`, made first if there is none, and sweeps what a killed process left
    /// in it.
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        let io = |path: &Path, source| OpenStoreError::Io { path: path.to_owned(), source };
        let store = Self { root: path.to_owned(), limits: Limits::default() };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| io(path, source))?;
        if store.version()?.is_none() {
            let _lock = store.lock().map_err(|(path, source)| io(&path, source))?;
            // Someone else may have made it while we waited.
            if store.version()?.is_none() {
                store.make()?;
            }
        }
        let directories = [store.tmp(), store.images_directory(), store.blobs(), store.partials()];
        for directory in directories {
            fs::create_dir_all(&directory).map_err(|source| io(&directory, source))?;
        }
        store.sweep().map_err(|(path, source)| io(&path, source))?;
        store.sweep_partials(false).map_err(|(path, source)| io(&path, source))?;
        Ok(store)
    }

    /// The same store, with these bounds on what it takes in.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Every image, in the order of their ids.
    pub fn images(&self) -> Result<Vec<Image>, FindError> {
        let names = Names::read(&self.names_file())?;
        let mut images = Vec::new();
        for id in self.ids()? {
            match self.image(id, &names) {
                // Someone removed it just now.
                Err(FindError::Unknown { .. }) => {}
                image => images.push(image?),
            }
        }
        Ok(images)
    }

    /// The image that `reference` names: a name (`demo`, `demo:latest`, `localhost:5000/demo:1`), or
    /// an id or at least four digits of its beginning, with or without `sha256:`. Where both fit, the
    /// name counts.
    pub fn find(&self, reference: &str) -> Result<Image, FindError> {
        let names = Names::read(&self.names_file())?;
        let (id, _) = self.resolve(reference, &names)?;
        self.image(id, &names)
    }

    /// Takes a name away, and the image with its last name; an id takes all names and the image. Who
    /// has the disk open keeps it.
    pub fn remove(&self, reference: &str) -> Result<Removed, RemoveError> {
        let io = |(path, source)| RemoveError::Io { path, source };
        let lock = self.lock().map_err(io)?;
        let mut names = Names::read(&self.names_file()).map_err(RemoveError::Find)?;
        let (id, name) = self.resolve(reference, &names).map_err(RemoveError::Find)?;
        let removed = match &name {
            Some(name) => Vec::from([name.clone()]),
            None => names.of(id).cloned().collect(),
        };
        for name in &removed {
            names.take(name);
        }
        // Names first: an image without one can be removed again, a name without an image cannot be.
        names.write(&self.names_file(), &self.tmp()).map_err(io)?;
        let last = names.of(id).next().is_none();
        if last {
            self.discard(&self.image_directory(id)).map_err(io)?;
            self.collect(&self.used_blobs()?, &lock).map_err(io)?;
        }
        let names = removed.iter().map(Reference::to_string).collect();
        Ok(Removed { names, image: last.then_some(id) })
    }

    fn resolve(
        &self,
        reference: &str,
        names: &Names,
    ) -> Result<(Digest, Option<Reference>), FindError> {
        let parsed: Result<Reference, _> = reference.parse();
        if let Ok(name) = &parsed
            && let Some(id) = names.get(name)
        {
            return Ok((id, Some(name.clone())));
        }
        let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if prefix.len() < MIN_PREFIX || !prefix.bytes().all(hex) {
            let parsed = parsed?;
            return Err(FindError::Unknown { reference: parsed.to_string() });
        }
        let mut fitting = self.ids()?.into_iter().filter(|id| id.hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok((id, None)),
            (None, _) => Err(FindError::Unknown { reference: reference.to_owned() }),
            (Some(_), Some(_)) => Err(FindError::Ambiguous { prefix: reference.to_owned() }),
        }
    }

    fn ids(&self) -> Result<Vec<Digest>, FindError> {
        let path = self.images_directory();
        let io = |source| FindError::Io { path: path.clone(), source };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&path).map_err(io)? {
            // What has another name was not put there by us.
            if let Some(name) = entry.map_err(io)?.file_name().to_str()
                && let Ok(id) = Digest::from_hex(name)
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Whether the image is there with all that is kept of it.
    fn has(&self, id: Digest, names: &Names) -> bool {
        let whole = |&(digest, bytes): &(Digest, u64)| {
            fs::symlink_metadata(self.blob(digest)).is_ok_and(|blob| blob.len() == bytes)
        };
        let kept = || self.kept(id).ok().flatten();
        self.image(id, names).is_ok() && kept().is_some_and(|kept| kept.layers.iter().all(whole))
    }

    /// The image with this id, its files judged as someone may have edited them.
    fn image(&self, id: Digest, names: &Names) -> Result<Image, FindError> {
        let directory = self.image_directory(id);
        let (path, disk) = (directory.join("config.json"), directory.join("disk.erofs"));
        let json = match read_bounded(&path) {
            Ok(Some(json)) if Digest::of(&json) == id => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => {
                return Err(FindError::Unknown { reference: id.to_string() });
            }
            Err(source) => return Err(FindError::Io { path, source }),
            Ok(_) => {
                return Err(FindError::Damaged { path, why: "its digest is not the image's id" });
            }
        };
        let damaged =
            |_| FindError::Damaged { path: path.clone(), why: "it is no image configuration" };
        let description = Description::parse(&json).map_err(&damaged)?;
        let diff_ids = description.diff_ids.iter().filter_map(|word| word.parse().ok()).collect();
        let metadata = match fs::symlink_metadata(&disk) {
            Ok(metadata) => metadata,
            Err(source) => return Err(FindError::Io { path: disk, source }),
        };
        if !metadata.is_file() || metadata.len() == 0 || metadata.len() % 4096 != 0 {
            return Err(FindError::Damaged { path: disk, why: "it is no file of whole blocks" });
        }
        Ok(Image {
            names: names.of(id).map(Reference::to_string).collect(),
            id,
            disk,
            disk_bytes: metadata.len(),
            created: description.created,
            diff_ids,
            history: description.history,
            platform: description.platform,
            config: description.config,
        })
    }

    /// What the `version` file says, judged; `None` without one.
    fn version(&self) -> Result<Option<()>, OpenStoreError> {
        let path = self.root.join("version");
        match read_bounded(&path) {
            Ok(Some(version)) if version.trim_ascii() == VERSION.as_bytes() => Ok(Some(())),
            Ok(version) => {
                let start = version.unwrap_or_default();
                let version = String::from_utf8_lossy(&start[..start.len().min(32)]).into_owned();
                Err(OpenStoreError::Version { path: self.root.clone(), version })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenStoreError::Io { path, source }),
        }
    }

    /// Makes an empty directory a store. Anything else is someone's, and not to be written into.
    fn make(&self) -> Result<(), OpenStoreError> {
        let io = |path: &Path, source| OpenStoreError::Io { path: path.to_owned(), source };
        let entries = fs::read_dir(&self.root).map_err(|source| io(&self.root, source))?;
        for entry in entries {
            let name = entry.map_err(|source| io(&self.root, source))?.file_name();
            // `tmp` is made before the version is written in it.
            if name != "lock" && name != "tmp" {
                return Err(OpenStoreError::NotEmpty { path: self.root.clone() });
            }
        }
        let tmp = self.tmp();
        fs::create_dir_all(&tmp).map_err(|source| io(&tmp, source))?;
        let path = self.root.join("version");
        replace(&path, format!("{VERSION}\n").as_bytes(), &tmp).map_err(|source| io(&path, source))
    }

    fn lock(&self) -> Result<Lock, (PathBuf, io::Error)> {
        let file = self.lock_file()?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err((self.root.join("lock"), error.into())),
            }
        }
    }

    fn lock_file(&self) -> Result<File, (PathBuf, io::Error)> {
        let path = self.root.join("lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        opened.map_err(|source| (path, source))
    }

    /// Removes everything in `tmp`, unless someone who holds the lock is at work there.
    fn sweep(&self) -> Result<(), (PathBuf, io::Error)> {
        let tmp = self.tmp();
        let at_tmp = |source| (tmp.clone(), source);
        let mut left = fs::read_dir(&tmp).map_err(at_tmp)?.peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        let file = self.lock_file()?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        for entry in left {
            let path = entry.map_err(at_tmp)?.path();
            let removed = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the directory of an image out of sight at once, then away. The lock must be held.
    fn discard(&self, directory: &Path) -> Result<(), (PathBuf, io::Error)> {
        let at = |source| (directory.to_owned(), source);
        let grave = tempfile::TempDir::new_in(self.tmp()).map_err(at)?;
        fs::rename(directory, grave.path().join("image")).map_err(at)?;
        grave.close().map_err(at)
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn names_file(&self) -> PathBuf {
        self.root.join("names.json")
    }

    fn images_directory(&self) -> PathBuf {
        self.root.join("images/sha256")
    }

    fn image_directory(&self, id: Digest) -> PathBuf {
        self.images_directory().join(id.hex())
    }
}

/// The whole file, `None` if it is longer than any of ours.
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    io::Read::read_to_end(&mut io::Read::take(file, MAX_JSON_BYTES + 1), &mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_JSON_BYTES).then_some(bytes))
}

/// Puts `bytes` in the place of the file `path`, all of them or none.
fn replace(path: &Path, bytes: &[u8], tmp: &Path) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(tmp)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(path.parent().unwrap_or(path))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
