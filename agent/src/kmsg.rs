//! Words for the kernel log, which is all a guest's console shows.

use std::fs::OpenOptions;
use std::io::Write;

/// How much a message matters to the kernel, which shows the grave ones only.
#[derive(Clone, Copy, Debug)]
pub enum Weight {
    /// The guest is about to end.
    Critical = 2,
    /// Something went wrong for somebody.
    Warning = 4,
}

/// Adds a line to the kernel log. Where there is none, nobody could be told that either.
pub fn say(weight: Weight, text: &str) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("<{}>agent: {text}\n", weight as u8).as_bytes());
    }
}
