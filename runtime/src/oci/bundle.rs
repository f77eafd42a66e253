//! A bundle: a directory with a `config.json`, which somebody wrote whom nobody knows.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;

/// The longest `config.json` worth reading: seccomp profiles are long, and a frame to the guest holds
/// a megabyte.
const MAX_BYTES: u64 = 4 << 20;

/// A bundle that was read, not yet judged.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its directory, absolute.
    pub(crate) path: PathBuf,
    /// Its `config.json`.
    pub(crate) spec: Spec,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// It is not there, or is no directory.
    #[error("bundle {}", path.display())]
    Directory {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has more in it than any that was meant.
    #[error("{} is longer than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// A file is no JSON of that kind.
    #[error("{}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl Bundle {
    /// Reads the bundle in `directory`.
    pub(crate) fn read(directory: &Path) -> Result<Self, BundleError> {
        let path = directory
            .canonicalize()
            .map_err(|source| BundleError::Directory { path: directory.to_owned(), source })?;
        let spec = read(&path.join("config.json"))?;
        Ok(Self { path, spec })
    }
}

/// Reads the process of `exec --process`.
pub(crate) fn process(path: &Path) -> Result<Process, BundleError> {
    read(path)
}

/// Reads JSON of a bounded length.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let file = |source| BundleError::File { path: path.to_owned(), source };
    let mut json = Vec::new();
    File::open(path).map_err(file)?.take(MAX_BYTES + 1).read_to_end(&mut json).map_err(file)?;
    if json.len() as u64 > MAX_BYTES {
        return Err(BundleError::TooLong { path: path.to_owned() });
    }
    serde_json::from_slice(&json)
        .map_err(|source| BundleError::Malformed { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| Bundle::read(path).unwrap_err().to_string();
        assert!(said(&dir.path().join("nope")).starts_with("bundle /"));
        assert!(said(dir.path()).ends_with("/config.json"));
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(matches!(Bundle::read(dir.path()), Err(BundleError::Malformed { .. })));
        std::fs::write(dir.path().join("config.json"), " ".repeat(5 << 20)).unwrap();
        assert!(said(dir.path()).contains("is longer than"));
    }
}
