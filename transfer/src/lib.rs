//! Trees of files to a stream of bytes, and back.
//!
//! Both sides of a VM do both: the agent in a container's files, the host in its own. Neither believes the
//! other. What [`Receiver`] gives out was judged, and [`Put`] opens every directory on the way from the one
//! before it and follows no link, so that whatever a stream says stays in the directory it was meant for.
//!
//! ```text
//!   directory ──walk──► Sender ══ bytes (proto::files) ══ Receiver ──put──► directory
//! ```
//!
//! This crate has never heard of VMs, containers or tar archives.

mod put;
mod walk;
mod wire;

pub use put::{Put, PutError, Rules};
pub use walk::{Layer, WalkError, walk};
pub use wire::{MOST_ENTRIES, ReceiveError, Receiver, SendError, Sender};

use rustix::io::Errno;

/// How deep directories may be in one another. Each costs a descriptor or two.
const MOST_DEEP: usize = 256;

/// Bytes of a file that are on their way at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The errno in words, to stand behind a colon.
fn words(errno: Errno) -> String {
    let mut text = std::io::Error::from(errno).to_string();
    if let Some(number) = text.find(" (os error") {
        text.truncate(number);
    }
    text.to_lowercase()
}

#[cfg(test)]
mod tests;
