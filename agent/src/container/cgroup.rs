//! One cgroup per container: where its processes are counted, held to limits, and reached all at
//! once.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys;
use crate::sys::bpf::DeviceProgram;
use crate::words::words;

/// The most that is read of one file.
const MOST_BYTES: u64 = 256 << 10;

/// Why a file of a container's cgroup is not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("\"{file}\" is no name of a file")]
    NoName { file: String },
    #[error("{file}: {}", words(*.errno))]
    Unreadable { file: String, errno: Errno },
    #[error("{file}: longer than {MOST_BYTES} bytes")]
    TooLong { file: String },
    #[error("{file} \"{value}\": {}", words(*.errno))]
    Refused { file: String, value: String, errno: Errno },
}

/// The guest's cgroup hierarchy, version 2.
pub(crate) struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// The hierarchy that is mounted at `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Lets the cgroups of containers use every controller there is.
    pub(crate) fn delegate(&self) -> io::Result<()> {
        let controllers = fs::read_to_string(self.root.join("cgroup.controllers"))?;
        let all: Vec<String> =
            controllers.split_whitespace().map(|name| format!("+{name}")).collect();
        fs::write(self.root.join("cgroup.subtree_control"), all.join(" "))
    }

    /// Makes the cgroup of a container.
    pub(crate) fn create(&self, container: &str) -> Result<OwnedFd, Errno> {
        let path = self.of(container);
        let make = || rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755));
        match make() {
            // Left by a container of this name that has ended, with limits of its own.
            Err(Errno::EXIST) => {
                self.remove(container).map_err(|error| errno_of(&error)).and_then(|()| make())?
            }
            made => made?,
        }
        open(&path)
    }

    /// Has a program asked, from now on, what a container's processes do with devices.
    pub(crate) fn guard(&self, container: &str, program: &DeviceProgram) -> Result<(), Errno> {
        program.attach(open(&self.of(container))?.as_fd())
    }

    /// The cgroup of a container, or one that the container has made below it.
    pub(crate) fn below(&self, container: &str, path: &Path) -> Result<OwnedFd, Errno> {
        let mut place = self.of(container);
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(part) => place.push(part),
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::XDEV),
            }
        }
        open(&place)
    }

    /// The cgroup a process is in, which need not be the one it began in: an init system moves.
    pub(crate) fn where_is(&self, pid: Pid) -> Result<OwnedFd, Errno> {
        let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        let text = fs::read_to_string(file).map_err(|_| Errno::SRCH)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or(Errno::SRCH)?;
        open(&self.root.join(path))
    }

    /// Sends a signal to every process of a container.
    pub(crate) fn signal(&self, container: &str, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            return fs::write(self.of(container).join("cgroup.kill"), "1");
        }
        for pid in self.processes(container)? {
            // One that ended meanwhile has no need of it.
            let _ = sys::kill(pid, signal);
        }
        Ok(())
    }

    /// The processes of a container, those in cgroups it made for itself among them.
    pub(crate) fn processes(&self, container: &str) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        visit(&self.of(container), &mut |cgroup| {
            match fs::read_to_string(cgroup.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| {
                    // A process of a pid namespace that this one cannot see is a 0.
                    line.parse().ok().and_then(Pid::from_raw)
                })),
                // A cgroup of threads: their processes stand in the one above it.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(pids)
    }

    /// What stands in files of a container's cgroup, of those that are there.
    pub(crate) fn read(
        &self,
        container: &str,
        files: Vec<String>,
    ) -> Result<Vec<(String, String)>, FileError> {
        files.iter().try_for_each(|file| judge(file))?;
        let mut contents = Vec::new();
        for file in files {
            match read(&self.of(container).join(&file)) {
                Ok(text) if text.len() as u64 > MOST_BYTES => {
                    return Err(FileError::TooLong { file });
                }
                Ok(text) => contents.push((file, text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::Unreadable { file, errno: errno_of(&error) }),
            }
        }
        Ok(contents)
    }

    /// Writes files of a container's cgroup, in order, up to the first that refuses.
    pub(crate) fn write(
        &self,
        container: &str,
        values: &[(String, String)],
    ) -> Result<(), FileError> {
        values.iter().try_for_each(|(file, _)| judge(file))?;
        for (file, value) in values {
            let path = self.of(container).join(file);
            // One call of `write` a value: that is how the kernel tells values apart.
            let write = || {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(&path, flags, Mode::empty())?;
                rustix::io::write(file, value.as_bytes()).map(drop)
            };
            write().map_err(|errno| {
                let (file, value) = (file.clone(), value.clone());
                FileError::Refused { file, value, errno }
            })?;
        }
        Ok(())
    }

    /// Removes the cgroup of a container all of whose processes have ended, with those the container
    /// made in it.
    pub(crate) fn remove(&self, container: &str) -> io::Result<()> {
        visit(&self.of(container), &mut |cgroup| fs::remove_dir(cgroup))
    }

    /// Names of containers share a directory with the kernel's own files, hence the prefix.
    fn of(&self, container: &str) -> PathBuf {
        self.root.join(format!("container-{container}"))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// A name leads to a file of the container's own cgroup and nowhere else.
fn judge(file: &str) -> Result<(), FileError> {
    match file {
        "" | "." | ".." => Err(FileError::NoName { file: file.to_owned() }),
        _ if file.contains(['/', '\0']) => Err(FileError::NoName { file: file.to_owned() }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Calls `what` for a cgroup and all below it, the deepest first.
fn visit(cgroup: &Path, what: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), what)?;
        }
    }
    what(cgroup)
}
