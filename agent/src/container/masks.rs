//! Paths a container may not read, may not write, and values of the kernel it has for itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::{self, FileSystemError};
use super::options::Bind;
use super::within::Within;
use crate::sys::{self, MountAttributes};
use crate::words::words;

/// Why a path is not as protected as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaskError {
    #[error("linux.maskedPaths: {path}: {}", words(*.errno))]
    Masked { path: String, errno: Errno },
    #[error("linux.maskedPaths: {0}")]
    Nothing(#[from] FileSystemError),
    #[error("linux.readonlyPaths: {path}: {}", words(*.errno))]
    Readonly { path: String, errno: Errno },
    #[error("linux.sysctl: {name}: {}", words(*.errno))]
    Sysctl { name: String, errno: Errno },
}

/// Puts nothing over each path that exists: an empty directory over a directory, `/dev/null` over
/// anything else.
pub(crate) fn mask(root: &Within<'_>, paths: &[PathBuf]) -> Result<(), MaskError> {
    for path in paths {
        let wrong = |errno| MaskError::Masked { path: path.display().to_string(), errno };
        let Some(place) = existing(root, path).map_err(wrong)? else { continue };
        let mode = rustix::fs::fstat(&place).map_err(wrong)?.st_mode;
        let nothing = if FileType::from_raw_mode(mode) == FileType::Directory {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            mounts::file_system("tmpfs", Some("tmpfs"), &[], read_only)?
        } else {
            mounts::copy_of(CWD, Path::new("/dev/null"), Bind::One).map_err(wrong)?
        };
        mounts::attach(nothing.as_fd(), place.as_fd()).map_err(wrong)?;
    }
    Ok(())
}

/// Makes each path that exists, and what is mounted below it, read-only.
pub(crate) fn protect(root: &Within<'_>, paths: &[PathBuf]) -> Result<(), MaskError> {
    for path in paths {
        let wrong = |errno| MaskError::Readonly { path: path.display().to_string(), errno };
        let Some(place) = existing(root, path).map_err(wrong)? else { continue };
        let tree = mounts::copy_of(&place, Path::new(""), Bind::All).map_err(wrong)?;
        make_read_only(tree.as_fd(), true).map_err(wrong)?;
        mounts::attach(tree.as_fd(), place.as_fd()).map_err(wrong)?;
    }
    Ok(())
}

/// Makes a mount read-only, and with `recursive` all below it.
pub(crate) fn make_read_only(tree: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    let attributes = MountAttributes { set, ..MountAttributes::default() };
    sys::set_mount_attributes(tree, &attributes, recursive)
}

/// Writes values below `/proc/sys`, those of the calling process's namespaces. `proc` is the guest's
/// own, because the container's may not be there, or not be one.
pub(crate) fn set_kernel_values(
    proc: BorrowedFd<'_>,
    values: &[(String, String)],
) -> Result<(), MaskError> {
    for (name, value) in values {
        let write = || {
            let path = format!("sys/{}", path_of(name));
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat2(proc, path, flags, Mode::empty(), ResolveFlags::BENEATH)?;
            rustix::io::write(file, value.as_bytes()).map(drop)
        };
        write().map_err(|errno| MaskError::Sysctl { name: name.clone(), errno })?;
    }
    Ok(())
}

/// As sysctl(8) reads a name: with dots between its parts, or, if a slash comes first, with slashes.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => name.to_owned(),
        _ => name.replace('.', "/"),
    }
}

fn existing(root: &Within<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match root.find(path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kernel_values_come_with_dots_or_with_slashes() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("kernel"), "kernel");
    }

    #[test]
    fn a_kernel_value_never_leads_out_of_proc_sys() {
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        let escape = [("a/../../../etc/passwd".to_owned(), String::new())];
        let error = set_kernel_values(proc.as_fd(), &escape).unwrap_err();
        assert!(error.to_string().starts_with("linux.sysctl: a/../../../etc/passwd: "));
        assert!(matches!(error, MaskError::Sysctl { errno: Errno::XDEV | Errno::NOENT, .. }));
    }
}
