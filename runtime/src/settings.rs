//! Where things are on this machine.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the global options say, with everything that was left out filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The directory of running containers' state.
    pub(crate) root: PathBuf,
    /// The directory of images.
    pub(crate) store: PathBuf,
    /// The guest kernel, if one was named.
    pub(crate) kernel: Option<PathBuf>,
    /// The initramfs, if one was named.
    pub(crate) initramfs: Option<PathBuf>,
    /// Show the guest's serial port.
    pub(crate) debug: bool,
    /// Where to write the timeline.
    pub(crate) timeline: Option<PathBuf>,
    /// systemd makes the cgroups of containers.
    pub(crate) systemd_cgroup: bool,
    /// VMs boot, each by itself.
    pub(crate) no_template: bool,
}

/// Where state is kept when nobody says: a directory that is empty after a reboot.
pub(crate) fn usual_root() -> PathBuf {
    own_directory("XDG_RUNTIME_DIR", "/run/microvm")
}

/// Where images are kept when nobody says.
pub(crate) fn usual_store() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    match std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home) {
        Some(data) if !rustix::process::geteuid().is_root() => data.join("microvm"),
        _ => PathBuf::from("/var/lib/microvm"),
    }
}

fn own_directory(variable: &str, of_root: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(own) if !rustix::process::geteuid().is_root() => PathBuf::from(own).join("microvm"),
        _ => PathBuf::from(of_root),
    }
}

/// A file that a guest boots from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootFile {
    /// The kernel.
    Kernel,
    /// The initramfs with the agent in it.
    Initramfs,
}

/// Why there is no such file to boot from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootFileError {
    /// It is in none of the places.
    #[error(
        "no {} for guests: not beside this program, not in {}; name one with --{} or {}",
        file.name(), PLACES.join(" or "), file.option(), file.variable()
    )]
    Nowhere {
        /// Which.
        file: BootFile,
    },
    /// It cannot be read.
    #[error("{} {}", file.option(), path.display())]
    Io {
        /// Which.
        file: BootFile,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} {} is not {}", file.option(), path.display(), file.kind())]
    WrongKind {
        /// Which.
        file: BootFile,
        /// Where it is.
        path: PathBuf,
    },
}

/// Where packages put the files.
const PLACES: [&str; 2] = ["/usr/local/lib/microvm", "/usr/lib/microvm"];

impl BootFile {
    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinux",
            Self::Initramfs => "initramfs.cpio",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Kernel => "MICROVM_KERNEL",
            Self::Initramfs => "MICROVM_INITRAMFS",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Kernel => "an uncompressed 64-bit ELF kernel (vmlinux)",
            Self::Initramfs => "a cpio archive",
        }
    }

    /// How such a file begins: ELF, 64 bits, little endian; cpio's `newc`.
    fn magic(self) -> &'static [u8] {
        match self {
            Self::Kernel => b"\x7fELF\x02\x01",
            Self::Initramfs => b"070701",
        }
    }

    /// The file, checked for being what it should, and where it was found.
    pub(crate) fn open(self, settings: &Settings) -> Result<(File, PathBuf), BootFileError> {
        let path = self.find(settings)?;
        let io = |source| BootFileError::Io { file: self, path: path.clone(), source };
        let mut file = File::open(&path).map_err(io)?;
        let mut begin = Vec::new();
        (&mut file).take(self.magic().len() as u64).read_to_end(&mut begin).map_err(io)?;
        if begin != self.magic() {
            return Err(BootFileError::WrongKind { file: self, path });
        }
        file.rewind().map_err(io)?;
        Ok((file, path))
    }

    fn find(self, settings: &Settings) -> Result<PathBuf, BootFileError> {
        let named = match self {
            Self::Kernel => &settings.kernel,
            Self::Initramfs => &settings.initramfs,
        };
        if let Some(path) = named {
            return Ok(path.clone());
        }
        let here = std::env::current_exe().ok();
        let beside = here.as_deref().and_then(Path::parent);
        let places = beside.into_iter().chain(PLACES.iter().map(Path::new));
        let found = places.map(|place| place.join(self.name())).find(|path| path.exists());
        found.ok_or(BootFileError::Nowhere { file: self })
    }
}

/// The network that the environment names, for those who say none.
pub(crate) fn network_of_environment() -> Option<String> {
    std::env::var("MICROVM_NETWORK").ok().filter(|name| !name.is_empty())
}

/// What the environment names, for options that were not given.
pub(crate) fn named_by_environment(file: BootFile) -> Option<PathBuf> {
    std::env::var_os(file.variable()).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kernel: &Path) -> Settings {
        Settings {
            root: PathBuf::new(),
            store: PathBuf::new(),
            kernel: Some(kernel.to_owned()),
            initramfs: None,
            debug: false,
            timeline: None,
            systemd_cgroup: false,
            no_template: false,
        }
    }

    #[test]
    fn a_kernel_that_is_text_or_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel.txt");
        let open = || BootFile::Kernel.open(&settings(&kernel));
        assert!(matches!(open(), Err(BootFileError::Io { .. })));
        for content in ["", "a poem", "\x7fELF\x01\x01 of 32 bits"] {
            std::fs::write(&kernel, content).unwrap();
            let said = open().unwrap_err().to_string();
            assert!(said.contains("kernel.txt is not an uncompressed 64-bit ELF"), "{said}");
        }
        std::fs::write(&kernel, b"\x7fELF\x02\x01\x01").unwrap();
        let (mut file, _) = open().unwrap();
        assert_eq!(file.stream_position().unwrap(), 0);
    }
}
