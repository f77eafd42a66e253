//! SHA-256 digests, as OCI writes them: `sha256:` and 64 small hexadecimal digits.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// The SHA-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a word is no [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not sha256: and 64 digits from 0 to 9 and a to f")]
pub struct BadDigest(pub String);

impl Digest {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 digits alone, as they name files.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the 64 digits alone.
    pub fn from_hex(hex: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(hex.to_owned());
        let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 64 || !hex.as_bytes().iter().all(lower) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The digest of bytes that come one after the other.
///
/// It is `ring`'s, which TLS brings in any case: a processor without instructions for SHA-256 has vector code there
/// (docs/adr/0008).
#[derive(Clone)]
pub(crate) struct Hasher(Context);

impl Hasher {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        // SHA-256 is as long as that.
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest(bytes)
    }
}

/// A reader that knows the digest of what went through it.
pub(crate) struct Hashed<R> {
    pub(crate) source: R,
    hasher: Hasher,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, hasher: Hasher::new() }
    }

    pub(crate) fn digest(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(word: &str) -> Result<Self, BadDigest> {
        let hex = word.strip_prefix("sha256:").ok_or_else(|| BadDigest(word.to_owned()))?;
        Self::from_hex(hex).map_err(|_| BadDigest(word.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one_and_reads_back() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn a_digest_that_could_name_another_file_is_refused() {
        for word in [
            "sha256:../../../etc/passwd",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &EMPTY.replace("sha256", "md5"),
            &EMPTY.replace("e3b0", "+3b0"),
            "",
        ] {
            assert_eq!(word.parse::<Digest>(), Err(BadDigest(word.to_owned())));
        }
    }
}
