//! How fast a device may be.

use serde::{Deserialize, Serialize};

/// Limits of a disk, for reads and writes together, or of a card in one direction. None at all by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes read and written, or of frames.
    #[serde(default)]
    pub bytes: Option<Rate>,
    /// Requests of any kind, or frames: one that is yet to be cut into segments is one.
    #[serde(default)]
    pub requests: Option<Rate>,
}

impl Limits {
    /// Whether they let nothing through.
    pub(super) fn are_shut(&self) -> bool {
        let mut rates = [self.bytes, self.requests].into_iter().flatten();
        rates.any(|rate| rate.per_second == 0 || rate.burst == 0)
    }
}

/// So much in a second, and for a moment more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In the long run, at least 1.
    pub per_second: u64,
    /// At once, after a time in which less was asked for; at least 1.
    pub burst: u64,
}
