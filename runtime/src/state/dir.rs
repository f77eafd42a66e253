//! One container's directory: what is in it, and where.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, stat};
use rustix::process::PidfdFlags;

use super::record::{Name, Record};
use super::{Dir, MAX_RECORD_BYTES, StateError, at, lock};
use crate::oci::cgroup::Group;

impl Dir {
    /// The container called `name`, in `word` of the root.
    pub(super) fn open(root: &Path, name: Name, word: &str) -> Result<Self, StateError> {
        let path = root.join(word);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { name, path, fd }),
            Err(rustix::io::Errno::NOENT) => Err(StateError::NotFound { word: name.to_string() }),
            Err(error) => Err(at(&path)(error.into())),
        }
    }

    /// Another handle to it.
    pub(crate) fn another(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), path: self.path.clone(), fd: self.fd.try_clone()? })
    }

    /// It was not removed, and is not another one of its name.
    pub(super) fn is_in_place(&self) -> bool {
        let same = |there: rustix::fs::Stat, here: rustix::fs::Stat| {
            (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        };
        matches!((stat(&self.path), fstat(&self.fd)), (Ok(there), Ok(here)) if same(there, here))
    }

    /// The directory by a path that is short, and stays its own when its name is another's.
    pub(super) fn here(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The container's name.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Where the directory is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The VM's socket, by a path that is short however long the root's is: a Unix socket's path has
    /// room for 108 bytes.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.here().join("vsock.sock")
    }

    /// The socket for orders to the supervisor, by a short path as well.
    pub(crate) fn orders_path(&self) -> PathBuf {
        self.here().join("orders.sock")
    }

    /// Its cgroup, if it was given one.
    pub(crate) fn cgroup(&self) -> Option<Group> {
        serde_json::from_slice(&fs::read(self.cgroup_path()).ok()?).ok()
    }

    pub(super) fn cgroup_path(&self) -> PathBuf {
        self.here().join("cgroup")
    }

    /// Waits until the supervisor has ended, and gives the exit code it left; `None` if it was killed.
    pub(crate) fn wait(&self) -> Result<Option<u8>, StateError> {
        lock::wait(&self.here()).map_err(at(&self.path))
    }

    /// The supervisor as a descriptor that is readable once it has ended; `None` if it has ended.
    pub(crate) fn supervisor(&self) -> Option<OwnedFd> {
        let pid = lock::holder(&self.here())?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Alive now, it was alive when its number was looked up: the number was not another's yet.
        lock::is_held(&self.here()).then_some(process)
    }

    /// Takes the sockets away that nobody answers at any more.
    pub(crate) fn remove_sockets(&self) -> Result<(), StateError> {
        for name in ["vsock.sock", "orders.sock"] {
            let path = self.here().join(name);
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
        let (path, new) = (self.path.join("state.json"), self.here().join("state.json.new"));
        let json = serde_json::to_vec(record).map_err(io::Error::from).map_err(at(&path))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&json))
            .and_then(|()| fs::rename(&new, self.here().join("state.json")))
            .map_err(at(&path))
    }

    pub(super) fn read(&self) -> Result<Record, StateError> {
        let path = self.path.join("state.json");
        let mut json = Vec::new();
        File::open(self.here().join("state.json"))
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut json))
            .map_err(at(&path))?;
        Record::parse(&json, &self.name).map_err(|source| StateError::Corrupt { path, source })
    }
}
