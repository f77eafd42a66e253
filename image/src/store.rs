//! Where images are kept.
//!
//! ```text
//!   version                            "1", the layout of everything else
//!   lock                               held by whoever changes something
//!   names.json                         canonical reference → image id
//!   images/sha256/<id>/config.json     the image's configuration, whose digest is the id
//!   images/sha256/<id>/disk.erofs      its layers, merged
//!   tmp/                               what is being made; swept when nobody holds the lock
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::{BadReference, Config, Digest, Limits};

/// A directory of images. Any number of processes may have it open.
#[derive(Debug)]
pub struct Store {
    #[expect(dead_code)]
    root: PathBuf,
    limits: Limits,
}

/// One image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its names, as people write them (`demo:latest`); empty if newer images took them.
    pub names: Vec<String>,
    /// The digest of its configuration, which is what docker calls the image's id.
    pub id: Digest,
    /// The read-only EROFS disk, a whole number of 4096-byte blocks. It is gone for good once it was
    /// removed from the store, so open it once; a descriptor stays good.
    pub disk: PathBuf,
    /// The disk's length.
    pub disk_bytes: u64,
    /// When it was built, in the words (RFC 3339) of its configuration.
    pub created: Option<String>,
    /// How it wants to be run.
    pub config: Config,
}

/// What [`Store::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone.
    pub names: Vec<String>,
    /// The image, if its last name is gone and it went with it.
    pub image: Option<Digest>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// It was made by a newer microvm.
    #[error("store {path} has layout version {version:?}, this program knows version 1")]
    Version {
        /// The store.
        path: PathBuf,
        /// What its `version` file says.
        version: String,
    },
    /// The file system refused.
    #[error("store file {path}")]
    Io {
        /// What could not be opened or made.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why an archive cannot be loaded. Nothing of it is left in the store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The name to give it is none.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why an image is not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The words are no name and no digest.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// There is none.
    #[error("no image {reference} in the store")]
    Unknown {
        /// What was asked for.
        reference: String,
    },
    /// More than one id begins so.
    #[error("more than one image id begins with {prefix}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
    },
    /// The store's own files are not as they were written.
    #[error("{path}: {why}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why an image cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is not there to be removed.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// What could not be changed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Store {
    /// Opens the store at `path`, made first if there is none, and sweeps what a killed process left
    /// in it.
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        Ok(Self { root: path.to_owned(), limits: Limits::default() })
    }

    /// The same store, with these bounds on what it takes in.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Takes in every image of `archive` that is for this machine: an OCI layout directory, an OCI
    /// archive or a `docker save` archive. Their names are those the archive gives them, or `name`,
    /// if it holds exactly one. Those names are taken from the images that had them.
    pub fn load(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, LoadError> {
        todo!("load {archive:?} as {name:?} within {:?}", self.limits)
    }

    /// Every image, in the order of their ids.
    pub fn images(&self) -> Result<Vec<Image>, FindError> {
        todo!()
    }

    /// The image that `reference` names: a name (`demo`, `demo:latest`, `localhost:5000/demo:1`), or an
    /// id or its beginning, with or without `sha256:`. Where both fit, the name counts.
    pub fn find(&self, reference: &str) -> Result<Image, FindError> {
        todo!("find {reference}")
    }

    /// Takes a name away, and the image with its last name; an id takes all names and the image. Who
    /// has the disk open keeps it.
    pub fn remove(&self, reference: &str) -> Result<Removed, RemoveError> {
        todo!("remove {reference}")
    }

    /// A disk of everything in `directory`, in an unnamed file of the store that is gone when it is
    /// closed. Other file systems mounted in there are left out.
    pub fn pack_directory(&self, directory: &Path) -> Result<File, PackError> {
        todo!("pack {directory:?}")
    }
}

/// Writes a disk of everything in `directory` to `disk`, an empty file. File data waits in an unnamed
/// file in the directory `scratch` meanwhile. Returns the disk's length in bytes.
pub fn pack_directory(
    directory: &Path,
    disk: &File,
    scratch: &Path,
    limits: &Limits,
) -> Result<u64, PackError> {
    todo!("pack {directory:?} to {disk:?} by {scratch:?} within {limits:?}")
}
