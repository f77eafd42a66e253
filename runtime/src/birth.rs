//! Processes of our own program: how they begin, and how it is seen that they have ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};

/// What a child ends with that could not execute its program. Whoever waits for its words hears none.
const NOT_EXECUTED: libc::c_int = 127;

/// A process that we started. Dropping it leaves it alone.
#[derive(Debug)]
pub(crate) struct Newborn {
    process: OwnedFd,
    ended: Option<ExitStatus>,
}

impl Newborn {
    /// Starts `command`: in `cgroup` from its first breath on, or where we are.
    ///
    /// To move a process between cgroups the kernel waits until no processor is in the middle of a fork, for
    /// milliseconds; one that is born there costs nothing, and nothing of it is counted elsewhere.
    pub(crate) fn start(command: &mut Command, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let process = match cgroup {
            Some(cgroup) => born_in(command, cgroup)?,
            None => {
                let mut child = command.spawn()?;
                // Nobody else waits for it: the number is its own.
                let pid = Pid::from_raw(child.id().cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
                pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
                    let _ = child.kill().and_then(|()| child.wait());
                })?
            }
        };
        Ok(Self { process, ended: None })
    }

    /// Ends it, unless it has ended.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Waits until it has ended, and says how.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let end = loop {
            match waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(end)) => break end,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(*self.ended.insert(status(&end)))
    }
}

impl AsFd for Newborn {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// As wait(2) has it: a code in the second byte, or a signal in the first.
fn status(end: &WaitIdStatus) -> ExitStatus {
    let code = end.exit_status().map(|code| code << 8);
    ExitStatus::from_raw(code.or(end.terminating_signal()).unwrap_or_default())
}

/// linux/sched.h: more than an `int` has room for.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `struct clone_args` (clone3(2), `CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts `command` in `cgroup`, the directory of one. No other thread of this process may be at anything but a
/// system call: the child has a copy of its memory, with whatever that thread has locked.
fn born_in(command: &mut Command, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    let mut process: libc::c_int = -1;
    let arguments = CloneArgs {
        flags,
        pidfd: (&raw mut process).addr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are the kernel's layout, of the length given, and name a place for a descriptor that
    // outlives the call. Without `CLONE_VM` the child goes on in a copy of this thread's memory, as after fork(2).
    let child =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match child {
        // SAFETY: the kernel has just made it, and it belongs to nobody else.
        1.. => Ok(unsafe { OwnedFd::from_raw_fd(process) }),
        0 => {
            let _ = command.exec();
            // SAFETY: it ends this process, in which nothing of the parent's is to be run at its end.
            unsafe { libc::_exit(NOT_EXECUTED) }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_to_end_by_its_code_or_by_a_signal() {
        let mut failed = Newborn::start(Command::new("false").arg("x"), None).unwrap();
        assert_eq!(failed.wait().unwrap().code(), Some(1));
        assert_eq!(failed.wait().unwrap().code(), Some(1));
        let mut sleeps = Newborn::start(Command::new("sleep").arg("1000"), None).unwrap();
        sleeps.kill();
        assert_eq!(sleeps.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn nobody_is_born_where_there_is_no_cgroup() {
        let directory = std::fs::File::open("/proc").unwrap();
        let born = Newborn::start(&mut Command::new("true"), Some(directory.as_fd()));
        assert_eq!(born.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
