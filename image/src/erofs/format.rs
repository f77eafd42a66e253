//! The structures on the disk, all little-endian (`fs/erofs/erofs_fs.h`).

use crate::tree::{Device, Kind, Meta, NodeId, Time, Tree, Xattrs};

pub(super) const BLOCK_BYTES: u64 = 4096;
const BLOCK_BITS: u8 = 12;

pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;

/// Inodes begin right behind the superblock.
pub(super) const FIRST_INODE_OFFSET: usize = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES;

/// An inode's number is its offset in the metadata area in units of this.
pub(super) const SLOT_BYTES: u64 = 32;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum; inodes record the time of modification (not of change).
const COMPATIBLE_FEATURES: u32 = 0x1 | 0x2;

pub(super) const DIRENT_BYTES: usize = 12;

/// What a disk says about itself.
pub(super) struct Superblock {
    pub(super) root_nid: u64,
    pub(super) inodes: u64,
    pub(super) epoch: Time,
    pub(super) blocks: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Puts it at the start of `area`, the rest of the first block, which its checksum covers.
    pub(super) fn put(&self, area: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPATIBLE_FEATURES.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        // The root is the first inode, in block 0: its number fits.
        put(14, &(self.root_nid as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.epoch.seconds.to_le_bytes());
        put(32, &self.epoch.nanoseconds.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        let checksum = crc32c(area);
        area[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// CRC-32C without the final inversion, as the kernel computes it for a superblock.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// The two shapes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 bytes: small numbers only, and the disk's epoch as its time.
    Compact,
    /// 64 bytes.
    Extended,
}

impl Form {
    /// The smallest that holds an inode.
    pub(super) fn of(meta: &Meta, content_bytes: u64, links: u32, epoch: Time) -> Self {
        let small = u16::try_from(meta.uid).is_ok()
            && u16::try_from(meta.gid).is_ok()
            && u16::try_from(links).is_ok()
            && u32::try_from(content_bytes).is_ok();
        if small && meta.mtime == epoch { Self::Compact } else { Self::Extended }
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::Compact => 32,
            Self::Extended => 64,
        }
    }
}

/// Everything in an inode that is not in its node.
pub(super) struct Inode {
    pub(super) form: Form,
    /// The end of the data follows the inode (`FLAT_INLINE`), or none does (`FLAT_PLAIN`).
    pub(super) inline: bool,
    pub(super) content_bytes: u64,
    pub(super) first_block: u32,
    pub(super) serial: u32,
    pub(super) links: u32,
}

impl Inode {
    pub(super) fn encode(&self, meta: &Meta, kind: &Kind) -> Vec<u8> {
        const FLAT_INLINE: u16 = 2 << 1;
        let version: u16 = match self.form {
            Form::Compact => 0,
            Form::Extended => 1,
        };
        let format = version | if self.inline { FLAT_INLINE } else { 0 };
        let union = match kind {
            Kind::Block(device) | Kind::Character(device) => encode_device(*device),
            _ => self.first_block,
        };
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(format.to_le_bytes());
        bytes.extend(xattr_count(&meta.xattrs).to_le_bytes());
        bytes.extend((type_bits(kind) | meta.mode).to_le_bytes());
        match self.form {
            // `Form::of` has judged that the numbers cut here are small.
            Form::Compact => {
                bytes.extend((self.links as u16).to_le_bytes());
                bytes.extend((self.content_bytes as u32).to_le_bytes());
                bytes.extend([0; 4]);
                bytes.extend(union.to_le_bytes());
                bytes.extend(self.serial.to_le_bytes());
                bytes.extend((meta.uid as u16).to_le_bytes());
                bytes.extend((meta.gid as u16).to_le_bytes());
                bytes.extend([0; 4]);
            }
            Form::Extended => {
                bytes.extend([0; 2]);
                bytes.extend(self.content_bytes.to_le_bytes());
                bytes.extend(union.to_le_bytes());
                bytes.extend(self.serial.to_le_bytes());
                bytes.extend(meta.uid.to_le_bytes());
                bytes.extend(meta.gid.to_le_bytes());
                bytes.extend(meta.mtime.seconds.to_le_bytes());
                bytes.extend(meta.mtime.nanoseconds.to_le_bytes());
                bytes.extend(self.links.to_le_bytes());
                bytes.extend([0; 16]);
            }
        }
        bytes
    }
}

/// Linux's 32-bit encoding of a device number.
fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
}

/// The most that [`encode_device`] holds.
pub(crate) const MAX_DEVICE: Device = Device { major: 0xfff, minor: 0xf_ffff };

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::Character(_) => 0o020_000,
        Kind::Directory(_) => 0o040_000,
        Kind::Block(_) => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
    }
}

/// A directory entry's `file_type`.
pub(super) fn file_type(tree: &Tree, node: NodeId) -> u8 {
    match tree.node(node).kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::Character(_) => 3,
        Kind::Block(_) => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

const XATTR_HEADER_BYTES: usize = 12;
const XATTR_ENTRY_BYTES: usize = 4;

/// The most bytes an inode's extended attributes may take on the disk, so that the kernel can list
/// them all (`XATTR_LIST_MAX`) and the count fits its field.
pub(crate) const MAX_XATTRS_BYTES: usize = 1 << 16;

/// How long [`xattrs`] is.
pub(crate) fn xattrs_bytes(xattrs: &Xattrs) -> usize {
    let entry = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        split_xattr(name)
            .map(|(_, rest)| XATTR_ENTRY_BYTES + (rest.len() + value.len()).next_multiple_of(4))
    };
    match xattrs.iter().filter_map(entry).sum() {
        0 => 0,
        entries => XATTR_HEADER_BYTES + entries,
    }
}

fn xattr_count(xattrs: &Xattrs) -> u16 {
    match xattrs_bytes(xattrs) {
        0 => 0,
        // At most `MAX_XATTRS_BYTES / 4`.
        bytes => ((bytes - XATTR_HEADER_BYTES) / 4 + 1) as u16,
    }
}

/// An inode's extended attributes, all of its own (none shared between inodes).
pub(super) fn xattrs(xattrs: &Xattrs) -> Vec<u8> {
    if xattrs_bytes(xattrs) == 0 {
        return Vec::new();
    }
    let mut bytes = vec![0; XATTR_HEADER_BYTES];
    for (name, value) in xattrs {
        if let Some((index, rest)) = split_xattr(name) {
            // Whoever put them in the tree kept them below `MAX_XATTRS_BYTES`.
            bytes.extend([rest.len() as u8, index]);
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(rest);
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// The number of an attribute's name space and the rest of its name; `None` where EROFS (as any file
/// system of Linux) has no such space.
pub(crate) fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    const SPACES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        _ => SPACES.iter().find_map(|&(index, space)| {
            name.strip_prefix(space).filter(|rest| !rest.is_empty()).map(|rest| (index, rest))
        }),
    }
}
