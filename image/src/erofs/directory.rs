//! Directories: blocks of sorted names that the kernel searches by halving.
//!
//! ```text
//!   +----------+----------+-----+------+------+-----+-------+
//!   | dirent 0 | dirent 1 | …   | name | name | …   | zeros |   one block
//!   +----------+----------+-----+------+------+-----+-------+
//!     nid: u64, offset of the name in the block: u16, file type: u8, 0
//! ```
//!
//! Names are in the order of their bytes, `.` and `..` among them, across all blocks. The last block is
//! as long as it needs to be.

use super::format::{BLOCK_BYTES, DIRENT_BYTES};
use crate::tree::{Directory, NodeId, ROOT};

/// How long [`blocks`] is.
pub(super) fn bytes(directory: &Directory) -> u64 {
    let names = names(ROOT, directory);
    match split(&names).last() {
        Some(last) => {
            let before = split(&names).count() as u64 - 1;
            before * BLOCK_BYTES + used(last) as u64
        }
        None => 0,
    }
}

/// The content of the directory `itself`, with what `number` says about each node: the number of its
/// inode, and its file type.
pub(super) fn blocks(
    itself: NodeId,
    directory: &Directory,
    number: impl Fn(NodeId) -> (u64, u8),
) -> Vec<u8> {
    let names = names(itself, directory);
    let mut bytes = Vec::new();
    for block in split(&names) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
        let mut name_offset = block.len() * DIRENT_BYTES;
        for &(name, node) in block {
            let (nid, file_type) = number(node);
            bytes.extend(nid.to_le_bytes());
            // Within a block of 4096 bytes.
            bytes.extend((name_offset as u16).to_le_bytes());
            bytes.extend([file_type, 0]);
            name_offset += name.len();
        }
        for (name, _) in block {
            bytes.extend(*name);
        }
    }
    bytes
}

type Name<'a> = (&'a [u8], NodeId);

fn names(itself: NodeId, directory: &Directory) -> Vec<Name<'_>> {
    let mut names: Vec<Name<'_>> = Vec::with_capacity(directory.children.len() + 2);
    names.push((b".", itself));
    names.push((b"..", directory.parent));
    names.extend(directory.children.iter().map(|(name, child)| (&**name, child.node)));
    names.sort_unstable_by_key(|&(name, _)| name);
    names
}

/// Cuts sorted names into blocks, each as full as it gets.
fn split<'a>(names: &'a [Name<'a>]) -> impl Iterator<Item = &'a [Name<'a>]> {
    let mut rest = names;
    std::iter::from_fn(move || {
        let mut room = BLOCK_BYTES as usize;
        let fits = |(name, _): &&Name<'_>| match room.checked_sub(DIRENT_BYTES + name.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let count = rest.iter().take_while(fits).count();
        let (block, behind) = rest.split_at(count);
        rest = behind;
        (!block.is_empty()).then_some(block)
    })
}

fn used(block: &[Name<'_>]) -> usize {
    block.iter().map(|(name, _)| DIRENT_BYTES + name.len()).sum()
}
