//! What is on disk about containers: one directory each, under one root.
//!
//! ```text
//! <root>/.lock              held while a directory is made or removed
//! <root>/.new, .gone        what is being made or removed: a directory has its name whole or not at all
//! <root>/<name>/lock        held by the supervisor as long as it lives: this is "running"; who waits
//!                           for the lock finds the exit code in the file, even of a removed container
//! <root>/<name>/supervisor  held the same way, so that the kernel says which process that is
//! <root>/<name>/cgroup      its cgroup, if it has one, even when the record does not say
//! <root>/<name>/state.json  the record
//! <root>/<name>/vsock.sock  the VM's socket, while there is a VM
//! <root>/<name>/orders.sock where a bundle's supervisor takes orders, as long as it lives
//! <root>/<name>/log         a detached container's output
//! <root>/<name>/new         the locks of one that starts again, for a moment
//! ```
//!
//! Whoever can write here could also be us; a record is still checked before it is believed.

mod dir;
mod lock;
pub(crate) mod record;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use self::lock::Held;
use self::record::{BadRecord, Name, Record};

/// The longest record worth reading: a frame's worth of process, and room.
const MAX_RECORD_BYTES: u64 = 2 << 20;

/// A container's directory until it is whole, and once it is to go. Neither is a container's name.
const NEW: &str = ".new";
const GONE: &str = ".gone";

/// The directory all containers' directories are in.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

/// One container's directory.
#[derive(Debug)]
pub(crate) struct Dir {
    name: Name,
    path: PathBuf,
    fd: OwnedFd,
}

/// A directory that is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The directory.
    pub(crate) dir: Dir,
    held: Held,
}

/// A container as it was found.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its directory.
    pub(crate) dir: Dir,
    /// What is written about it, or why that is not believed.
    pub(crate) record: Result<Record, StateError>,
    /// Its supervisor is alive.
    pub(crate) alive: bool,
}

/// Why a container's state could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file system refused.
    #[error("state {}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record is not believed.
    #[error("state {}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BadRecord,
    },
    /// There is such a container already.
    #[error("a container named {name} exists already{}", if *alive { "" } else { " (it has ended; microvm rm removes it)" })]
    NameTaken {
        /// Its name.
        name: Name,
        /// It is running.
        alive: bool,
    },
    /// There is no such container. Engines and tests know it by runc's words.
    #[error("container {word:?} does not exist")]
    NotFound {
        /// What was asked for.
        word: String,
    },
    /// The beginning of an id is the beginning of several.
    #[error("{word:?} begins the id of more than one container")]
    Ambiguous {
        /// What was asked for.
        word: String,
    },
    /// The container is still running.
    #[error("container {name} is running")]
    Running {
        /// Its name.
        name: Name,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

impl Root {
    /// The root at `path`, made if it is not there, for nobody but us.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The root's own directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory of a new container, with its record, and holds it.
    ///
    /// What dead supervisors left of containers that nobody wanted to keep is removed on the way.
    pub(crate) fn claim(&self, record: &Record) -> Result<Claim, StateError> {
        let _turn = self.turn()?;
        self.sweep()?;
        let (new, path) = (self.path.join(NEW), self.path.join(record.name.as_ref()));
        if path.symlink_metadata().is_ok() {
            let alive = lock::is_held(&path);
            return Err(StateError::NameTaken { name: record.name.clone(), alive });
        }
        let make = || {
            DirBuilder::new().mode(0o700).create(&new).map_err(at(&new))?;
            let held = Held::take(&new).map_err(at(&new))?;
            let dir = Dir::open(&self.path, record.name.clone(), NEW)?;
            if let Some(cgroup) = record.oci.as_ref().and_then(|oci| oci.cgroup.as_ref()) {
                let json = serde_json::to_vec(cgroup).map_err(io::Error::from);
                json.and_then(|json| fs::write(dir.cgroup_path(), json)).map_err(at(&new))?;
            }
            dir.write(record)?;
            fs::rename(&new, &path).map_err(at(&path))?;
            Ok(Claim { dir: Dir { path, ..dir }, held })
        };
        make().inspect_err(|_| {
            let _ = self.remove_halves();
        })
    }

    /// Takes the directory of a container that has ended, for the same one to start again with this record.
    pub(crate) fn reclaim(&self, record: &Record) -> Result<Claim, StateError> {
        let _turn = self.turn()?;
        let Entry { dir, record: before, alive } = self.entry(record.name.clone())?;
        if alive {
            return Err(StateError::Running { name: dir.name });
        }
        // Another one of its name by now?
        if before?.id != record.id {
            return Err(StateError::NotFound { word: record.name.to_string() });
        }
        let held = Held::take_again(&dir.here()).map_err(at(&dir.path))?;
        dir.remove_sockets()?;
        dir.write(record)?;
        Ok(Claim { dir, held })
    }

    /// The container called `word`, or whose id begins with it.
    pub(crate) fn find(&self, word: &str) -> Result<Entry, StateError> {
        let not_found = || StateError::NotFound { word: word.to_owned() };
        let name: Name = word.parse().map_err(|_| not_found())?;
        if self.path.join(name.as_ref()).is_dir() {
            return self.entry(name);
        }
        let mut found = self.entries()?.into_iter().filter(|entry| {
            entry.record.as_ref().is_ok_and(|record| record.id.as_ref().starts_with(word))
        });
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(_), Some(_)) => Err(StateError::Ambiguous { word: word.to_owned() }),
            (None, _) => Err(not_found()),
        }
    }

    /// Every container, by name.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, StateError> {
        let mut names = Vec::new();
        for item in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let item = item.map_err(at(&self.path))?;
            let name = item.file_name();
            let Some(Ok(name)) = name.to_str().map(str::parse::<Name>) else { continue };
            if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.push(name);
            }
        }
        names.sort();
        let mut entries = Vec::new();
        for name in names {
            match self.entry(name) {
                Ok(entry) => entries.push(entry),
                // Removed since the directory was read.
                Err(StateError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Removes what an ended container left, after `first` has removed what must go before its name can
    /// be used again. Of several who remove it one does; it is for them to hear who did not.
    pub(crate) fn remove<E: From<StateError>>(
        &self,
        dir: &Dir,
        first: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let _turn = self.turn()?;
        if !dir.is_in_place() {
            return Ok(false);
        }
        if lock::is_held(&dir.path) {
            return Err(StateError::Running { name: dir.name.clone() }.into());
        }
        first()?;
        self.clear(&dir.path)?;
        Ok(true)
    }

    /// Removes the directory of a container that never came to be: its supervisor does.
    pub(crate) fn withdraw(&self, name: &Name) -> Result<(), StateError> {
        let _turn = self.turn()?;
        self.clear(&self.path.join(name.as_ref()))
    }

    /// Removes what was left by those who were killed while they made or removed a directory.
    pub(crate) fn clear_halves(&self) -> Result<(), StateError> {
        let _turn = self.turn()?;
        self.remove_halves()
    }

    fn entry(&self, name: Name) -> Result<Entry, StateError> {
        let dir = Dir::open(&self.path, name.clone(), name.as_ref())?;
        // Asked in this order, a container that ends meanwhile has its outcome in the record.
        let alive = lock::is_held(&dir.here());
        let record = dir.read();
        // Removed while we looked.
        if !dir.is_in_place() {
            return Err(StateError::NotFound { word: name.to_string() });
        }
        Ok(Entry { dir, record, alive })
    }

    /// Takes a directory's name from it and then all that is in it. Needs the turn.
    fn clear(&self, path: &Path) -> Result<(), StateError> {
        self.remove_halves()?;
        match fs::rename(path, self.path.join(GONE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
            _ => self.remove_halves(),
        }
    }

    /// Needs the turn: nobody else is making or removing anything then.
    fn remove_halves(&self) -> Result<(), StateError> {
        for half in [NEW, GONE] {
            let path = self.path.join(half);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for our turn to make or remove directories; it is over when the file is dropped.
    fn turn(&self) -> Result<File, StateError> {
        let path = self.path.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(at(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
        Ok(lock)
    }

    /// Removes what nobody wants and nobody holds. Needs the turn.
    fn sweep(&self) -> Result<(), StateError> {
        self.remove_halves()?;
        for Entry { dir, record, alive } in self.entries()? {
            if !alive && record.is_ok_and(|record| record.remove) {
                self.clear(&dir.path)?;
            }
        }
        Ok(())
    }
}

impl Claim {
    /// Leaves the exit code for those who wait for the lock.
    pub(crate) fn leave(&self, exit_code: u8) {
        self.held.leave(exit_code);
    }

    /// What makes the container again what it was when `before` was written about it. It is ours until that is
    /// done or dropped.
    pub(crate) fn give_back(
        &self,
        before: Record,
    ) -> Result<impl FnOnce() + Send + use<>, StateError> {
        let dir = self.dir.another().map_err(at(&self.dir.path))?;
        let held = self.held.lock().map_err(at(&self.dir.path))?;
        Ok(move || {
            // As good as it can be: nobody is left who could be told.
            let _ = dir.write(&before);
            if let Some(outcome) = &before.outcome {
                lock::leave(&held, outcome.exit_code);
            }
            let _ = dir.remove_sockets();
        })
    }
}

#[cfg(test)]
mod tests;
