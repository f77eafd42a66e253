//! What is on disk about containers: one directory each, under one root.
//!
//! ```text
//! <root>/.lock              held while a directory is made or removed
//! <root>/<name>/lock        held by the supervisor as long as it lives: this is "running"; who waits
//!                           for the lock finds the exit code in the file, even of a removed container
//! <root>/<name>/state.json  the record
//! <root>/<name>/vsock.sock  the VM's socket, while there is a VM
//! <root>/<name>/orders.sock where a bundle's supervisor takes orders, as long as it lives
//! <root>/<name>/log         a detached container's output
//! ```
//!
//! The lock tells the truth whatever happens: the kernel lets go of it when the supervisor dies. It
//! is an open-file-description lock, because that kind can be asked about without being taken.
//! Whoever can write here could also be us; a record is still checked before it is believed.

pub(crate) mod record;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, PidfdFlags};

use self::record::{BadRecord, Name, Record};

/// The longest record worth reading: a frame's worth of process, and room.
const MAX_RECORD_BYTES: u64 = 2 << 20;

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
    lock: File,
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
    /// There is no such container.
    #[error("no container {word:?}")]
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
        let path = self.path.join(record.name.as_ref());
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let alive = is_held(&path.join("lock"));
                return Err(StateError::NameTaken { name: record.name.clone(), alive });
            }
            Err(error) => return Err(at(&path)(error)),
        }
        let fill = || {
            let lock = hold(&path.join("lock"))?;
            let dir = Dir::open(&self.path, record.name.clone())?;
            dir.write(record)?;
            Ok(Claim { dir, lock })
        };
        fill().inspect_err(|_| {
            let _ = fs::remove_dir_all(&path);
        })
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

    /// Removes what an ended container left.
    pub(crate) fn remove(&self, name: &Name) -> Result<(), StateError> {
        let _turn = self.turn()?;
        let path = self.path.join(name.as_ref());
        if is_held(&path.join("lock")) {
            return Err(StateError::Running { name: name.clone() });
        }
        remove_dir(&path)
    }

    fn entry(&self, name: Name) -> Result<Entry, StateError> {
        let dir = Dir::open(&self.path, name)?;
        // Asked in this order, a container that ends meanwhile has its outcome in the record.
        let alive = is_held(&dir.path.join("lock"));
        let record = dir.read();
        Ok(Entry { dir, record, alive })
    }

    /// Waits for our turn to make or remove directories; it is over when the file is dropped.
    fn turn(&self) -> Result<File, StateError> {
        let path = self.path.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(at(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
        Ok(lock)
    }

    /// Removes what nobody wants and nobody holds. Needs the turn: a directory that is just being
    /// made is not held yet.
    fn sweep(&self) -> Result<(), StateError> {
        for entry in self.entries()? {
            let unwanted = match &entry.record {
                Ok(record) => record.remove,
                Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    entry.dir.was_begun()
                }
                Err(_) => false,
            };
            if unwanted && !entry.alive {
                remove_dir(&entry.dir.path)?;
            }
        }
        Ok(())
    }
}

impl Claim {
    /// Leaves the exit code for those who wait for the lock.
    pub(crate) fn leave(&self, exit_code: u8) {
        // Who waits and finds nothing says so.
        let _ = (&self.lock).write_all(exit_code.to_string().as_bytes());
    }
}

impl Dir {
    fn open(root: &Path, name: Name) -> Result<Self, StateError> {
        let path = root.join(name.as_ref());
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { name, path, fd }),
            Err(rustix::io::Errno::NOENT) => Err(StateError::NotFound { word: name.to_string() }),
            Err(error) => Err(at(&path)(error.into())),
        }
    }

    /// The container's name.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// It is the beginning of a container's directory, and not somebody's own.
    fn was_begun(&self) -> bool {
        self.path.join("lock").exists()
            || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Where the directory is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The VM's socket, by a path that is short however long the root's is: a Unix socket's path has
    /// room for 108 bytes.
    pub(crate) fn socket_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/vsock.sock", self.fd.as_raw_fd()))
    }

    /// Waits until the supervisor has ended, and gives the exit code it left; `None` if it was killed.
    pub(crate) fn wait(&self) -> Result<Option<u8>, StateError> {
        let path = self.path.join("lock");
        let mut lock = File::open(&path).map_err(at(&path))?;
        let shared = libc::flock { l_type: libc::F_RDLCK as libc::c_short, ..whole_file() };
        fcntl(&lock, FcntlArg::F_OFD_SETLKW(&shared)).map_err(|error| at(&path)(error.into()))?;
        let mut code = String::new();
        (&mut lock).take(4).read_to_string(&mut code).map_err(at(&path))?;
        Ok(code.parse().ok())
    }

    /// The supervisor's process number, if it listens.
    pub(crate) fn supervisor_number(&self) -> Option<Pid> {
        // Who listens is what the kernel remembers, not what a file says.
        let client = UnixStream::connect(self.socket_path()).ok()?;
        Some(rustix::net::sockopt::socket_peercred(&client).ok()?.pid)
    }

    /// The supervisor as a descriptor that is readable once it has ended; `None` if it has ended, or
    /// has no VM yet.
    pub(crate) fn supervisor(&self) -> Option<OwnedFd> {
        let pid = self.supervisor_number()?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Alive now, it was alive when its number was looked up: the number was not another's yet.
        is_held(&self.path.join("lock")).then_some(process)
    }

    /// The socket for orders to the supervisor, by a short path as well.
    pub(crate) fn orders_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/orders.sock", self.fd.as_raw_fd()))
    }

    /// Takes the sockets away that nobody answers at any more.
    pub(crate) fn remove_sockets(&self) -> Result<(), StateError> {
        for name in ["vsock.sock", "orders.sock"] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The log of a detached container.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Writes the record down, whole or not at all.
    pub(crate) fn write(&self, record: &Record) -> Result<(), StateError> {
        let (path, new) = (self.path.join("state.json"), self.path.join("state.json.new"));
        let json = serde_json::to_vec(record).map_err(io::Error::from).map_err(at(&path))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&json))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(at(&path))
    }

    fn read(&self) -> Result<Record, StateError> {
        let path = self.path.join("state.json");
        let mut json = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut json))
            .map_err(at(&path))?;
        Record::parse(&json, &self.name).map_err(|source| StateError::Corrupt { path, source })
    }
}

/// Removes a directory that may be gone already.
pub(crate) fn remove_dir(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Takes the lock at `path`, which nobody else can have: its directory was just made.
fn hold(path: &Path) -> Result<File, StateError> {
    let file = File::create_new(path).map_err(at(path))?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())).map_err(|error| at(path)(error.into()))?;
    Ok(file)
}

/// Somebody holds the lock at `path`.
fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    // A shared lock is in the way of an exclusive one only, which nobody but a supervisor has.
    let mut asked = libc::flock { l_type: libc::F_RDLCK as libc::c_short, ..whole_file() };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).is_ok()
        && i32::from(asked.l_type) != libc::F_UNLCK
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests;
