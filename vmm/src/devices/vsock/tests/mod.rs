//! Streams with a host of the test's own, and with real sockets.

mod streams;
mod whole;

use super::packet::HEADER_BYTES;

/// A header with its two addresses exchanged: what one side would send is what the other would.
fn turned(mut header: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    header[..16].rotate_left(8);
    header[16..24].rotate_left(4);
    header
}
