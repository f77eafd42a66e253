//! Paths inside a container's root, which an image fills with whatever links it likes.
//!
//! Every path is resolved by the kernel as if the root were `/`: no link, absolute or with `..`,
//! leads out of it, and links of `/proc` that jump are not followed at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// A root that paths stay in.
pub(crate) struct Within<'a>(BorrowedFd<'a>);

impl<'a> Within<'a> {
    pub(crate) fn new(root: &'a impl AsFd) -> Self {
        Self(root.as_fd())
    }

    /// Opens what is there.
    pub(crate) fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_or_create(path.as_ref(), flags, Mode::empty())
    }

    /// Names what is there, without opening it.
    pub(crate) fn find(&self, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// The directory at `path`, made with all above it where they are missing.
    pub(crate) fn make_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut so_far = PathBuf::from("/");
        let mut directory = self.find(&so_far)?;
        for component in path.components() {
            so_far.push(component);
            directory = match (self.find(&so_far), component) {
                (Err(Errno::NOENT), Component::Normal(name)) => {
                    mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                    self.find(&so_far)?
                }
                (found, _) => found?,
            };
        }
        Ok(directory)
    }

    /// The file at `path`, made empty if it is missing, with the directories above it.
    pub(crate) fn make_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.find(path) {
            Err(Errno::NOENT) => {
                self.make_directory(path.parent().unwrap_or(Path::new("/")))?;
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                self.open_or_create(path, flags, Mode::from_raw_mode(0o644))?;
                self.find(path)
            }
            found => found,
        }
    }

    fn open_or_create(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(self.0, path, flags, mode, resolve) {
                // A rename or mount elsewhere came between while the kernel walked through `..`;
                // openat2(2) asks for another go.
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("agent-within-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("root")).unwrap();
        path
    }

    #[test]
    fn links_of_an_image_never_lead_out_of_its_root() {
        let outside = scratch("links");
        let root = outside.join("root");
        symlink("/abs", root.join("absolute")).unwrap();
        symlink("../../../..", root.join("upwards")).unwrap();
        let directory = std::fs::File::open(&root).unwrap();
        let within = Within::new(&directory);

        std::fs::create_dir(root.join("abs")).unwrap();
        within.make_directory(Path::new("/absolute/made")).unwrap();
        assert!(root.join("abs/made").is_dir());
        within.make_file(Path::new("/upwards/etc/file")).unwrap();
        assert!(root.join("etc/file").is_file());
        within.make_directory(Path::new("/../../a/../b")).unwrap();
        assert!(root.join("b").is_dir());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        std::fs::remove_dir_all(outside).unwrap();
    }

    #[test]
    fn a_link_to_nowhere_is_an_error_and_not_a_place_to_make_things() {
        let outside = scratch("nowhere");
        symlink("/gone", outside.join("root/link")).unwrap();
        let directory = std::fs::File::open(outside.join("root")).unwrap();
        let result = Within::new(&directory).make_directory(Path::new("/link/x"));
        assert_eq!(result.unwrap_err(), Errno::EXIST);
        std::fs::remove_dir_all(outside).unwrap();
    }
}
