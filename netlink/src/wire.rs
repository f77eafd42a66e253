//! Messages and attributes as bytes (netlink(7), "struct nlmsghdr").
//!
//! ```text
//!   length u32 · type u16 · flags u16 · sequence u32 · port u32 · family's header · attributes
//!   attribute: length u16 · type u16 · bytes · padding to 4
//! ```

/// `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// Where an attribute's type has its bits, without what says that it is nested or big-endian.
const TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// A message that is being written.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Begins one of this type and with these flags with the header of its family.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        pad(&mut bytes);
        Self(bytes)
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, bytes: &[u8]) -> Self {
        // An attribute of ours is a few hundred bytes at most.
        let length = u16::try_from(4 + bytes.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(bytes);
        pad(&mut self.0);
        self
    }

    pub(crate) fn with_number(self, kind: u16, number: u32) -> Self {
        self.with(kind, &number.to_ne_bytes())
    }

    /// Adds a name, which ends with a zero.
    pub(crate) fn with_name(self, kind: u16, name: &str) -> Self {
        self.with(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute of attributes.
    pub(crate) fn with_nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.0.len() - start).unwrap_or(u16::MAX);
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Adds an attribute, if there is one.
    pub(crate) fn with_some<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }

    /// The whole message.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// The messages in what came at once; what is cut off is left out.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Read<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let sequence = number(message, 8)?;
        Some(Read { kind: half(4), flags: half(6), sequence, body: &message[HEADER..] })
    })
}

/// The attributes behind a family's header of `header` bytes, by type.
pub(crate) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(header.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & TYPE, value))
    })
}

/// The number at `at`, if it is there.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A name without the zero at its end.
pub(crate) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let first = Message::new(7, 5, &[1, 2, 3])
            .with(1, &[9])
            .with_name(2, "lo")
            .with_nested(3, |inner| inner.with_number(4, 70_000));
        let second = Message::new(8, 0, &[]);
        let bytes = [first.finish(11), second.finish(12)].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (7, 5, 11));
        let all: Vec<_> = attributes(read[0].body, 3).collect();
        assert_eq!(all[..2], [(1, &[9][..]), (2, b"lo\0")]);
        assert_eq!((name(all[1].1).as_str(), all[2].0), ("lo", 3));
        let inner: Vec<_> = attributes(all[2].1, 0).collect();
        assert_eq!(inner, [(4, &70_000u32.to_ne_bytes()[..])]);
        assert_eq!((read[1].kind, read[1].body), (8, &[][..]));
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = Message::new(7, 0, &[0; 4]).with(1, &[1; 5]).finish(1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).next(), None, "of {length} bytes");
        }
        let body = &whole[HEADER..];
        assert_eq!(attributes(&body[..body.len() - 4], 4).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 0], 0).count(), 0, "shorter than its own head");
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}
