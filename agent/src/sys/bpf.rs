//! Programs that the kernel asks before a process of a cgroup touches a device.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use super::last_errno;

/// Commands of bpf(2).
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// A cgroup below may add a program of its own: what both allow is allowed.
const ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that [`PROG_LOAD`] reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// The part of it that [`PROG_ATTACH`] reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// A program about devices, which the kernel has judged.
#[derive(Debug)]
pub(crate) struct DeviceProgram(OwnedFd);

impl DeviceProgram {
    /// Hands the instructions to the kernel, a `struct bpf_insn` in each number, little endian.
    pub(crate) fn load(instructions: &[u64]) -> Result<Self, Errno> {
        let bytes: Vec<u8> = instructions.iter().flat_map(|number| number.to_le_bytes()).collect();
        let load = Load {
            prog_type: PROG_TYPE_CGROUP_DEVICE,
            instruction_count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
            instructions: bytes.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            expected_attach_type: CGROUP_DEVICE,
            ..Load::default()
        };
        // SAFETY: `load` is the kernel's layout, of the length given; the instructions and the
        // license it points to outlive the call.
        let fd = unsafe { bpf(PROG_LOAD, &load) }?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Has the kernel ask it about every process of `cgroup` and below, from now on.
    pub(crate) fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
        let attach = Attach {
            target: cgroup.as_raw_fd() as u32,
            program: self.0.as_raw_fd() as u32,
            attach_type: CGROUP_DEVICE,
            flags: ALLOW_MULTI,
        };
        // SAFETY: `attach` is the kernel's layout, of the length given, and holds no pointer.
        unsafe { bpf(PROG_ATTACH, &attach) }.map(drop)
    }
}

/// # Safety
///
/// `attributes` must be what `command` reads, with pointers that are valid during the call.
unsafe fn bpf<T>(command: u32, attributes: &T) -> Result<i32, Errno> {
    let place = ptr::from_ref(attributes);
    // SAFETY: the caller vouches for what the attributes point to; their size is their type's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, place, size_of::<T>()) };
    i32::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(last_errno)
}
