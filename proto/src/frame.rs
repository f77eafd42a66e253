//! Frames: how one value stands in a byte stream.
//!
//! ```text
//!   0        4                    4 + length
//!   +--------+--------------------+
//!   | length | JSON, UTF-8        |     length: u32, little endian, of the JSON alone
//!   +--------+--------------------+
//! ```
//!
//! JSON because the largest thing said is an OCI process, which is JSON already, and because a
//! restored guest may carry an older agent: unknown fields are skipped, new ones have defaults.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the length that stands before each frame.
pub const PREFIX_BYTES: usize = 4;

/// The longest frame either side takes. A guest that announces more is lying or broken; the bound
/// keeps it from choosing how much memory the host sets aside.
pub const MAX_BYTES: usize = 1 << 20;

/// Why bytes are not a frame, or a value does not fit in one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced or encoded length is over [`MAX_BYTES`].
    #[error("frame of {bytes} bytes, over the limit of {MAX_BYTES}")]
    TooLong {
        /// The length in question.
        bytes: usize,
    },
    /// The bytes are no JSON, or JSON that means nothing here.
    #[error("frame is not what was expected: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// One whole frame, prefix included, ready to be written.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - PREFIX_BYTES;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_BYTES => {
            bytes[..PREFIX_BYTES].copy_from_slice(&prefix.to_le_bytes())
        }
        _ => return Err(FrameError::TooLong { bytes: length }),
    }
    Ok(bytes)
}

/// The length of the JSON behind `prefix`, once it was judged.
pub fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    match usize::try_from(u32::from_le_bytes(prefix)) {
        Ok(bytes) if bytes <= MAX_BYTES => Ok(bytes),
        Ok(bytes) => Err(FrameError::TooLong { bytes }),
        Err(_) => Err(FrameError::TooLong { bytes: usize::MAX }),
    }
}

/// The value in the JSON of one frame (without its prefix).
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(json)?)
}

/// Collects bytes as they arrive, in pieces of any size, and gives frames back whole.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds what was just read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame's value, `None` until more bytes arrive. After an error the stream has
    /// no meaning any more: close it.
    #[expect(clippy::should_implement_trait, reason = "it gives values of any type and can fail")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(prefix) = self.pending.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let end = PREFIX_BYTES + length(*prefix)?;
        if self.pending.len() < end {
            return Ok(None);
        }
        let value = decode(&self.pending[PREFIX_BYTES..end])?;
        self.pending.drain(..end);
        Ok(Some(value))
    }

    /// What was pushed and belongs to no frame yet: the bytes behind the last one.
    pub fn into_rest(self) -> Vec<u8> {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_arrives_whole_from_single_bytes() {
        let bytes = encode(&"hi").unwrap();
        assert_eq!(bytes, b"\x04\0\0\0\"hi\"");
        let mut decoder = Decoder::default();
        for &byte in &bytes[..7] {
            decoder.push(&[byte]);
            assert_eq!(decoder.next::<String>().unwrap(), None);
        }
        decoder.push(b"\"rest");
        assert_eq!(decoder.next::<String>().unwrap().as_deref(), Some("hi"));
        assert_eq!(decoder.into_rest(), b"rest");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_any_byte_of_it() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 4]);
        assert!(matches!(decoder.next::<String>(), Err(FrameError::TooLong { .. })));
    }
}
