//! PAX records: `length key=value\n`, one behind the other, before the header they are about.

use super::sparse::SparseRecords;
use crate::tree::{Time, Xattrs};

/// What the records of one entry say, of what matters here. Later records win.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: SparseRecords,
}

impl Records {
    /// `None` if any record is malformed.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|&byte| byte == b' ')?;
            let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|&byte| byte == b'=')?;
            records.take(&record[..equals], &record[equals + 1..])?;
        }
        Some(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Some(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        // An empty value takes back what an earlier record said.
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link_path = text(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Some(())
    }
}

fn text(value: &[u8]) -> Option<Option<Vec<u8>>> {
    (!value.contains(&0)).then(|| (!value.is_empty()).then(|| value.to_vec()))
}

fn number(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() { Some(None) } else { decimal(value).map(Some) }
}

/// Digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// `[-]seconds[.fraction]`, the fraction cut to nanoseconds.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        // Nanoseconds count forwards from the second before.
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_what_a_header_cannot() {
        let records = Records::parse(
            b"11 path=ab\n20 mtime=12.5000001\n18 size=8589934592\n30 SCHILY.xattr.user.k=a=b\0\n\
              \n"
            .strip_suffix(b"\n")
            .unwrap(),
        );
        // The fourth record's length is wrong, so all are.
        assert_eq!(records, None);
        let records =
            Records::parse(b"11 path=ab\n20 mtime=12.5000001\n28 SCHILY.xattr.user.k=a=b\0\n")
                .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(records.mtime, Some(Time { seconds: 12, nanoseconds: 500_000_100 }));
        assert_eq!(records.xattrs[&b"user.k"[..]], b"a=b\0");
    }

    #[test]
    fn a_time_before_1970_counts_forwards_from_the_second_before() {
        assert_eq!(time(b"-1.25"), Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"-1"), Some(Time { seconds: -1, nanoseconds: 0 }));
        assert_eq!(time(b"1.1234567899"), Some(Time { seconds: 1, nanoseconds: 123_456_789 }));
        for bad in [&b""[..], b"-", b"1.x", b"+1", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn records_that_overlap_or_end_early_are_refused() {
        for bad in
            [&b"5 a=b"[..], b"6 a=b", b"99 a=b\n", b"0 a=b\n", b"4 ab\n", b"-6 a=b\n", b"3 \n"]
        {
            assert_eq!(Records::parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
