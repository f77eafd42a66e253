//! An EROFS writer: a tree in, a disk out, in one pass.
//!
//! ```text
//!   block 0                                          first data block
//!   +------+----+-------+--------+-----+-----+------+-----+------+------+-----
//!   | 1024 | sb | inode | xattrs | end | inode | …  | dir | file | file | …
//!   +------+----+-------+--------+-----+-----+------+-----+------+------+-----
//!               └─ every inode, each with its extended    └─ whole blocks of directories, files and
//!                  attributes and, where it fits in the      long symlinks, in the inodes' order
//!                  block, the last piece of its data
//! ```
//!
//! Nothing is compressed: the disk is read through the host's page cache, which all VMs share, and
//! costs no processor time in any of them. The format is `fs/erofs/erofs_fs.h` and
//! `Documentation/filesystems/erofs.rst` of Linux; we use what every kernel since 5.4 reads. The same
//! tree and data give the same bytes.

mod directory;
mod format;
mod plan;
mod sink;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::tree::{Data, Kind, NodeId, Tree};
use format::{BLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
pub(crate) use format::{MAX_DEVICE, MAX_XATTRS_BYTES, split_xattr, xattrs_bytes};
use plan::{Place, Plan};
use sink::Sink;

/// Why a tree cannot become a disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// More than 2³² blocks.
    #[error("the disk would be larger than 16 TiB")]
    TooLarge,
    /// The spool cannot be read.
    #[error("file data that was set aside")]
    Spool(#[source] io::Error),
    /// The disk cannot be written.
    #[error("the disk")]
    Disk(#[source] io::Error),
}

/// Writes `tree` to `disk`, an empty file, with its files' data out of `spool`. Returns the length.
pub(crate) fn write(tree: &Tree, spool: &File, disk: &File) -> Result<u64, WriteError> {
    let plan = Plan::of(tree)?;
    let mut sink = Sink::new(disk);
    sink.put(&[0; format::FIRST_INODE_OFFSET]).map_err(WriteError::Disk)?;
    for place in &plan.places {
        sink.zeros_until(place.offset).map_err(WriteError::Disk)?;
        sink.put(&place.inode(tree)).map_err(WriteError::Disk)?;
        sink.put(&format::xattrs(&tree.node(place.node).meta.xattrs)).map_err(WriteError::Disk)?;
        put_content(tree, &plan, place, place.tail(), spool, &mut sink)?;
    }
    sink.zeros_until(plan.data_offset).map_err(WriteError::Disk)?;
    let digest = sink.digest().map_err(WriteError::Disk)?;
    for place in plan.places.iter().filter(|place| place.data_bytes() > 0) {
        sink.zeros_until(place.data_offset()).map_err(WriteError::Disk)?;
        put_content(tree, &plan, place, place.data(), spool, &mut sink)?;
    }
    sink.zeros_until(plan.disk_bytes()).map_err(WriteError::Disk)?;
    let mut first = sink.finish().map_err(WriteError::Disk)?;
    let superblock = Superblock {
        root_nid: plan.places[0].nid(),
        inodes: plan.places.len() as u64,
        epoch: plan.epoch,
        blocks: plan.blocks,
        // Names, owners, times and lengths of everything are in there, and the small files. To hash
        // what the large ones hold would cost more than to write it.
        uuid: digest.as_bytes().first_chunk().copied().unwrap_or_default(),
    };
    superblock.put(&mut first[SUPERBLOCK_OFFSET..]);
    disk.write_all_at(&first, 0).map_err(WriteError::Disk)?;
    Ok(plan.disk_bytes())
}

/// Puts the piece `range` of what the inode at `place` holds.
fn put_content(
    tree: &Tree,
    plan: &Plan,
    place: &Place,
    range: std::ops::Range<u64>,
    spool: &File,
    sink: &mut Sink<'_>,
) -> Result<(), WriteError> {
    if range.is_empty() {
        return Ok(());
    }
    // Everything but a file's data is in memory already, so its length fits a `usize`.
    let piece = range.start as usize..range.end as usize;
    match &tree.node(place.node).kind {
        Kind::File(data) => copy(spool, data, range, sink),
        Kind::Directory(directory) => {
            let number = |node: NodeId| (plan.place_of(node).nid(), format::file_type(tree, node));
            let bytes = directory::blocks(place.node, directory, number);
            sink.put(&bytes[piece]).map_err(WriteError::Disk)
        }
        Kind::Symlink(target) => sink.put(&target[piece]).map_err(WriteError::Disk),
        Kind::Block(_) | Kind::Character(_) | Kind::Fifo => Ok(()),
    }
}

fn copy(
    spool: &File,
    data: &Data,
    range: std::ops::Range<u64>,
    sink: &mut Sink<'_>,
) -> Result<(), WriteError> {
    let mut at = data.offset + range.start;
    let end = data.offset + range.end;
    while at < end {
        let room = sink.room(end - at).map_err(WriteError::Disk)?;
        spool.read_exact_at(room, at).map_err(WriteError::Spool)?;
        at += room.len() as u64;
    }
    Ok(())
}

/// `bytes` in whole blocks.
fn whole_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}

#[cfg(test)]
mod tests;
