//! `--storage`: where what a container writes to its root goes.

use crate::storage::ext4;

use super::PlanError;
use super::values::size;

/// The least that an overlay's upper layer in memory can do with: its own directories.
const MIN_MEMORY_BYTES: u64 = 64 << 10;

/// What is written over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    /// In the guest's memory, gone with the VM.
    Memory {
        /// The most it may be.
        bytes: u64,
    },
    /// On a disk, which stays as long as the container does.
    Disk(Storage),
}

/// A container's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its size, a whole number of the file system's blocks.
    pub(crate) bytes: u64,
}

/// What `--storage` says; without it half of the guest's memory, as `tmpfs` has it.
pub(super) fn upper(word: Option<&str>, ram_bytes: u64) -> Result<Upper, PlanError> {
    let Some(word) = word else { return Ok(Upper::Memory { bytes: ram_bytes / 2 }) };
    let bad = |what: String| PlanError::Storage { word: word.to_owned(), what };
    let (mut in_memory, mut bytes) = (false, None);
    for pair in word.split(',') {
        let value = |bytes: Option<u64>, value| match (bytes, size(value)) {
            (None, Some(bytes)) => Ok(Some(bytes)),
            (None, None) => Err(bad(format!("{value:?} is not a size like 512m or 10g"))),
            (Some(_), _) => Err(bad(format!("{pair:?} is said a second time"))),
        };
        match pair.split_once('=') {
            Some(("type", "memory")) => in_memory = true,
            Some(("type", "disk")) => in_memory = false,
            Some(("size", word)) => bytes = value(bytes, word)?,
            _ => return Err(bad(format!("{pair:?} is none of {KEYS}"))),
        }
    }
    let bytes = bytes.ok_or_else(|| bad("it has no size=".to_owned()))?;
    let least = if in_memory { MIN_MEMORY_BYTES } else { ext4::MIN_BYTES };
    let most = if in_memory { ram_bytes } else { ext4::MAX_BYTES };
    if !(least..=most).contains(&bytes) {
        return Err(bad(format!("{bytes} bytes are not from {least} to {most}")));
    }
    if in_memory {
        return Ok(Upper::Memory { bytes });
    }
    Ok(Upper::Disk(Storage { bytes: bytes / BLOCK * BLOCK }))
}

const BLOCK: u64 = 4096;

const KEYS: &str = "type=disk, type=memory, size=SIZE";
