//! One block request: header, data, status (virtio 1.2, 5.2.6).
//!
//! The header says what and where, the guest chose both. It is copied once; the range it names is
//! held against the disk before a byte moves, and so are all ranges of a discard before the first is gone.

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use crate::virtio::buffers::Buffers;

/// Bytes of a sector, whatever the disk's own blocks are.
pub(super) const SECTOR: u64 = 512;

/// Bytes of the answer to "who are you" (5.2.6).
const ID_BYTES: usize = 20;

/// The most ranges in one request to discard or to write zeros, and the longest: what is done at once holds
/// up whoever waits behind it.
pub(super) const MAX_RANGES: u32 = 32;
pub(super) const MAX_RANGE_SECTORS: u32 = (1 << 30) / SECTOR as u32;

/// Bytes of a range (`struct virtio_blk_discard_write_zeroes`).
const RANGE_BYTES: usize = 16;

/// Storage, as a request needs it.
pub(super) trait Storage: Send {
    /// How long it is.
    fn sectors(&self) -> u64;
    /// It is never written to.
    fn read_only(&self) -> bool;
    /// Fills all of `into` from `offset` on, in bytes.
    fn read(&mut self, offset: u64, into: Buffers<'_>) -> io::Result<()>;
    /// Writes all of `from` at `offset`, in bytes.
    fn write(&mut self, offset: u64, from: Buffers<'_>) -> io::Result<()>;
    /// Returns once everything written is safe.
    fn flush(&mut self) -> io::Result<()>;
    /// Forgets what stands in a range. What is read there later is anything.
    fn discard(&mut self, range: Range) -> io::Result<()>;
    /// Makes a range zeros, and with `unmap` the room that it takes free.
    fn zero(&mut self, range: Range, unmap: bool) -> io::Result<()>;
}

/// A part of the disk, in bytes, which lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What a guest asked for, once it made sense.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Read { offset: u64 },
    Write { offset: u64 },
    Flush,
    GetId,
    Discard { ranges: Vec<Range> },
    WriteZeroes { ranges: Vec<(Range, bool)> },
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Out of range, not whole sectors, or not for this disk.
    Io,
    /// Not a kind of request known here.
    Unsupported,
}

/// A disk that answers requests.
pub(super) struct Core<S> {
    pub(super) storage: S,
    pub(super) name: [u8; ID_BYTES],
}

impl<S: Storage> Core<S> {
    /// Believes or refuses a header, with `read` bytes of data to be read by the guest and `from` written by
    /// it.
    fn judge(
        &self,
        header: [u8; 16],
        read: usize,
        from: &mut Buffers<'_>,
    ) -> Result<Request, Refusal> {
        let [kind @ .., _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let offset = |bytes: usize| Ok(self.range(sector, bytes as u64)?.offset);
        match u32::from_le_bytes(kind) {
            VIRTIO_BLK_T_IN => Ok(Request::Read { offset: offset(read)? }),
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
                if self.storage.read_only() =>
            {
                Err(Refusal::Io)
            }
            VIRTIO_BLK_T_OUT => Ok(Request::Write { offset: offset(from.len())? }),
            VIRTIO_BLK_T_DISCARD => {
                let ranges = self.ranges(from)?.into_iter();
                // What is forgotten has no second way to be.
                let ranges = ranges.map(|(range, flags)| match flags {
                    0 => Ok(range),
                    _ => Err(Refusal::Unsupported),
                });
                Ok(Request::Discard { ranges: ranges.collect::<Result<_, _>>()? })
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let ranges = self.ranges(from)?.into_iter();
                let ranges = ranges.map(|(range, flags)| match flags {
                    0 => Ok((range, false)),
                    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => Ok((range, true)),
                    _ => Err(Refusal::Unsupported),
                });
                Ok(Request::WriteZeroes { ranges: ranges.collect::<Result<_, _>>()? })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Request::GetId),
            _ => Err(Refusal::Unsupported),
        }
    }

    /// `bytes` from `sector` on, if they are whole sectors of the disk.
    fn range(&self, sector: u64, bytes: u64) -> Result<Range, Refusal> {
        let end = sector.checked_add(bytes / SECTOR).ok_or(Refusal::Io)?;
        if !bytes.is_multiple_of(SECTOR) || end > self.storage.sectors() {
            return Err(Refusal::Io);
        }
        Ok(Range { offset: sector.checked_mul(SECTOR).ok_or(Refusal::Io)?, bytes })
    }

    /// The ranges that a guest wrote, each of them in the disk, and the flags of each.
    fn ranges(&self, from: &mut Buffers<'_>) -> Result<Vec<(Range, u32)>, Refusal> {
        let whole = !from.is_empty() && from.len().is_multiple_of(RANGE_BYTES);
        if !whole || from.len() > MAX_RANGES as usize * RANGE_BYTES {
            return Err(Refusal::Io);
        }
        let mut ranges = Vec::with_capacity(from.len() / RANGE_BYTES);
        while let Some(raw) = from.take_array::<RANGE_BYTES>() {
            let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = raw;
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            if sectors > MAX_RANGE_SECTORS {
                return Err(Refusal::Io);
            }
            let range = self.range(u64::from_le_bytes(sector), u64::from(sectors) * SECTOR)?;
            ranges.push((range, u32::from_le_bytes([f0, f1, f2, f3])));
        }
        Ok(ranges)
    }

    /// Carries a request out and gives the number of bytes put into `into`.
    fn carry_out(
        &mut self,
        request: Request,
        from: Buffers<'_>,
        mut into: Buffers<'_>,
    ) -> io::Result<usize> {
        match request {
            Request::Read { offset } => {
                let bytes = into.len();
                self.storage.read(offset, into).map(|()| bytes)
            }
            Request::Write { offset } => self.storage.write(offset, from).map(|()| 0),
            Request::Flush => self.storage.flush().map(|()| 0),
            Request::GetId => Ok(into.copy_from(&self.name)),
            Request::Discard { ranges } => {
                let mut ranges = ranges.into_iter();
                ranges.try_for_each(|range| self.storage.discard(range)).map(|()| 0)
            }
            Request::WriteZeroes { ranges } => {
                let mut ranges = ranges.into_iter();
                ranges.try_for_each(|(range, unmap)| self.storage.zero(range, unmap)).map(|()| 0)
            }
        }
    }

    /// Reads a request from `readable`, answers into `writable`, and gives the number of bytes it wrote there.
    pub(super) fn answer(&mut self, mut readable: Buffers<'_>, mut writable: Buffers<'_>) -> usize {
        // Without room for a status there is no way to answer.
        let Some(room) = writable.len().checked_sub(1) else { return 0 };
        let data = writable.split_to(room);
        let outcome = match readable.take_array() {
            Some(header) => self.judge(header, data.len(), &mut readable),
            None => Err(Refusal::Io),
        };
        let (status, written) = match outcome.map(|request| self.carry_out(request, readable, data))
        {
            Ok(Ok(written)) => (VIRTIO_BLK_S_OK, written),
            // The driver writes zeros itself then.
            Ok(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                (VIRTIO_BLK_S_UNSUPP, 0)
            }
            Ok(Err(_)) | Err(Refusal::Io) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        written + writable.copy_from(&[status as u8])
    }
}
