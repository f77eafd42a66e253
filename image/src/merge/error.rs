//! What is wrong with an entry.

use super::{MAX_LINKS, MAX_STEPS};
use crate::erofs::MAX_XATTRS_BYTES;
use crate::tree::{MAX_NAME_BYTES, MAX_PATH_BYTES};

/// Why an entry cannot be put in the tree.
#[derive(Debug, thiserror::Error)]
#[error("entry {entry} {why}")]
pub struct MergeError {
    /// Its name, quoted.
    pub entry: String,
    /// What about it.
    pub why: Why,
}

/// What about an entry is wrong, as the end of a sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Why {
    #[error("is an absolute path")]
    Absolute,
    #[error("has a .. in its path")]
    Climbs,
    #[error("has a zero byte in its name")]
    ZeroByte,
    #[error("has a name of over {MAX_NAME_BYTES} bytes in its path")]
    NameTooLong,
    #[error("has a path of over {MAX_PATH_BYTES} bytes")]
    PathTooLong,
    #[error("is the image's root and not a directory")]
    RootNotDirectory,
    #[error("is in {0}, which is no directory")]
    NotDirectory(String),
    #[error("leads through more than {MAX_LINKS} symbolic links or {MAX_STEPS} names")]
    TooFar,
    #[error("is a whiteout of nothing that can be")]
    Whiteout,
    #[error("is a hard link to {0}, which leaves the root")]
    LinkLeaves(String),
    #[error("is a hard link to {0}, which is not there")]
    LinkToNothing(String),
    #[error("is a hard link to {0}, which is a directory")]
    LinkToDirectory(String),
    #[error("is a symbolic link to nothing, or to a path of over {MAX_PATH_BYTES} bytes")]
    SymlinkTarget,
    #[error("is device {major}:{minor}, over the highest there is")]
    Device { major: u32, minor: u32 },
    #[error("has the extended attribute {0}, with a name or value that is too long")]
    Xattr(String),
    #[error("has over {MAX_XATTRS_BYTES} bytes of extended attributes")]
    Xattrs,
    #[error("is one more than the {0} that an image may have")]
    TooManyEntries(u32),
    #[error("is over the {0} bytes that an image's names and attributes may take")]
    TooMuchMetadata(u64),
}
