//! What an image says about running it.

use std::collections::BTreeMap;

/// An image's defaults, for whoever runs it to honour or replace. Strings are the image's own and
/// unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The program and its first arguments; may be empty.
    pub entrypoint: Vec<String>,
    /// The arguments behind `entrypoint`, or the whole command if that is empty.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, by the image's own files.
    pub user: Option<String>,
    /// The directory to start in.
    pub working_dir: Option<String>,
    /// The signal that asks it to end, `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// Words about the image.
    pub labels: BTreeMap<String, String>,
}
