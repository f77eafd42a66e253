//! The locks that say whether a supervisor is alive, and which process it is.
//!
//! They tell the truth whatever happens: the kernel lets go of them when the supervisor dies. `lock` is
//! an open-file-description lock, because that kind can be asked about without being taken and does not
//! end when somebody in the same process closes the file. `supervisor` is a record lock of the older
//! kind, of which the kernel knows the process; nobody opens it in that process again.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::process::Pid;

/// The locks of one container's directory, held.
#[derive(Debug)]
pub(super) struct Held {
    lock: File,
    _supervisor: File,
}

impl Held {
    /// Takes the locks in `directory`, which nobody else can have: it was just made.
    pub(super) fn take(directory: &Path) -> io::Result<Self> {
        let lock = File::create_new(directory.join("lock"))?;
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK)))?;
        let supervisor = File::create_new(directory.join("supervisor"))?;
        fcntl(&supervisor, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK)))?;
        Ok(Self { lock, _supervisor: supervisor })
    }

    /// Takes them in `directory`, whose former holder has ended, and nobody else tries to. Who waited for that
    /// one has its exit code, and who looks now finds a file that is locked: there is none in between.
    pub(super) fn take_again(directory: &Path) -> io::Result<Self> {
        let new = directory.join("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&new)?,
        }
        let held = Self::take(&new)?;
        for name in ["supervisor", "lock"] {
            fs::rename(new.join(name), directory.join(name))?;
        }
        fs::remove_dir(&new)?;
        Ok(held)
    }

    /// Leaves the exit code for those who wait.
    pub(super) fn leave(&self, exit_code: u8) {
        leave(&self.lock, exit_code);
    }

    /// The first of the locks, which is held until this is dropped too.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }
}

/// Leaves the exit code in `lock`.
pub(super) fn leave(mut lock: &File, exit_code: u8) {
    // Who waits and finds nothing says so.
    let _ = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(exit_code.to_string().as_bytes()));
}

/// Waits until nobody holds `directory`, and gives the exit code that was left there.
pub(super) fn wait(directory: &Path) -> io::Result<Option<u8>> {
    let mut lock = File::open(directory.join("lock"))?;
    fcntl(&lock, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_RDLCK)))?;
    let mut code = String::new();
    (&mut lock).take(4).read_to_string(&mut code)?;
    Ok(code.parse().ok())
}

/// Somebody holds `directory`.
pub(super) fn is_held(directory: &Path) -> bool {
    in_the_way(&directory.join("lock")).is_some()
}

/// The process that holds `directory`.
pub(super) fn holder(directory: &Path) -> Option<Pid> {
    Pid::from_raw(in_the_way(&directory.join("supervisor"))?.l_pid)
}

/// The lock on the file at `path` that is in the way of a shared one: an exclusive one, which nobody but a
/// supervisor has.
fn in_the_way(path: &Path) -> Option<libc::flock> {
    let file = File::open(path).ok()?;
    let mut asked = whole_file(libc::F_RDLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).ok()?;
    (i32::from(asked.l_type) != libc::F_UNLCK).then_some(asked)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
