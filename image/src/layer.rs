//! One layer, checked while it streams into the tree.
//!
//! ```text
//!   member ──► unpack ──► diff_id, limits ──► tar entries ──► merge
//!                                                          └─ data ──► spool
//! ```
//!
//! What it unpacks to is right if the `diff_id` is, which stands in a configuration whose digest is the image's
//! id. The digest of the blob itself was checked when it came into the store, and is looked at again only when
//! something is wrong: then it says whether the blob is what it was.

use std::io::{self, BufReader, Read};

use crate::archive::Member;
use crate::digest::Hashed;
use crate::limits::Budget;
use crate::merge::{Merge, MergeError};
use crate::packing::{UnknownPacking, Unpacked};
use crate::spool::{Spool, SpoolError};
use crate::tarball::{Body, Entries, Piece, Source, TarError};
use crate::tree::Data;
use crate::{Digest, LimitError};

/// Why a layer is not what it should be, or cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LayerError {
    #[error("it is not in the archive")]
    Missing,
    #[error("it has {found} bytes, its descriptor says {said}")]
    WrongSize { said: u64, found: u64 },
    #[error("its content has the digest {found}")]
    WrongDigest { found: Digest },
    #[error("it unpacks to {found}, the image's configuration says {said}")]
    WrongDiffId { said: Digest, found: Digest },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Packing(#[from] UnknownPacking),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("its data cannot be read")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Puts the layer in `member`, which came as `digest` and unpacks to `diff_id`, on top of `merge`, with the data
/// of its files in `spool`. After an error the tree is of no use.
pub(crate) fn unpack(
    mut member: Member,
    digest: Digest,
    diff_id: Digest,
    merge: &mut Merge,
    spool: &mut Spool,
    budget: &mut Budget,
) -> Result<(), LayerError> {
    budget.add_packed(member.length());
    merge.begin_layer();
    let again = member.again().map_err(LayerError::Read)?;
    let unpacked = unpack_entries(&mut member, merge, spool, budget).and_then(|found| {
        let said = diff_id;
        if said == found { Ok(()) } else { Err(LayerError::WrongDiffId { said, found }) }
    });
    unpacked.or_else(|error| {
        // A wrong digest explains whatever else went wrong.
        let mut packed = Hashed::new(again);
        io::copy(&mut packed, &mut io::sink()).map_err(LayerError::Read)?;
        let found = packed.digest();
        Err(if found == digest { error } else { LayerError::WrongDigest { found } })
    })
}

/// Puts the entries of what `packed` unpacks to on top of `merge`. Returns the digest of all of that.
pub(crate) fn unpack_entries(
    packed: &mut impl Read,
    merge: &mut Merge,
    spool: &mut Spool,
    budget: &mut Budget,
) -> Result<Digest, LayerError> {
    let packed = BufReader::with_capacity(1 << 17, packed);
    let unpacked = Unpacked::new(packed).map_err(LayerError::Read)??;
    let metered = Metered { source: unpacked, budget };
    let mut entries = Entries::new(Hashed::new(BufReader::with_capacity(1 << 17, metered)));
    let mut buffer = vec![0; 1 << 17];
    while let Some(mut entry) = entries.next()? {
        let data = match &mut entry.body {
            Body::File { bytes, pieces } => {
                let stored: u64 = pieces.iter().map(|piece| piece.bytes).sum();
                entries.source_mut().source.get_mut().budget.add_unpacked(*bytes - stored)?;
                let data = spool.reserve(*bytes);
                for piece in std::mem::take(pieces) {
                    set_aside(&mut entries, piece, data, spool, &mut buffer)?;
                }
                data
            }
            _ => Data { offset: 0, bytes: 0 },
        };
        merge.put(entry, data)?;
    }
    // What follows the archive's end is part of the layer's digest all the same.
    let mut source = entries.into_source();
    io::copy(&mut source, &mut io::sink()).map_err(LayerError::Read)?;
    Ok(source.digest())
}

fn set_aside<R: Source>(
    entries: &mut Entries<R>,
    piece: Piece,
    data: Data,
    spool: &Spool,
    buffer: &mut [u8],
) -> Result<(), LayerError> {
    let mut at = piece.offset;
    let end = piece.offset + piece.bytes;
    while at < end {
        let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < room {
            // The pieces are as long as the entry's data: it cannot end here without an error.
            filled += entries.read(&mut buffer[filled..room])?;
        }
        spool.write(data, at, &buffer[..room])?;
        at += room as u64;
    }
    Ok(())
}

impl<R: Read> Source for Hashed<R> {}

/// A reader that stops when the limits are reached.
struct Metered<'a, R> {
    source: R,
    budget: &'a mut Budget,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.budget.add_unpacked(count as u64).map_err(io::Error::other)?;
        Ok(count)
    }
}
