//! An empty ext4 file system, written into a new file (Linux, Documentation/filesystems/ext4).
//!
//! Only what a kernel has to find there is written: superblock, group descriptors, the first group, a journal
//! and the last group's bitmap. Every other group says of itself that nothing of it was ever written
//! (`uninit_bg`), so that the file of a large disk is as small as that of a small one. There are no copies of
//! the superblock (`sparse_super2` with none named): the file is a container's, and gone with it.
//!
//! Knows nothing of containers; [`super`] says where the file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The smallest there can be: below it the journal takes what there is.
pub(crate) const MIN_BYTES: u64 = 64 << 20;

/// The largest: half of what block numbers of 32 bits reach.
pub(crate) const MAX_BYTES: u64 = 8 << 40;

pub(crate) const BLOCK: usize = 4096;
const BLOCKS_PER_GROUP: u32 = 8 * BLOCK as u32;
const INODE_BYTES: usize = 256;
/// One for 16 KiB, as `mke2fs` has it.
const INODES_PER_GROUP: u32 = 8192;
const TABLE_BLOCKS: u32 = INODES_PER_GROUP * INODE_BYTES as u32 / BLOCK as u32;
/// Two bitmaps and the inodes.
const GROUP_OVERHEAD: u32 = 2 + TABLE_BLOCKS;
const DESCRIPTOR_BYTES: usize = 32;

/// Inodes with a fixed meaning, and the first without.
const ROOT: u32 = 2;
const JOURNAL: u32 = 8;
const LOST_AND_FOUND: u32 = 11;

mod compatible {
    pub(super) const HAS_JOURNAL: u32 = 0x4;
    pub(super) const EXT_ATTR: u32 = 0x8;
    pub(super) const DIR_INDEX: u32 = 0x20;
    pub(super) const SPARSE_SUPER2: u32 = 0x200;
}
mod incompatible {
    pub(super) const FILETYPE: u32 = 0x2;
    pub(super) const EXTENTS: u32 = 0x40;
}
mod to_write {
    pub(super) const LARGE_FILE: u32 = 0x2;
    pub(super) const HUGE_FILE: u32 = 0x8;
    pub(super) const UNINIT_BG: u32 = 0x10;
    pub(super) const DIR_NLINK: u32 = 0x20;
    pub(super) const EXTRA_ISIZE: u32 = 0x40;
}
mod group {
    pub(super) const INODES_UNUSED: u16 = 1;
    pub(super) const BLOCKS_UNUSED: u16 = 2;
    pub(super) const TABLE_ZEROED: u16 = 4;
}

/// What no two file systems have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    /// 32 random bytes: half of them the file system's name, half of them for its hashes.
    pub(crate) random: [u8; 32],
    /// When, in seconds since 1970.
    pub(crate) seconds: u32,
}

/// Makes `file`, which has nothing in it, a disk of `bytes` with an empty file system on it.
pub(crate) fn write(file: &File, bytes: u64, birth: &Birth) -> io::Result<()> {
    let layout = Layout::of(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    file.set_len(bytes)?;
    let at = |block: u32| u64::from(block) * BLOCK as u64;
    file.write_all_at(&layout.superblock(birth), 1024)?;
    file.write_all_at(&layout.descriptors(birth), at(1))?;
    let first = layout.group(0);
    file.write_all_at(&bitmap(layout.used_in_first(), first.blocks), at(first.block_bitmap))?;
    file.write_all_at(&bitmap(LOST_AND_FOUND, INODES_PER_GROUP), at(first.inode_bitmap))?;
    for (number, inode) in layout.inodes(birth.seconds) {
        let place = at(first.table) + u64::from(number - 1) * INODE_BYTES as u64;
        file.write_all_at(&inode, place)?;
    }
    let root = [(ROOT, "."), (ROOT, ".."), (LOST_AND_FOUND, "lost+found")];
    file.write_all_at(&directory(&root), at(layout.root()))?;
    let lost = [(LOST_AND_FOUND, "."), (ROOT, "..")];
    file.write_all_at(&directory(&lost), at(layout.root() + 1))?;
    file.write_all_at(&layout.journal_superblock(), at(layout.journal()))?;
    let last = layout.group(layout.groups - 1);
    if layout.groups > 1 {
        file.write_all_at(&bitmap(GROUP_OVERHEAD, last.blocks), at(last.block_bitmap))?;
    }
    Ok(())
}

/// Where things are.
struct Layout {
    blocks: u32,
    groups: u32,
    descriptor_blocks: u32,
    journal_blocks: u32,
}

/// Where things of a group are.
struct Group {
    blocks: u32,
    block_bitmap: u32,
    inode_bitmap: u32,
    table: u32,
}

impl Layout {
    fn of(bytes: u64) -> Option<Self> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) {
            return None;
        }
        let mut blocks = u32::try_from(bytes / BLOCK as u64).ok()?;
        // A last group that could hold little more than itself is left out.
        let rest = blocks % BLOCKS_PER_GROUP;
        if blocks > BLOCKS_PER_GROUP && rest < 2 * GROUP_OVERHEAD {
            blocks -= rest;
        }
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        Some(Self {
            blocks,
            groups,
            descriptor_blocks: (groups * DESCRIPTOR_BYTES as u32).div_ceil(BLOCK as u32),
            // As `mke2fs` has it: 4, 16 and 64 MiB.
            journal_blocks: match bytes >> 20 {
                0..128 => 1024,
                128..1024 => 4096,
                _ => 16_384,
            },
        })
    }

    fn group(&self, index: u32) -> Group {
        let start = index * BLOCKS_PER_GROUP;
        let own = if index == 0 { 1 + self.descriptor_blocks } else { 0 };
        Group {
            blocks: BLOCKS_PER_GROUP.min(self.blocks - start),
            block_bitmap: start + own,
            inode_bitmap: start + own + 1,
            table: start + own + 2,
        }
    }

    /// The root directory's block; that of `lost+found` is behind it, and then comes the journal.
    fn root(&self) -> u32 {
        self.group(0).table + TABLE_BLOCKS
    }

    fn journal(&self) -> u32 {
        self.root() + 2
    }

    /// Blocks of the first group, all of them at its beginning.
    fn used_in_first(&self) -> u32 {
        self.journal() + self.journal_blocks
    }

    fn free_in(&self, index: u32) -> u32 {
        let used = if index == 0 { self.used_in_first() } else { GROUP_OVERHEAD };
        self.group(index).blocks - used
    }

    fn superblock(&self, birth: &Birth) -> Vec<u8> {
        let free: u32 = (0..self.groups).map(|index| self.free_in(index)).sum();
        let inodes = self.groups * INODES_PER_GROUP;
        let [uuid, seed] = halves(&birth.random);
        let mut block = Fields::new(1024);
        for (at, value) in [
            (0x00, inodes),
            (0x04, self.blocks),
            (0x0c, free),
            (0x10, inodes - LOST_AND_FOUND),
            (0x18, 2), // blocks of 2^(10 + 2) bytes
            (0x1c, 2), // and clusters
            (0x20, BLOCKS_PER_GROUP),
            (0x24, BLOCKS_PER_GROUP),
            (0x28, INODES_PER_GROUP),
            (0x30, birth.seconds), // last written to
            (0x40, birth.seconds), // last checked
            (0x4c, 1),             // revision: inodes can be larger than 128 bytes
            (0x54, LOST_AND_FOUND),
            (0x5c, {
                use compatible::{DIR_INDEX, EXT_ATTR, HAS_JOURNAL, SPARSE_SUPER2};
                HAS_JOURNAL | EXT_ATTR | DIR_INDEX | SPARSE_SUPER2
            }),
            (0x60, incompatible::FILETYPE | incompatible::EXTENTS),
            (0x64, {
                use to_write::{DIR_NLINK, EXTRA_ISIZE, HUGE_FILE, LARGE_FILE, UNINIT_BG};
                LARGE_FILE | HUGE_FILE | UNINIT_BG | DIR_NLINK | EXTRA_ISIZE
            }),
            (0xe0, JOURNAL),
            (0x100, 0xc),           // mounted with user_xattr and acl
            (0x108, birth.seconds), // made
            (0x160, 1),             // directories are hashed with signed characters
        ] {
            block.u32(at, value);
        }
        for (at, value) in [
            (0x36, u16::MAX), // checked after no number of mounts
            (0x38, 0xef53),
            (0x3a, 1), // clean
            (0x3c, 2), // read-only after an error
            (0x58, INODE_BYTES as u16),
            (0xfc, 0x0101), // directories are hashed by half an MD4; a copy of the journal's inode follows
            (0x15c, 32),
            (0x15e, 32),
        ] {
            block.u16(at, value);
        }
        block.bytes(0x68, &uuid);
        block.bytes(0xec, &seed);
        let journal = self.extent(self.journal(), self.journal_blocks);
        block.bytes(0x10c, &journal);
        block.u32(0x10c + 16 * 4, self.journal_blocks * BLOCK as u32);
        block.0
    }

    fn descriptors(&self, birth: &Birth) -> Vec<u8> {
        let [uuid, _] = halves(&birth.random);
        let mut table = Vec::with_capacity(self.groups as usize * DESCRIPTOR_BYTES);
        for index in 0..self.groups {
            let here = self.group(index);
            let is_first = index == 0;
            let used_inodes = if is_first { LOST_AND_FOUND } else { 0 };
            let mut flags = group::TABLE_ZEROED;
            if !is_first {
                flags |= group::INODES_UNUSED;
                // That of the last has to say where the disk ends.
                if index != self.groups - 1 {
                    flags |= group::BLOCKS_UNUSED;
                }
            }
            let mut fields = Fields::new(DESCRIPTOR_BYTES);
            fields.u32(0, here.block_bitmap);
            fields.u32(4, here.inode_bitmap);
            fields.u32(8, here.table);
            fields.u16(12, self.free_in(index) as u16);
            fields.u16(14, (INODES_PER_GROUP - used_inodes) as u16);
            fields.u16(16, if is_first { 2 } else { 0 }); // directories
            fields.u16(18, flags);
            fields.u16(28, (INODES_PER_GROUP - used_inodes) as u16);
            let sum = [&uuid[..], &index.to_le_bytes(), &fields.0[..30]].concat();
            fields.u16(30, crc16(&sum));
            table.extend(fields.0);
        }
        table
    }

    fn inodes(&self, seconds: u32) -> [(u32, Vec<u8>); 3] {
        const DIRECTORY: u16 = 0o040_000;
        const FILE: u16 = 0o100_000;
        let inode = |mode, links, first, blocks: u32| {
            let mut fields = Fields::new(INODE_BYTES);
            fields.u16(0x00, mode);
            fields.u32(0x04, blocks * BLOCK as u32);
            for time in [0x08, 0x0c, 0x10, 0x90] {
                fields.u32(time, seconds);
            }
            fields.u16(0x1a, links);
            fields.u32(0x1c, blocks * (BLOCK as u32 / 512));
            fields.u32(0x20, 0x8_0000); // what follows is extents
            fields.bytes(0x28, &self.extent(first, blocks));
            fields.u16(0x80, 32); // bytes used behind the first 128
            fields.0
        };
        [
            (ROOT, inode(DIRECTORY | 0o755, 3, self.root(), 1)),
            (JOURNAL, inode(FILE | 0o600, 1, self.journal(), self.journal_blocks)),
            (LOST_AND_FOUND, inode(DIRECTORY | 0o700, 2, self.root() + 1, 1)),
        ]
    }

    /// The root of an extent tree with one extent.
    fn extent(&self, first: u32, blocks: u32) -> Vec<u8> {
        let mut fields = Fields::new(60);
        fields.u16(0, 0xf30a);
        fields.u16(2, 1); // one of
        fields.u16(4, 4); // four
        fields.u16(16, blocks as u16);
        fields.u32(20, first);
        fields.0
    }

    /// All numbers of a journal are big endian.
    fn journal_superblock(&self) -> Vec<u8> {
        let words = [
            0xc03b_3998, // magic
            4,           // a superblock of version 2
            0,
            BLOCK as u32,
            self.journal_blocks,
            1, // the first block of the log
            1, // the first transaction's number
            0, // the log is empty
        ];
        let mut block: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
        block.resize(0x40, 0);
        block.extend(1u32.to_be_bytes()); // one file system uses it
        block
    }
}

/// A bitmap of which the first `used` bits are set, and those behind the first `all`.
fn bitmap(used: u32, all: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; BLOCK];
    for bit in (0..used).chain(all..8 * BLOCK as u32) {
        bytes[bit as usize / 8] |= 1 << (bit % 8);
    }
    bytes
}

/// A directory's one block, with these directories in it.
fn directory(entries: &[(u32, &str)]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    for (index, (inode, name)) in entries.iter().enumerate() {
        let is_last = index == entries.len() - 1;
        let length = (8 + name.len()).next_multiple_of(4);
        let reach = if is_last { BLOCK - block.len() } else { length };
        let end = block.len() + reach;
        block.extend(inode.to_le_bytes());
        block.extend((reach as u16).to_le_bytes());
        block.extend([name.len() as u8, 2]);
        block.extend(name.bytes());
        block.resize(end, 0);
    }
    block
}

fn halves(random: &[u8; 32]) -> [[u8; 16]; 2] {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    first.copy_from_slice(&random[..16]);
    second.copy_from_slice(&random[16..]);
    [first, second]
}

/// The checksum of group descriptors: CRC-16 with the polynomial 0x8005, reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(u16::MAX, |mut sum, &byte| {
        sum ^= u16::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xa001 } else { sum >> 1 };
        }
        sum
    })
}

/// Fields at places, little endian.
struct Fields(Vec<u8>);

impl Fields {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    const BIRTH: Birth = Birth { random: [7; 32], seconds: 1_790_000_000 };

    /// Sizes with one group, with a last group that is whole, cut, and too small to be one, and the ends.
    const SIZES: [u64; 8] = [
        MIN_BYTES,
        100 << 20,
        128 << 20,
        (256 << 20) + 4096,
        (1 << 30) + (9 << 20),
        10 << 30,
        (100 << 30) + 12_345 * 4096,
        MAX_BYTES,
    ];

    #[test]
    fn e2fsck_finds_nothing_wrong_at_any_size() {
        for bytes in SIZES {
            let file = tempfile::NamedTempFile::new().unwrap();
            write(file.as_file(), bytes, &BIRTH).unwrap();
            // The largest is only looked at from outside: a check reads a gigabyte of its bitmaps.
            if bytes == MAX_BYTES {
                continue;
            }
            let check = Command::new("e2fsck").args(["-f", "-n"]).arg(file.path()).output();
            let check = check.expect("e2fsck, of the package e2fsprogs, is needed for this");
            let said = String::from_utf8_lossy(&check.stdout);
            assert!(check.status.success(), "{bytes}: {said}");
            assert!(said.contains("11/"), "{bytes}: {said}");
        }
    }

    #[test]
    fn an_empty_disk_of_any_size_takes_little_room() {
        for bytes in SIZES {
            let file = tempfile::tempfile().unwrap();
            write(&file, bytes, &BIRTH).unwrap();
            let about = file.metadata().unwrap();
            assert_eq!(about.len(), bytes);
            // Ten blocks, and 32 bytes for each 128 MiB.
            let most = 64 * 1024 + bytes / (128 << 20) * 32;
            assert!(about.blocks() * 512 <= most, "{bytes}: {} blocks", about.blocks());
        }
    }

    #[test]
    fn what_is_no_size_makes_no_disk() {
        for bytes in [0, MIN_BYTES - 1, MAX_BYTES + 1, u64::MAX] {
            let file = tempfile::tempfile().unwrap();
            assert!(write(&file, bytes, &BIRTH).is_err(), "{bytes}");
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn the_checksum_is_the_one_with_this_check_value() {
        // "CRC-16/MODBUS" of the catalogues.
        assert_eq!(crc16(b"123456789"), 0x4b37);
    }
}
