//! What the calling process says to the kernel about itself.

use std::mem::size_of;
use std::ptr;

use proto::spec::{Scheduler, Seccomp};
use rustix::io::Errno;

use super::{checked, last_errno};

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// How and when it gets a processor.
pub(crate) fn set_scheduler(scheduler: &Scheduler) -> Result<(), Errno> {
    let attributes = SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    };
    // SAFETY: the attributes are the kernel's layout and say their size themselves.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(&attributes), 0) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// In which order its reads and writes of disks are served.
pub(crate) fn set_io_priority(priority: u16) -> Result<(), Errno> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: takes plain numbers.
    let result =
        unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, i32::from(priority)) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Which kind of Unix the kernel plays for it.
pub(crate) fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: takes a plain number.
    checked(unsafe { libc::personality(persona.into()) }).map(drop)
}

/// Has the kernel judge each of its system calls, from the next one on.
pub(crate) fn install_seccomp(seccomp: &Seccomp) -> Result<(), Errno> {
    let mut instructions: Vec<libc::sock_filter> = seccomp.program.iter().map(filter).collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program points to as many instructions as it says, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            seccomp.flags,
            ptr::from_ref(&program),
        )
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `struct sock_filter` out of its eight bytes, the first of them lowest.
fn filter(number: &u64) -> libc::sock_filter {
    let [c0, c1, jt, jf, k @ ..] = number.to_le_bytes();
    libc::sock_filter { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes(k) }
}
