//! Where everything will be on the disk, decided before the first byte is written.

use std::collections::BTreeMap;
use std::ops::Range;

use super::format::{BLOCK_BYTES, FIRST_INODE_OFFSET, Form, Inode, SLOT_BYTES, xattrs_bytes};
use super::{WriteError, directory, whole_blocks};
use crate::tree::{Kind, NodeId, ROOT, Time, Tree};

pub(super) struct Plan {
    /// One for each inode, by rising offset; the root's first.
    pub(super) places: Vec<Place>,
    /// For each node of the tree, which of `places`.
    index: Vec<Option<u32>>,
    /// The time most inodes have, which the small ones share.
    pub(super) epoch: Time,
    /// Where the first block behind the inodes is, in bytes.
    pub(super) data_offset: u64,
    /// The disk's length.
    pub(super) blocks: u32,
}

/// An inode and what belongs to it.
pub(super) struct Place {
    pub(super) node: NodeId,
    /// Where the inode is, in bytes.
    pub(super) offset: u64,
    form: Form,
    /// How much of the content's end follows the inode.
    tail_bytes: u64,
    content_bytes: u64,
    first_block: u32,
    serial: u32,
    links: u32,
}

impl Plan {
    pub(super) fn of(tree: &Tree) -> Result<Self, WriteError> {
        let (order, links) = walk(tree);
        let epoch = commonest_time(tree, &order);
        let mut index = vec![None; tree.len()];
        let mut places = Vec::with_capacity(order.len());
        let mut end = FIRST_INODE_OFFSET as u64;
        for (serial, &node) in (0u32..).zip(&order) {
            let meta = &tree.node(node).meta;
            let content_bytes = content_bytes(tree, node);
            let links = links[node.index()];
            let form = Form::of(meta, content_bytes, links, epoch);
            let head_bytes = form.bytes() + xattrs_bytes(&meta.xattrs) as u64;
            let (offset, tail_bytes) = place(end, form, head_bytes, content_bytes);
            end = offset + head_bytes + tail_bytes;
            index[node.index()] = Some(serial);
            places.push(Place {
                node,
                offset,
                form,
                tail_bytes,
                content_bytes,
                first_block: 0,
                serial: serial + 1,
                links,
            });
        }
        let mut block = whole_blocks(end);
        for place in &mut places {
            place.first_block = u32::try_from(block).map_err(|_| WriteError::TooLarge)?;
            block += whole_blocks(place.data_bytes());
        }
        let blocks = u32::try_from(block).map_err(|_| WriteError::TooLarge)?;
        let data_offset = whole_blocks(end) * BLOCK_BYTES;
        Ok(Self { places, index, epoch, data_offset, blocks })
    }

    /// The place of a node that has a name.
    pub(super) fn place_of(&self, node: NodeId) -> &Place {
        // Every node that a directory names was walked; the root is there in any case.
        &self.places[self.index[node.index()].unwrap_or(0) as usize]
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }
}

impl Place {
    pub(super) fn nid(&self) -> u64 {
        self.offset / SLOT_BYTES
    }

    pub(super) fn inode(&self, tree: &Tree) -> Vec<u8> {
        let node = tree.node(self.node);
        let inode = Inode {
            form: self.form,
            inline: self.tail_bytes > 0,
            content_bytes: self.content_bytes,
            first_block: self.first_block,
            serial: self.serial,
            links: self.links,
        };
        inode.encode(&node.meta, &node.kind)
    }

    /// The piece of the content that follows the inode.
    pub(super) fn tail(&self) -> Range<u64> {
        self.data_bytes()..self.content_bytes
    }

    /// The piece of the content in blocks of its own.
    pub(super) fn data(&self) -> Range<u64> {
        0..self.data_bytes()
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.content_bytes - self.tail_bytes
    }

    pub(super) fn data_offset(&self) -> u64 {
        u64::from(self.first_block) * BLOCK_BYTES
    }
}

/// Every inode once, level by level, so that what one directory names is close together; and how many
/// names each has.
fn walk(tree: &Tree) -> (Vec<NodeId>, Vec<u32>) {
    let mut order = vec![ROOT];
    let mut links = vec![0u32; tree.len()];
    links[ROOT.index()] = 2;
    let mut next = 0;
    while let Some(&node) = order.get(next) {
        next += 1;
        let Some(directory) = tree.directory(node) else { continue };
        for child in directory.children.values() {
            let count = &mut links[child.node.index()];
            if *count == 0 {
                order.push(child.node);
            }
            if tree.directory(child.node).is_some() {
                // Its name here, its own `.`; and its `..` is a name of this directory.
                *count = 2;
                links[node.index()] += 1;
            } else {
                *count += 1;
            }
        }
    }
    (order, links)
}

/// The earliest of the commonest, so that the same tree has the same.
fn commonest_time(tree: &Tree, order: &[NodeId]) -> Time {
    let mut counts = BTreeMap::new();
    for &node in order {
        *counts.entry(tree.node(node).meta.mtime).or_insert(0u64) += 1;
    }
    let commonest = counts.iter().rev().max_by_key(|&(_, count)| count);
    commonest.map(|(&time, _)| time).unwrap_or_default()
}

fn content_bytes(tree: &Tree, node: NodeId) -> u64 {
    match &tree.node(node).kind {
        Kind::File(data) => data.bytes,
        Kind::Directory(directory) => directory::bytes(directory),
        Kind::Symlink(target) => target.len() as u64,
        Kind::Block(_) | Kind::Character(_) | Kind::Fifo => 0,
    }
}

/// The offset, from `end` on, of an inode whose fixed part and attributes take `head_bytes`, and how
/// much of its content follows it there. The kernel wants inline content within one block; the fixed
/// part we keep within one as well.
fn place(end: u64, form: Form, head_bytes: u64, content_bytes: u64) -> (u64, u64) {
    let tail_bytes = match content_bytes % BLOCK_BYTES {
        tail if head_bytes + tail <= BLOCK_BYTES => tail,
        _ => 0,
    };
    let together = if tail_bytes > 0 { head_bytes + tail_bytes } else { form.bytes() };
    let offset = end.next_multiple_of(SLOT_BYTES);
    let room = BLOCK_BYTES - offset % BLOCK_BYTES;
    (if together <= room { offset } else { offset + room }, tail_bytes)
}
