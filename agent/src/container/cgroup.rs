//! One cgroup per container: where its processes are counted, and reached all at once.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys;

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
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            // Left by a container of this name that has ended.
            Ok(()) | Err(Errno::EXIST) => open(&path),
            Err(errno) => Err(errno),
        }
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
        let path = self.of(container);
        if signal == libc::SIGKILL {
            return fs::write(path.join("cgroup.kill"), "1");
        }
        visit(&path, &mut |cgroup| {
            for pid in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
                if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                    // One that ended meanwhile has no need of it.
                    let _ = sys::kill(pid, signal);
                }
            }
            Ok(())
        })
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
