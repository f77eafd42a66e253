//! What a file server may do: what serving files takes, and nothing else.
//!
//! It is root, since it makes files for every user a guest can have. But it has only the capabilities
//! for that, none of them over the system, and the system calls in [`confine`].

use std::io;

use libc::c_long;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};
use vmm::jail::confine_process;

/// To read, make, own and name every file of a share. Not `CAP_SYS_ADMIN`: a guest gets and sets no
/// `trusted.` attributes of the host's, and none of a security module.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// What the server may have open, if the system lets it: a descriptor for each inode that the guest
/// remembers.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Why the server is not confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum JailError {
    /// The kernel refused a step.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// There is no filter of system calls.
    #[error(transparent)]
    Filter(#[from] vmm::jail::JailError),
}

fn wrong(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Step { step, source: errno.into() }
}

/// Gives up every privilege but those of a file server. Threads come later, so that it holds for them.
pub(super) fn drop_privileges() -> Result<(), JailError> {
    let most = Rlimit { current: Some(MAX_DESCRIPTORS), maximum: Some(MAX_DESCRIPTORS) };
    if setrlimit(Resource::Nofile, most).is_err() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(wrong("limiting core files"))?;
    rustix::thread::set_thread_groups(&[]).map_err(wrong("leaving all groups"))?;
    // A file is made by becoming its owner for a moment. Whether the guest's user may do that was
    // judged by the guest's kernel, which alone knows all the user's groups: here the right to it
    // stays with the thread.
    let bits =
        CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED;
    set_capabilities_secure_bits(bits).map_err(wrong("keeping capabilities"))?;
    set_no_new_privs(true).map_err(wrong("forbidding new privileges"))?;
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(wrong("dropping capabilities"))
}

/// The system calls of a file server. The rest ends it.
const CALLS: &[c_long] = &[
    // The socket.
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_writev,
    // Names.
    libc::SYS_openat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    // Attributes.
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_setxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    // Contents.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fcntl, // flags of an open file, as the guest has changed them
    libc::SYS_dup,   // closing a file once of many times
    libc::SYS_close,
    // Being the one who makes a file, and losing the right to keep its set-user-id bit.
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_umask,
    libc::SYS_pipe2, // answers that are completed
    // Memory, threads and the end.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_gettid,
    libc::SYS_tkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines all threads of the process to [`CALLS`].
pub(super) fn confine() -> Result<(), JailError> {
    Ok(confine_process(CALLS)?)
}
