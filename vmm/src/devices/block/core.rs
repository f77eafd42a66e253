//! One block request: header, data, status (virtio 1.2, 5.2.6).
//!
//! The header says what and where, the guest chose both. It is copied once; the range it names is
//! held against the disk before a byte moves.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use crate::virtio::buffers::Buffers;
use crate::virtio::worker;

/// Bytes of a sector, whatever the disk's own blocks are.
pub(super) const SECTOR: u64 = 512;

/// Bytes of the answer to "who are you" (5.2.6).
const ID_BYTES: usize = 20;

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
}

/// What a guest asked for, once it made sense.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Read { offset: u64 },
    Write { offset: u64 },
    Flush,
    GetId,
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
    /// Believes or refuses a header, with `read` bytes of data to be read by the guest and `written`
    /// bytes of data to be written by it.
    fn judge(&self, header: [u8; 16], read: usize, written: usize) -> Result<Request, Refusal> {
        let [kind @ .., _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        match u32::from_le_bytes(kind) {
            VIRTIO_BLK_T_IN => Ok(Request::Read { offset: self.range(sector, read)? }),
            VIRTIO_BLK_T_OUT if self.storage.read_only() => Err(Refusal::Io),
            VIRTIO_BLK_T_OUT => Ok(Request::Write { offset: self.range(sector, written)? }),
            VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Request::GetId),
            _ => Err(Refusal::Unsupported),
        }
    }

    /// The byte offset of `sector`, if `bytes` from there on are whole sectors of the disk.
    fn range(&self, sector: u64, bytes: usize) -> Result<u64, Refusal> {
        let bytes = u64::try_from(bytes).map_err(|_| Refusal::Io)?;
        let end = sector.checked_add(bytes / SECTOR).ok_or(Refusal::Io)?;
        let whole = bytes % SECTOR == 0 && end <= self.storage.sectors();
        if whole { sector.checked_mul(SECTOR).ok_or(Refusal::Io) } else { Err(Refusal::Io) }
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
        }
    }
}

impl<S: Storage> worker::Core for Core<S> {
    fn answer(&mut self, mut readable: Buffers<'_>, mut writable: Buffers<'_>) -> usize {
        // Without room for a status there is no way to answer.
        let Some(room) = writable.len().checked_sub(1) else { return 0 };
        let data = writable.split_to(room);
        let outcome = match readable.take_array() {
            Some(header) => self.judge(header, data.len(), readable.len()),
            None => Err(Refusal::Io),
        };
        let (status, written) = match outcome.map(|request| self.carry_out(request, readable, data))
        {
            Ok(Ok(written)) => (VIRTIO_BLK_S_OK, written),
            Ok(Err(_)) | Err(Refusal::Io) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        written + writable.copy_from(&[status as u8])
    }
}

/// A slot's disk: a file, or nothing.
pub(super) struct Image {
    file: Option<File>,
    sectors: u64,
    read_only: bool,
}

impl Image {
    /// A slot without a disk. It is not a read-only one: the disk that comes may be writable.
    pub(super) fn empty() -> Self {
        Self { file: None, sectors: 0, read_only: false }
    }

    pub(super) fn new(file: File, sectors: u64, read_only: bool) -> Self {
        Self { file: Some(file), sectors, read_only }
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Image {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, mut offset: u64, mut into: Buffers<'_>) -> io::Result<()> {
        let file = self.file()?;
        while !into.is_empty() {
            match into.read_at(file.as_fd(), offset) {
                // Shorter than when it was measured.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => offset += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, mut from: Buffers<'_>) -> io::Result<()> {
        let file = self.file()?;
        while !from.is_empty() {
            match from.write_at(file.as_fd(), offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => offset += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }
}
