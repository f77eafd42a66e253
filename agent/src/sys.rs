//! The system calls that have no safe word elsewhere, each behind one function.
//!
//! Everything else in this crate is safe code on top of `rustix`. The agent has one thread, which is
//! what makes [`fork`] sound: no other thread can hold a lock that the child would need.

pub(crate) mod bpf;
pub(crate) mod own;
pub(crate) mod random;

use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use proto::spec::Namespace;
use rustix::io::Errno;
use rustix::process::Pid;

/// The errno of the C library call that just failed.
fn last_errno() -> Errno {
    io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// A C library result, where negative means "see errno".
fn checked(result: c_int) -> Result<c_int, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Who returns from [`fork`].
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The one that forked.
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// Namespaces a forked child gets new, as `CLONE_NEW…` flags.
#[derive(Clone, Copy)]
pub(crate) struct NewNamespaces(c_int);

impl NewNamespaces {
    /// None: the child lives where its parent does.
    pub(crate) const NONE: Self = Self(0);
    /// Mounts.
    pub(crate) const MOUNT: Self = Self(libc::CLONE_NEWNS);
    /// The view of the cgroup hierarchy. A clone would make the parent's cgroup its root.
    pub(crate) const CGROUP: Self = Self(libc::CLONE_NEWCGROUP);
    /// Interfaces, addresses, routes.
    pub(crate) const NETWORK: Self = Self(libc::CLONE_NEWNET);
    /// Clocks, for children to be. They cannot be set once somebody lives by them.
    pub(crate) const TIME: Self = Self(CLONE_NEWTIME);

    /// Those of a container that a clone can give. It always has mounts of its own: its root is one,
    /// and the guest has nothing to share there but what the agent works with.
    pub(crate) fn by_clone(wanted: &[Namespace]) -> Self {
        let flag = |namespace: &Namespace| match namespace {
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Cgroup | Namespace::Time => 0,
        };
        Self(wanted.iter().map(flag).fold(libc::CLONE_NEWNS, |flags, flag| flags | flag))
    }
}

/// Not in every C library's list.
const CLONE_NEWTIME: c_int = 0x80;

/// Forks a child that begins its life in `cgroup`, or in its parent's. Being born there is much
/// cheaper than moving there, which waits until every CPU has passed a quiet point.
pub(crate) fn fork(new: NewNamespaces, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid `clone_args`: it asks for nothing.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = new.0 as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack this is a fork: the child goes on with a copy of
    // everything, and no lock is held by another thread because there is none.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        0 => Ok(Forked::Child),
        1.. => {
            // SAFETY: the kernel has just stored a descriptor here that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::OVERFLOW)?;
            Ok(Forked::Parent { pid, pidfd })
        }
        _ => Err(last_errno()),
    }
}

/// Gives the calling process namespaces of its own, one or the other way [`fork`] cannot.
pub(crate) fn unshare(new: NewNamespaces) -> Result<(), Errno> {
    // SAFETY: changes what names lead to; descriptors and memory stay as they are.
    checked(unsafe { libc::unshare(new.0) }).map(drop)
}

/// Ends the calling process without running anything that was registered for its end: a forked
/// child shares those with the agent.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: always sound; never returns.
    unsafe { libc::_exit(code) }
}

/// Makes `source` also known as `number`, kept across `execve`.
pub(crate) fn place_descriptor(source: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: takes plain numbers. Callers name 0 to 2, which no `OwnedFd` of theirs is, and others only in a
    // child that uses no `OwnedFd` any more.
    checked(unsafe { libc::dup2(source.as_raw_fd(), number) }).map(drop)
}

/// Makes `sources` known as 3, 4 and so on, kept across `execve`. For a forked child: whatever had these
/// numbers is gone, so none may be in use.
pub(crate) fn place_behind_standard(sources: &[OwnedFd]) -> Result<(), Errno> {
    let free = c_int::try_from(3 + sources.len()).map_err(|_| Errno::MFILE)?;
    // One may stand at the place of another.
    let moved: Result<Vec<_>, _> =
        sources.iter().map(|source| rustix::io::fcntl_dupfd_cloexec(source, free)).collect();
    (3..).zip(&moved?).try_for_each(|(number, source)| place_descriptor(source.as_fd(), number))
}

/// Closes every descriptor above 2 but those in `keep`. For a forked child: its copies of the
/// agent's descriptors would keep pipes and connections of others open.
pub(crate) fn close_all_but(keep: &mut [RawFd]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut first = 3;
    for &mut kept in keep {
        if kept > first {
            close_range(first as u32, kept as u32 - 1)?;
        }
        first = first.max(kept + 1);
    }
    close_range(first as u32, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: only a forked child calls this, on descriptors whose owners it will never run again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Blocks every signal: the agent reads `SIGCHLD` from a descriptor and has no use for others, and a
/// blocked `SIGPIPE` makes a write to a closed pipe plain `EPIPE`.
pub(crate) fn block_signals() -> Result<(), Errno> {
    let all = signal_set(|set| {
        // SAFETY: `set` is a valid place for a signal set.
        unsafe { libc::sigfillset(set) }
    });
    set_signal_mask(&all)
}

/// The last real-time signal of Linux.
const LAST_SIGNAL: c_int = 64;

/// What `execve` would hand on and a program does not expect: no signal is blocked or ignored.
pub(crate) fn restore_signals() -> Result<(), Errno> {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: no handler is installed, but the default; a number that cannot have one is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_signal_mask(&signal_set(|_| 0))
}

/// A descriptor that is readable when a child has ended.
pub(crate) fn child_signals() -> Result<OwnedFd, Errno> {
    let set = signal_set(|set| {
        // SAFETY: `set` is a valid, initialised signal set and the number is a real signal's.
        unsafe { libc::sigaddset(set, libc::SIGCHLD) }
    });
    // SAFETY: `set` outlives the call.
    let fd = checked(unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An empty signal set after `fill` has had its way with it.
fn signal_set(fill: impl FnOnce(*mut libc::sigset_t) -> c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the place is valid for writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    fill(set.as_mut_ptr());
    // SAFETY: `sigemptyset` initialised it.
    unsafe { set.assume_init() }
}

fn set_signal_mask(set: &libc::sigset_t) -> Result<(), Errno> {
    // SAFETY: reads a valid set; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// Sends any signal, real-time ones and the probing 0 included. Only for processes that were not
/// reaped yet, whose number can therefore not have gone to another.
pub(crate) fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes plain numbers; a `Pid` is positive, so never a group or "everyone".
    checked(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }).map(drop)
}

/// Kills every process but the caller, which must be PID 1 of a guest.
pub(crate) fn kill_everyone() {
    // SAFETY: takes plain numbers.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Becomes another program. Comes back only with the reason why not.
pub(crate) fn execve(program: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point into strings that are still borrowed.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttributes {
    /// `MOUNT_ATTR_…` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_…` to clear first.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub(crate) propagation: u64,
    /// Of an id-mapped mount; unused.
    pub(crate) user_namespace: u64,
}

/// Changes the attributes of the mount `mount` is the root of, and with `recursive` of all below it.
pub(crate) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: &MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string and the attributes are the kernel's layout, of the
    // length given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// A request about the interface of that name, which is cut off where it is too long.
fn about(interface: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *place = byte as c_char;
    }
    request
}

/// Brings the loopback interface up; its addresses come with that.
pub(crate) fn raise_loopback(socket: impl AsFd) -> Result<(), Errno> {
    let mut request = about("lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: this request reads one `ifreq`, which `request` is.
    let result =
        unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS as c_ulong as _, &raw const request) };
    checked(result).map(drop)
}

/// `struct ethtool_value` of the kernel's `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Has the kernel fill in the checksums of what leaves by an interface in the socket's network namespace, and with
/// that cut it into segments, which is done by nobody else then.
pub(crate) fn finish_packets(socket: impl AsFd, interface: &str) -> Result<(), Errno> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const SIOCETHTOOL: u32 = 0x8946;
    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, data: 0 };
    let mut request = about(interface);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: this request reads one `ifreq`, and the value that it points to, which outlives the call.
    let result = unsafe { libc::ioctl(descriptor, SIOCETHTOOL as _, &raw const request) };
    checked(result).map(drop)
}

/// The context id at the other end, `None` when the socket is no vsock.
pub(crate) fn vsock_peer(socket: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    // SAFETY: all zeroes is a valid `sockaddr_vm`.
    let mut address: libc::sockaddr_vm = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    let place = ptr::from_mut(&mut address).cast();
    // SAFETY: the kernel writes at most `length` bytes to a place of that size.
    checked(unsafe { libc::getpeername(socket.as_raw_fd(), place, &mut length) })?;
    let is_vsock = i32::from(address.svm_family) == libc::AF_VSOCK;
    Ok(is_vsock.then_some(address.svm_cid))
}

/// A vsock address, for `rustix`'s `bind` and `connect`.
pub(crate) struct VsockAddress {
    /// Context id.
    pub(crate) cid: u32,
    /// Port.
    pub(crate) port: u32,
}

// SAFETY: `f` gets a complete `sockaddr_vm` that lives until it returns.
unsafe impl rustix::net::addr::SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const rustix::net::addr::SocketAddrOpaque, u32) -> R,
    ) -> R {
        let address = libc::sockaddr_vm {
            svm_family: libc::AF_VSOCK as libc::sa_family_t,
            svm_reserved1: 0,
            svm_port: self.port,
            svm_cid: self.cid,
            svm_zero: [0; 4],
        };
        f(ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_vm>() as u32)
    }
}
