//! What a template was made from: who would make the same may use it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::vm::THIS_PROGRAM;

/// The slots of every template, in words: changed with what [`crate::vm::Vm::start`] plugs.
const LAYOUT: &str = "vsock, 2 disks, rng, fs, 4 nets";

/// Everything that a template depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Virtual CPUs.
    pub(crate) vcpus: u8,
    /// Guest memory.
    pub(crate) ram_bytes: u64,
    /// The slots.
    layout: String,
    /// This program, which is the VMM too.
    program: Version,
    kernel: Version,
    initramfs: Version,
    /// Since when the host has run: its processor, its clock and its KVM are what they were.
    host_boot: String,
}

/// One state of a file. Nobody reads a kernel at each start to see whether it is the same: who writes to
/// a file or puts another in its place changes one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Version {
    fn of(file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Self {
            device: about.dev(),
            inode: about.ino(),
            bytes: about.len(),
            modified_ns: ns(about.mtime(), about.mtime_nsec()),
            changed_ns: ns(about.ctime(), about.ctime_nsec()),
        })
    }
}

impl Key {
    /// That of a machine of this size, as it would be made now.
    pub(crate) fn new(platform: &Platform, vcpus: u8, ram_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            vcpus,
            ram_bytes,
            layout: LAYOUT.to_owned(),
            program: Version::of(&File::open(THIS_PROGRAM)?)?,
            kernel: Version::of(&platform.kernel)?,
            initramfs: Version::of(&platform.initramfs)?,
            host_boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        })
    }

    /// Short for it.
    pub(crate) fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// Whether `word` can be a template's name.
pub(crate) fn is_name(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(dir: &std::path::Path) -> Platform {
        let file = |name: &str| {
            let path = dir.join(name);
            File::options().read(true).append(true).create(true).open(path).unwrap()
        };
        Platform { kvm: file("kvm"), kernel: file("kernel"), initramfs: file("initramfs") }
    }

    #[test]
    fn whatever_a_machine_is_made_from_has_its_own_template() {
        let dir = tempfile::tempdir().unwrap();
        let key = |vcpus, ram| Key::new(&platform(dir.path()), vcpus, ram).unwrap();
        let first = key(1, 64 << 20);
        assert_eq!(first, key(1, 64 << 20), "nothing has changed");
        let mut names = vec![first.name(), key(2, 64 << 20).name(), key(1, 128 << 20).name()];
        fs::write(dir.path().join("kernel"), "a newer one").unwrap();
        names.push(key(1, 64 << 20).name());
        fs::rename(dir.path().join("kernel"), dir.path().join("initramfs")).unwrap();
        names.push(key(1, 64 << 20).name());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.iter().all(|name| is_name(name)), "{names:?}");
        assert!(!is_name("../../etc/passwd") && !is_name("0123456789abcde/"));
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new(&platform(dir.path()), 1, 64 << 20).unwrap();
        let json = serde_json::to_vec(&key).unwrap();
        assert_eq!(serde_json::from_slice::<Key>(&json).unwrap(), key);
    }
}
