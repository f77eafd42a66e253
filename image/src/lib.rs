//! OCI image → read-only disk.
//!
//! An archive goes in (an OCI layout, the same in a tar, or what `docker save` writes), and one EROFS
//! disk with the image's configuration comes out, kept in a [`Store`] under the image's digest. The
//! crate ends at a file path: it does not know that a VM will read the disk, and it starts nothing.
//!
//! ```text
//!   archive ──► layers, in order ──► one tree in memory ──► EROFS disk
//!   (checked     (names, links and     (file data waits in    (one pass, same layers,
//!    by digest)   whiteouts resolved)   an unnamed file)       same bytes)
//! ```
//!
//! Archives are hostile. Nothing of an image is ever unpacked into the host's file system, so there
//! is no path for `..` or a link to escape along; what an archive may cost is bounded by [`Limits`].
//!
//! Messages of the errors name a file, a field or a digest each, and leave what lies beneath to
//! [`source`](std::error::Error::source): whoever prints one prints the chain.

mod config;
mod digest;
mod limits;
mod reference;
mod store;

pub use config::Config;
pub use digest::{BadDigest, Digest};
pub use limits::Limits;
pub use reference::{BadReference, Reference};
pub use store::{
    FindError, Image, LoadError, OpenStoreError, PackError, RemoveError, Removed, Store,
    pack_directory,
};
