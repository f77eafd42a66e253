//! A detached container's output, kept as Kubernetes' container runtimes keep it.
//!
//! One record per line: `<RFC 3339 time> <stdout|stderr> <F|P> <bytes>`. `F` is a line that ended
//! with a newline, `P` a piece of one; so the exact bytes can be given back. Both streams write to
//! the same file, each record with one append, so records never mix.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::SystemTime;

/// The longest piece of a line in one record: longer lines are cut, so that reading a log takes
/// bounded memory whatever a container writes.
const MAX_PIECE: usize = 16 << 10;

/// Where the reader stops believing in a record: a piece, its time, its stream and its mark.
const MAX_RECORD: usize = MAX_PIECE + 128;

/// Which stream a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns what is written to it into records of a log opened for appending.
pub(crate) struct LogWriter {
    log: File,
    channel: Channel,
}

impl LogWriter {
    /// Records of `channel` in `log`.
    pub(crate) fn new(log: File, channel: Channel) -> Self {
        Self { log, channel }
    }

    fn record(
        &self,
        to: &mut Vec<u8>,
        time: &impl Display,
        mark: char,
        bytes: &[u8],
    ) -> io::Result<()> {
        write!(to, "{time} {} {mark} ", self.channel.name())?;
        to.extend_from_slice(bytes);
        to.push(b'\n');
        Ok(())
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let time = humantime::format_rfc3339_nanos(SystemTime::now());
        let mut records = Vec::with_capacity(bytes.len() + 64);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (line, ends) = match line.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (line, false),
            };
            let cut = line.len().saturating_sub(1) / MAX_PIECE * MAX_PIECE;
            for piece in line[..cut].chunks(MAX_PIECE) {
                self.record(&mut records, &time, 'P', piece)?;
            }
            self.record(&mut records, &time, if ends { 'F' } else { 'P' }, &line[cut..])?;
        }
        self.log.write_all(&records)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a log cannot be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The file cannot be read, or the output cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record is not one.
    #[error("record {number} is not one of a container log")]
    NotARecord {
        /// Which, counted from 1.
        number: usize,
    },
}

/// Gives the bytes of `log` back, each stream to its own.
pub(crate) fn replay(
    log: impl Read,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), LogError> {
    let mut reader = BufReader::new(log);
    let mut record = Vec::new();
    for number in 1.. {
        record.clear();
        if reader.by_ref().take(MAX_RECORD as u64).read_until(b'\n', &mut record)? == 0 {
            break;
        }
        let (channel, bytes) = parse(&record).ok_or(LogError::NotARecord { number })?;
        match channel {
            Channel::Stdout => out.write_all(bytes)?,
            Channel::Stderr => err.write_all(bytes)?,
        }
    }
    out.flush()?;
    Ok(err.flush()?)
}

/// A record's stream and bytes, the newline of a whole line included.
fn parse(record: &[u8]) -> Option<(Channel, &[u8])> {
    let mut fields = record.splitn(4, |&byte| byte == b' ');
    let _time = fields.next()?;
    let channel = match fields.next()? {
        b"stdout" => Channel::Stdout,
        b"stderr" => Channel::Stderr,
        _ => return None,
    };
    let mark = fields.next()?;
    let bytes = fields.next()?;
    match mark {
        b"F" if bytes.ends_with(b"\n") => Some((channel, bytes)),
        b"P" => Some((channel, bytes.strip_suffix(b"\n")?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[(Channel, &[u8])]) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        for &(channel, bytes) in pieces {
            let log = File::options().append(true).open(file.path()).unwrap();
            LogWriter::new(log, channel).write_all(bytes).unwrap();
        }
        std::fs::read(file.path()).unwrap()
    }

    fn replayed(log: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        replay(log, &mut out, &mut err).unwrap();
        (out, err)
    }

    #[test]
    fn every_byte_comes_back_on_the_stream_it_was_written_to() {
        let long = vec![b'x'; 3 * MAX_PIECE + 1];
        let whole = [b"one\n\ntw".as_slice(), b"o\n", b"\0\xff no newline", &long, b"\n"];
        let mut pieces: Vec<_> = whole.iter().map(|bytes| (Channel::Stdout, *bytes)).collect();
        pieces.insert(1, (Channel::Stderr, b"warning\n"));
        let (out, err) = replayed(&written(&pieces));
        assert_eq!(out, whole.concat());
        assert_eq!(err, b"warning\n");
    }

    #[test]
    fn a_record_reads_as_kubernetes_writes_it() {
        let log = String::from_utf8(written(&[(Channel::Stderr, b"whole\npiece")])).unwrap();
        let lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines[0].1, "stderr F whole");
        assert_eq!(lines[1].1, "stderr P piece");
        assert!(humantime::parse_rfc3339(lines[0].0).is_ok(), "{}", lines[0].0);
    }

    #[test]
    fn a_log_someone_edited_is_refused_by_its_record() {
        for (log, bad) in [
            ("now stdout F fine\nrubbish\n", 2),
            ("now stdin F x\n", 1),
            ("now stdout X x\n", 1),
            ("now stdout F cut off", 1),
        ] {
            let refused = replay(log.as_bytes(), &mut Vec::new(), &mut Vec::new());
            assert!(
                matches!(refused, Err(LogError::NotARecord { number }) if number == bad),
                "{log}: {refused:?}"
            );
        }
    }
}
