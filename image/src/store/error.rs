//! What can go wrong with a store, wish by wish.

use std::io;
use std::path::PathBuf;

use crate::{ArchiveError, BadReference, LayerError, WriteError};

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
    /// There is something else.
    #[error("directory {path} is not empty and is no store")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
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
    /// One name for several images.
    #[error("archive {path} holds {images} images, which cannot all be {name}")]
    SeveralImages {
        /// The archive.
        path: PathBuf,
        /// How many there are.
        images: usize,
        /// What they were to be called.
        name: String,
    },
    /// It is no image archive, or not what it says it is.
    #[error("archive {path}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: ArchiveError,
    },
    /// One of its layers is not what it should be.
    #[error("archive {path}: layer {layer}")]
    Layer {
        /// The archive.
        path: PathBuf,
        /// The layer's digest, or its name in the archive.
        layer: String,
        /// What is wrong.
        source: LayerError,
    },
    /// The disk cannot be written.
    #[error("disk {path}")]
    Write {
        /// Where it was made.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// The store's own files are not as they were written.
    #[error(transparent)]
    Store(#[from] FindError),
    /// The file system refused.
    #[error("store file {path}")]
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
    #[error("store file {path}: {why}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file system refused.
    #[error("store file {path}")]
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
    #[error("store file {path}")]
    Io {
        /// What could not be changed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
