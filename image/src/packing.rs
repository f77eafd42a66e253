//! How a layer, or a whole archive, is compressed: told by its first bytes, whatever it is called.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The plain bytes of something that may be compressed.
pub(crate) enum Unpacked<R> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<Zstd<R>>),
}

/// A compression that we do not undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compressed with {0}, use gzip, zstd or none")]
pub struct UnknownPacking(pub &'static str);

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// Of what begins with `start`.
    pub(crate) fn of(start: &[u8]) -> Self {
        let skippable = start.first().is_some_and(|byte| byte & 0xf0 == ZSTD_SKIPPABLE.0)
            && start[1..].starts_with(ZSTD_SKIPPABLE.1);
        if start.starts_with(GZIP) {
            Self::Gzip
        } else if start.starts_with(ZSTD) || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// What a compressed file begins with.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// A zstd file may begin with a frame that is none: sixteen numbers mean "skip me".
const ZSTD_SKIPPABLE: (u8, &[u8]) = (0x50, b"\x2a\x4d\x18");
const REFUSED: [(&[u8], UnknownPacking); 3] = [
    (b"BZh", UnknownPacking("bzip2")),
    (b"\xfd7zXZ\0", UnknownPacking("xz")),
    (b"\x04\x22\x4d\x18", UnknownPacking("lz4")),
];

impl<R: BufRead> Unpacked<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Result<Self, UnknownPacking>> {
        let start = source.fill_buf()?;
        if let Some(&(_, refused)) = REFUSED.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Ok(Err(refused));
        }
        Ok(Ok(match Packing::of(start) {
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Packing::Zstd => {
                Self::Zstd(Box::new(Zstd { source, frame: FrameDecoder::new(), in_frame: false }))
            }
            Packing::None => Self::Plain(source),
        }))
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(source) => source.read(buffer),
            Self::Zstd(source) => source.read(buffer),
        }
    }
}

/// All frames of a zstd stream, one behind the other.
pub(crate) struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Goes on to the next frame with data in it; `false` at the end of the stream.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped =
                        io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(malformed(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            if self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&mut self.source, one).map_err(malformed)?;
            }
            match self.frame.read(buffer)? {
                0 => self.in_frame = !self.frame.is_finished(),
                count => return Ok(count),
            }
        }
    }
}

fn malformed(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed zstd data: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Unpacked::new(bytes)?.unwrap().read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn members_one_behind_the_other_are_one_stream() {
        let long = vec![7; 300_000];
        for pack in [gzip, zstd] {
            let packed = [pack(b"one "), pack(&long), pack(b""), pack(b" two")].concat();
            assert_eq!(unpack(&packed).unwrap(), [b"one ", &long[..], b" two"].concat());
        }
    }

    #[test]
    fn a_zstd_frame_that_is_to_be_skipped_is() {
        let skip = b"\x5a\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let packed = [skip.clone(), zstd(b"data"), skip].concat();
        assert_eq!(unpack(&packed).unwrap(), b"data");
        assert!(unpack(b"\x5a\x2a\x4d\x18\x09\0\0\0abc").is_err());
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_and_not_a_shorter_layer() {
        for packed in [gzip(b"some bytes of a layer"), zstd(b"some bytes of a layer")] {
            for end in 4..packed.len() {
                assert!(unpack(&packed[..end]).is_err(), "{end} of {}", packed.len());
            }
        }
    }

    #[test]
    fn what_is_not_compressed_passes_and_what_we_cannot_undo_is_named() {
        assert_eq!(unpack(b"plain").unwrap(), b"plain");
        assert_eq!(unpack(b"").unwrap(), b"");
        let refused = Unpacked::new(&b"\xfd7zXZ\0rest"[..]).unwrap().err();
        assert_eq!(refused, Some(UnknownPacking("xz")));
    }
}
