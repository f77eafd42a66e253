//! Sparse files: which pieces of a file an archive holds, in the four ways GNU tar has said it.
//!
//! * `S` entries: four pieces in the header, more in blocks behind it.
//! * PAX 0.0: a record for each offset and each length. PAX 0.1: all of them in one record.
//! * PAX 1.0: decimal lines at the start of the data, padded to 512 bytes.

use super::pax::decimal;
use super::{BLOCK_BYTES, Entries, Source, TarError, shown};

/// The most pieces a file may have.
const MAX_PIECES: usize = 1 << 16;

/// A piece of a sparse file that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The `GNU.sparse.` records of an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    real_size: Option<u64>,
    /// Of versions 0.0 and 0.1: offset, length, offset, length, …
    numbers: Vec<u64>,
    /// The version is 1.0.
    in_data: bool,
}

impl SparseRecords {
    /// Whether the entry is sparse at all.
    pub(super) fn is_present(&self) -> bool {
        self.real_size.is_some()
    }

    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"major" => self.in_data = decimal(value)? == 1,
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" => {
                self.numbers = value
                    .split(|&byte| byte == b',')
                    .filter(|number| !number.is_empty())
                    .map(decimal)
                    .collect::<Option<_>>()?;
            }
            _ => {}
        }
        Some(())
    }
}

impl<R: Source> Entries<R> {
    /// The real size and the pieces of an `S` entry.
    pub(super) fn gnu_sparse(
        &mut self,
        header: &tar::GnuHeader,
        name: &[u8],
        offset: u64,
    ) -> Result<(u64, Vec<Piece>), TarError> {
        let bad = || malformed(name, offset);
        let real_size = header.real_size().map_err(|_| bad())?;
        let mut pieces = Vec::new();
        let mut take = |listed: &[tar::GnuSparseHeader]| {
            for piece in listed.iter().take_while(|piece| !piece.is_empty()) {
                let offset = piece.offset().ok()?;
                pieces.push(Piece { offset, bytes: piece.length().ok()? });
            }
            (pieces.len() <= MAX_PIECES).then_some(())
        };
        take(&header.sparse).ok_or_else(bad)?;
        let mut more = header.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(TarError::Truncated { offset: self.position });
            }
            take(block.sparse()).ok_or_else(bad)?;
            more = block.is_extended();
        }
        judge(real_size, pieces, self.data_left).ok_or_else(bad)
    }

    /// The same of an entry with PAX records.
    pub(super) fn pax_sparse(
        &mut self,
        records: &SparseRecords,
        name: &[u8],
        offset: u64,
    ) -> Result<(u64, Vec<Piece>), TarError> {
        let bad = || malformed(name, offset);
        let numbers = match records.in_data {
            true => self.numbers_in_data(name, offset)?,
            false => records.numbers.clone(),
        };
        let (pairs, []) = numbers.as_chunks::<2>() else { return Err(bad()) };
        let pieces = pairs.iter().map(|&[offset, bytes]| Piece { offset, bytes }).collect();
        judge(records.real_size.unwrap_or(0), pieces, self.data_left).ok_or_else(bad)
    }

    /// A count, and twice as many numbers, each on a line.
    fn numbers_in_data(&mut self, name: &[u8], offset: u64) -> Result<Vec<u64>, TarError> {
        let bad = || malformed(name, offset);
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        loop {
            if self.data_left < BLOCK_BYTES {
                return Err(bad());
            }
            for byte in self.data_block()? {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                numbers.push(decimal(&line).ok_or_else(bad)?);
                line.clear();
                // The count itself is the first; what follows the last number is padding.
                match numbers[0].checked_mul(2).and_then(|count| usize::try_from(count).ok()) {
                    Some(count) if count > 2 * MAX_PIECES => return Err(bad()),
                    Some(count) if numbers.len() == count + 1 => {
                        numbers.remove(0);
                        return Ok(numbers);
                    }
                    Some(_) => {}
                    None => return Err(bad()),
                }
            }
            // Twenty digits hold every number there is.
            if line.len() > 20 {
                return Err(bad());
            }
        }
    }

    fn data_block(&mut self) -> Result<[u8; BLOCK_BYTES as usize], TarError> {
        let mut block = [0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            filled += self.read(&mut block[filled..])?;
        }
        Ok(block)
    }
}

fn malformed(name: &[u8], offset: u64) -> TarError {
    TarError::Malformed { name: shown(name), offset, why: "its map of a sparse file is malformed" }
}

/// Pieces must rise, stay apart and inside the file, and be as long as what the archive holds.
fn judge(real_size: u64, pieces: Vec<Piece>, stored: u64) -> Option<(u64, Vec<Piece>)> {
    let mut end = 0u64;
    let mut held = 0u64;
    for piece in &pieces {
        if piece.offset < end {
            return None;
        }
        end = piece.offset.checked_add(piece.bytes)?;
        held = held.checked_add(piece.bytes)?;
    }
    (end <= real_size && held == stored).then_some((real_size, pieces))
}
