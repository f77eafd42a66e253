//! Writing an archive that everybody reads: ustar headers, and PAX records for what does not fit in them.

use std::io::{self, Write};

use super::{BLOCK_BYTES, Body, Entry};

/// An archive on its way out.
pub(crate) struct Writer<W> {
    sink: W,
    /// What is to follow of the current file.
    left: u64,
    padding: usize,
}

/// The most an octal field of seven and of eleven digits holds.
const MOST_ID: u32 = 0o777_7777;
const MOST_NUMBER: u64 = 0o777_7777_7777;

impl<W: Write> Writer<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self { sink, left: 0, padding: 0 }
    }

    /// Begins an entry with so many bytes of data.
    pub(crate) fn begin(&mut self, entry: &Entry, bytes: u64) -> io::Result<()> {
        self.close()?;
        let mut header = tar::Header::new_ustar();
        let (kind, link, device) = match &entry.body {
            Body::File { .. } => (b'0', None, None),
            Body::HardLink(to) => (b'1', Some(to), None),
            Body::Symlink(to) => (b'2', Some(to), None),
            Body::Character(device) => (b'3', None, Some(device)),
            Body::Block(device) => (b'4', None, Some(device)),
            Body::Directory => (b'5', None, None),
            Body::Fifo => (b'6', None, None),
        };
        let mut records = Vec::new();
        if !fits(&mut header.as_old_mut().name, &entry.name) {
            record(&mut records, b"path", &entry.name);
        }
        if let Some(link) = link
            && !fits(&mut header.as_old_mut().linkname, link)
        {
            record(&mut records, b"linkpath", link);
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > MOST_ID {
                record(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if bytes > MOST_NUMBER {
            record(&mut records, b"size", bytes.to_string().as_bytes());
        }
        let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|it| *it <= MOST_NUMBER);
        if seconds.is_none() {
            record(&mut records, b"mtime", entry.mtime.seconds.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(entry.mode.into());
        header.set_uid(entry.uid.min(MOST_ID).into());
        header.set_gid(entry.gid.min(MOST_ID).into());
        header.set_mtime(seconds.unwrap_or_default());
        header.set_size(bytes.min(MOST_NUMBER));
        if let Some(device) = device {
            header.set_device_major(device.major)?;
            header.set_device_minor(device.minor)?;
        }
        header.set_cksum();
        if !records.is_empty() {
            self.extension(&records)?;
        }
        self.sink.write_all(header.as_bytes())?;
        self.expect(bytes);
        Ok(())
    }

    /// Some of the entry's data.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("a file is longer than was said"))?;
        self.sink.write_all(bytes)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.close()?;
        self.sink.write_all(&[0; 2 * BLOCK_BYTES as usize])?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn extension(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_path("PaxHeaders/0")?;
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.expect(records.len() as u64);
        self.data(records)?;
        self.close()
    }

    fn expect(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = (bytes.wrapping_neg() % BLOCK_BYTES) as usize;
    }

    fn close(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a file is shorter than was said"));
        }
        self.sink.write_all(&[0; BLOCK_BYTES as usize][..std::mem::take(&mut self.padding)])
    }
}

/// Writes `word` into a field of a header, as much of it as there is room for. Whether that was all.
fn fits(field: &mut [u8], word: &[u8]) -> bool {
    let count = word.len().min(field.len());
    field[..count].copy_from_slice(&word[..count]);
    count == word.len()
}

/// `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.extend([b" ", key, b"=", value, b"\n"].concat());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::Entries;
    use crate::tree::{Device, Time, Xattrs};

    fn entry(name: &[u8], body: Body) -> Entry {
        let mtime = Time { seconds: 1_000_000_000, nanoseconds: 0 };
        let name = name.to_vec();
        Entry { name, body, mode: 0o4755, uid: 1, gid: 2, mtime, xattrs: Xattrs::new() }
    }

    #[test]
    fn what_is_written_is_read_again_however_long_or_odd_it_is() {
        let long = [b"d/".repeat(200), b"\xff name".to_vec()].concat();
        let device = Device { major: 1, minor: 3 };
        let mut odd = entry(&long, Body::Symlink(long.clone()));
        (odd.uid, odd.gid, odd.mtime.seconds) = (u32::MAX, 1 << 22, -5);
        odd.xattrs.insert(b"user.x".to_vec(), b"a\0=\n\xff".to_vec());
        for length in 80..110 {
            // Where the number of digits of a record's length changes.
            odd.xattrs.insert(format!("user.{length}").into_bytes(), vec![b'x'; length]);
        }
        let wanted = [
            entry(b"dir", Body::Directory),
            entry(&[b'n'; 100], Body::HardLink(b"dir/x".to_vec())),
            odd,
            entry(b"c", Body::Character(device)),
            entry(b"b", Body::Block(device)),
            entry(b"p", Body::Fifo),
        ];
        let mut writer = Writer::new(Vec::new());
        let file = entry(b"dir/file", Body::File { bytes: 700, pieces: Vec::new() });
        writer.begin(&file, 700).unwrap();
        writer.data(&[7; 700]).unwrap();
        wanted.iter().for_each(|entry| writer.begin(entry, 0).unwrap());
        let archive = writer.finish().unwrap();
        let mut entries = Entries::new(&archive[..]);
        let first = entries.next().unwrap().unwrap();
        assert!(matches!(first.body, Body::File { bytes: 700, .. }) && first.name == file.name);
        for entry in wanted {
            assert_eq!(entries.next().unwrap(), Some(entry));
        }
        assert_eq!(entries.next().unwrap(), None);
    }

    #[test]
    fn a_file_of_another_length_than_was_said_is_an_error() {
        let file = entry(b"f", Body::File { bytes: 3, pieces: Vec::new() });
        let mut writer = Writer::new(Vec::new());
        writer.begin(&file, 3).unwrap();
        assert!(writer.data(b"long").is_err());
        writer.data(b"a").unwrap();
        assert!(writer.begin(&file, 3).is_err());
        assert!(writer.finish().is_err());
    }
}
