//! What the process may not do any more once a guest runs in it.
//!
//! The guest is hostile, and the code that serves it may have a bug. By the time its first instruction
//! runs the process has no descriptor but those of the VM, opens no path, is nobody (if it was root),
//! cannot gain a privilege, leaves no core file with the guest's memory in it, and each thread can make
//! only the system calls in [`filter`]. A later issue adds namespaces and Landlock.

mod filter;

use std::io;
use std::os::fd::RawFd;

pub use self::filter::{
    Saving, confine_disk, confine_event_loop, confine_net, confine_process, confine_vcpu,
};
use crate::spec::VmSpec;

/// The user and group that own nothing.
const NOBODY: libc::uid_t = 65534;

/// Descriptors a VMM can have: the 512 connections of the socket device, and its own.
const MAX_DESCRIPTORS: libc::rlim_t = 1024;

/// Why the process is not confined.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Step {
        /// Which.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn step(step: &'static str, outcome: libc::c_int) -> Result<(), JailError> {
    match outcome {
        0 => Ok(()),
        _ => Err(JailError::Step { step, source: io::Error::last_os_error() }),
    }
}

/// Closes every descriptor but those that `spec` names, and puts nothing in the place of the standard
/// ones: whoever wrote there by mistake would write to the owner's terminal.
pub fn close_all_but(spec: &VmSpec) -> Result<(), JailError> {
    let kept: Vec<RawFd> = spec.descriptors().map(|fd| fd.0).collect();
    let silence = open_null()?;
    for standard in 0..=2 {
        if !kept.contains(&standard) {
            // SAFETY: no memory is passed; nothing in this process owns the standard descriptors.
            let put = unsafe { libc::dup2(silence, standard) };
            step("closing standard input and output", if put < 0 { -1 } else { 0 })?;
        }
    }
    let mut kept: Vec<RawFd> = kept.into_iter().chain(0..=2).collect();
    kept.sort_unstable();
    for gap in gaps(&kept) {
        let (first, last) = (*gap.start() as libc::c_uint, *gap.end() as libc::c_uint);
        // SAFETY: no memory is passed, and none of these is owned by anything in this process: it
        // has just started and has taken over nothing but what is kept.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        step("closing what was inherited by mistake", if closed < 0 { -1 } else { 0 })?;
    }
    Ok(())
}

/// The numbers between and behind sorted `kept` ones.
fn gaps(kept: &[RawFd]) -> Vec<std::ops::RangeInclusive<u32>> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for &fd in kept {
        let fd = u32::try_from(fd).unwrap_or(0);
        if fd > next {
            gaps.push(next..=fd - 1);
        }
        next = next.max(fd + 1);
    }
    gaps.push(next..=u32::MAX);
    gaps
}

fn open_null() -> Result<RawFd, JailError> {
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    step("opening /dev/null", if fd < 0 { -1 } else { 0 })?;
    Ok(fd)
}

/// Gives up whatever the process could do because of who started it. Threads come later, so that it
/// holds for them too.
pub fn drop_privileges() -> Result<(), JailError> {
    limit(libc::RLIMIT_CORE, 0, "limiting core files")?;
    limit(libc::RLIMIT_NOFILE, MAX_DESCRIPTORS, "limiting descriptors")?;
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } == 0 {
        // By system call and not by name: the C library would tell other threads, and there are none.
        // SAFETY: an empty list is read nowhere.
        let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) };
        step("leaving all groups", if groups < 0 { -1 } else { 0 })?;
        // SAFETY: no memory is passed.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) };
        step("becoming nobody's group", if group < 0 { -1 } else { 0 })?;
        // SAFETY: no memory is passed.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        step("becoming nobody", if user < 0 { -1 } else { 0 })?;
    }
    // Other VMs are nobody too: none of them may look into this one.
    // SAFETY: no memory is passed.
    step("forbidding to be traced", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    forbid_new_privileges()
}

/// For good: without that, nobody but root may install a filter.
fn forbid_new_privileges() -> Result<(), JailError> {
    // SAFETY: no memory is passed.
    let bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    step("forbidding new privileges", bound)
}

/// What names a limit; the C libraries do not agree on its sign.
#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, most: libc::rlim_t, words: &'static str) -> Result<(), JailError> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` is writable.
    step(words, unsafe { libc::getrlimit(resource, &mut now) })?;
    let most = now.rlim_max.min(most);
    let then = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `then` is readable.
    step(words, unsafe { libc::setrlimit(resource, &then) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_between_or_behind_what_is_kept_stays_open() {
        assert_eq!(gaps(&[0, 1, 2]), [3..=u32::MAX]);
        assert_eq!(gaps(&[0, 1, 2, 3, 7, 9, 9]), [4..=6, 8..=8, 10..=u32::MAX]);
        assert_eq!(gaps(&[2]), [0..=1, 3..=u32::MAX]);
    }
}
