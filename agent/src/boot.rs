//! From the kernel's first call to a guest in which containers can be made.
//!
//! In two parts: [`first`] is what has to be there before the host is told that the guest is ready,
//! [`furnish`] the rest, done while the host makes up its mind.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::sys;
use crate::words::Refused;

/// Where the agent puts roots of containers together.
pub const RUN: &str = "/run";

/// Where the VM's file share is mounted, if it has one.
pub const SHARES: &str = "/run/shares";

/// Where a container's mount namespace has files of its own, while it is set up.
pub(crate) const FILES: &str = "/run/files";

/// Where the cgroup hierarchy is mounted.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What processes may have open, unless their specification says otherwise.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Nanoseconds since the kernel started.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Both are positive on a running machine.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Makes `/dev`, and descriptors 0 to 2 something: a panic needs the one to be heard, everything
/// else relies on the other.
pub fn first() -> Result<(), Refused> {
    sys::block_signals().map_err(Refused::at("signals"))?;
    fresh("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, None)?;
    loop {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(Refused::at("/dev/null"))?;
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return Ok(());
        }
        // It fills a hole below 3, and stays.
        std::mem::forget(null);
    }
}

/// Makes what containers need.
pub fn furnish() -> Result<(), Refused> {
    leave_rootfs().map_err(Refused::at("root"))?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    fresh("proc", "/proc", plain, None)?;
    fresh("sysfs", "/sys", plain, None)?;
    fresh("cgroup2", CGROUPS, plain, Some(c"nsdelegate"))?;
    fresh("tmpfs", RUN, MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))?;

    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    socket.and_then(sys::raise_loopback).map_err(Refused::at("lo"))?;
    let files = Rlimit { current: Some(MAX_OPEN_FILES), maximum: Some(MAX_OPEN_FILES) };
    setrlimit(Resource::Nofile, files).map_err(Refused::at("open files"))?;
    let processes = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Nproc, processes).map_err(Refused::at("processes"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::system::sethostname(b"microvm").map_err(Refused::at("hostname"))
}

/// Puts a copy of the kernel's first root over itself. `pivot_root`, by which containers leave the
/// guest's root behind, refuses to do so from the first root of all.
fn leave_rootfs() -> Result<(), Errno> {
    make_directory(RUN)?;
    mount_bind_recursive("/", RUN)?;
    rustix::process::chdir(RUN)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

fn fresh(
    kind: &'static str,
    place: &str,
    flags: MountFlags,
    data: Option<&std::ffi::CStr>,
) -> Result<(), Refused> {
    make_directory(place)
        .and_then(|()| mount(kind, place, kind, flags, data))
        .map_err(Refused::at(format!("mount {kind} on {place}")))
}

fn make_directory(path: &str) -> Result<(), Errno> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Ends the guest. Comes back only if the kernel refuses.
pub fn power_off() -> Errno {
    sys::kill_everyone();
    rustix::fs::sync();
    // There is no ACPI to ask. A restart resets the machine through the keyboard controller, which
    // the VMM takes as the end.
    match rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        Ok(()) => Errno::AGAIN,
        Err(errno) => errno,
    }
}
