//! The system calls that have no safe word elsewhere, each behind one function.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use fuse_backend_rs::abi::fuse_abi::OpenOptions;
use rustix::mount::MountAttrFlags;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes of the mount `mount` is the root of, with `recursive` of all below it too, and cuts
/// them off from what is mounted elsewhere later.
pub(super) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    recursive: bool,
) -> io::Result<()> {
    // Access times are one field of three values, which is set as a whole (mount_setattr(2)).
    let sets_access_times = set.contains(MountAttrFlags::MOUNT_ATTR_NOATIME);
    let clear = MountAttrFlags::MOUNT_ATTR__ATIME.bits().into();
    let attributes = Attributes {
        set: set.bits().into(),
        clear: if sets_access_times { clear } else { 0 },
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and the attributes are the kernel's layout, of the length given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The answer to an open with flags that the library has no names for.
pub(super) fn open_options(bits: u32) -> OpenOptions {
    // SAFETY: any number is one of flags: they are only sent to the guest.
    unsafe { OpenOptions::from_bits_unchecked(bits) }
}
