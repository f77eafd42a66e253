//! A file system that a story mounts on its host.

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A tmpfs, unmounted when it is dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one at `path`, which is made; `options` are the file system's.
    pub fn mount(path: &Path, flags: MountFlags, options: &CStr) -> Self {
        fs::create_dir(path).unwrap();
        mount("story", path, "tmpfs", flags, options).unwrap();
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}
