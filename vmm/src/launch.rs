//! The owner's side: a command that will become a VMM process.

use std::io;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::spec::VmSpec;

/// Adds the number of a descriptor that holds `spec` to `command`'s arguments, and lets its child
/// inherit that and every descriptor the spec names, under the same numbers. They have to stay open
/// in this process until `command` was spawned; the one given back is the spec's.
pub fn hand_over(command: &mut Command, spec: &VmSpec) -> io::Result<OwnedFd> {
    let spec_file = write_spec(spec)?;
    let mut inherited: Vec<RawFd> = spec.descriptors().map(|fd| fd.0).collect();
    inherited.push(spec_file.as_raw_fd());
    command.arg(spec_file.as_raw_fd().to_string());
    let keep = move || inherited.iter().try_for_each(|&fd| keep_over_exec(fd));
    // SAFETY: between fork and exec `keep` calls `fcntl` only, and allocates nothing.
    unsafe { command.pre_exec(keep) };
    Ok(spec_file)
}

fn write_spec(spec: &VmSpec) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string, and nothing else is passed by address.
    let fd = unsafe { libc::memfd_create(c"vm-spec".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was made just now and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut file = std::fs::File::from(fd);
    file.write_all(&serde_json::to_vec(spec)?)?;
    Ok(file.into())
}

fn keep_over_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed; a number that is no descriptor gives an error.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
