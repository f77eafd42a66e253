//! OCI image → read-only disk.
//!
//! An archive goes in (an OCI layout, the same in a tar, or what `docker save` writes) or what a registry
//! gives, and one EROFS disk with the image's configuration comes out, kept in a [`Store`] under the
//! image's digest, beside the layers as they came. The crate ends at a file path: it does not know that a
//! VM will read the disk, and it starts nothing but programs that keep passwords.
//!
//! ```text
//!   archive, ──► blobs ──► layers, in order ──► one tree in memory ──► EROFS disk
//!   registry     (checked   (names, links and     (file data waits in    (one pass, same layers,
//!                by digest)  whiteouts resolved)   an unnamed file)       same bytes)
//! ```
//!
//! Archives and registries are hostile. Nothing of an image is ever unpacked into the host's file system, so there
//! is no path for `..` or a link to escape along; what an archive may cost is bounded by [`Limits`].
//!
//! Messages of the errors name a file, a field or a digest each, and leave what lies beneath to
//! [`source`](std::error::Error::source): whoever prints one prints the chain.

mod archive;
mod config;
mod digest;
pub mod entrances;
mod erofs;
mod files;
mod layer;
mod limits;
mod manifest;
mod merge;
mod pack;
mod packing;
mod platform;
mod reference;
mod registry;
mod spool;
mod store;
mod tarball;
#[cfg(test)]
mod testing;
mod tree;

pub use archive::ArchiveError;
pub use config::{Config, Past};
pub use digest::{BadDigest, Digest};
pub use erofs::WriteError;
pub use files::{TarFile, TarKind, TarReader, TarWriter};
pub use layer::LayerError;
pub use limits::{LimitError, Limits};
pub use merge::{MergeError, Why};
pub use pack::{PackError, pack_directory};
pub use packing::UnknownPacking;
pub use platform::{BadPlatform, Platform};
pub use reference::{BadReference, Reference};
pub use registry::{
    Access, CredentialError, Credentials, News, Patience, PullError, RegistryError, Watcher,
};
pub use spool::SpoolError;
pub use store::{
    ArchiveKind, CommitError, FindError, Image, Layer, LoadError, OpenStoreError, Pruned,
    RemoveError, Removed, SaveError, Step, Store, Unneeded,
};
pub use tarball::TarError;
