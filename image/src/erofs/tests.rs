//! What is written is read back by a reader of the test's own. Whether Linux agrees is asked in
//! `tests/disks.rs`.

use std::collections::BTreeMap;

use super::*;
use crate::spool::Spool;
use crate::tree::{Child, Device, Kind, Meta, Node, ROOT, Time, Xattrs};
use proptest::prelude::*;

/// What stands at a path: everything that an inode says, and its content. Hard links have the same
/// `inode`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    inode: u64,
    mode: u16,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
    device: u32,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn all(&self) -> BTreeMap<Vec<u8>, Found> {
        assert_eq!(self.u32(1024), 0xe0f5_e1e2);
        assert_eq!(self.u32(1024 + 36) as usize * 4096, self.0.len());
        let mut all = BTreeMap::new();
        let mut pending = vec![(Vec::new(), u64::from(self.u16(1024 + 14)))];
        while let Some((path, nid)) = pending.pop() {
            let found = self.inode(nid);
            if found.mode & 0o170_000 == 0o040_000 {
                for (name, child) in self.names(&found.content) {
                    if name != b"." && name != b".." {
                        pending.push(([&path[..], b"/", &name].concat(), child));
                    }
                }
            }
            all.insert(path, found);
        }
        all
    }

    fn inode(&self, nid: u64) -> Found {
        let at = nid as usize * 32;
        let format = self.u16(at);
        let extended = format & 1 == 1;
        let inline = format >> 1 == 2;
        let count = usize::from(self.u16(at + 2));
        let xattr_bytes = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        let head = if extended { 64 } else { 32 };
        let (size, uid, gid, links, mtime) = if extended {
            let mtime = (self.u64(at + 32).cast_signed(), self.u32(at + 40));
            (self.u64(at + 8), self.u32(at + 24), self.u32(at + 28), self.u32(at + 44), mtime)
        } else {
            let (uid, gid) = (self.u16(at + 24).into(), self.u16(at + 26).into());
            let mtime = (self.u64(1024 + 24).cast_signed(), self.u32(1024 + 32));
            (self.u32(at + 8).into(), uid, gid, self.u16(at + 6).into(), mtime)
        };
        let mode = self.u16(at + 4);
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        let size = size as usize;
        let in_blocks = if inline { size / 4096 * 4096 } else { size };
        let data = self.u32(at + 16) as usize * 4096;
        let tail = at + head + xattr_bytes;
        let mut content = Vec::new();
        if in_blocks > 0 {
            content.extend(&self.0[data..data + in_blocks]);
        }
        if in_blocks < size {
            assert_eq!(
                tail / 4096,
                (tail + size - in_blocks - 1) / 4096,
                "inline data in two blocks"
            );
            content.extend(&self.0[tail..tail + size - in_blocks]);
        }
        let xattrs = self.xattrs(at + head, tail);
        let device = if is_device { self.u32(at + 16) } else { 0 };
        Found { inode: nid, mode, uid, gid, links, mtime, xattrs, content, device }
    }

    fn xattrs(&self, start: usize, end: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        let mut at = start + 12;
        while at < end {
            let name_bytes = usize::from(self.0[at]);
            let value_bytes = usize::from(self.u16(at + 2));
            let space: &[u8] = match self.0[at + 1] {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                4 => b"trusted.",
                6 => b"security.",
                other => panic!("name space {other}"),
            };
            let name = [space, &self.0[at + 4..at + 4 + name_bytes]].concat();
            let value = at + 4 + name_bytes;
            xattrs.insert(name, self.0[value..value + value_bytes].to_vec());
            at = (value + value_bytes).next_multiple_of(4);
        }
        xattrs
    }

    fn names(&self, content: &[u8]) -> Vec<(Vec<u8>, u64)> {
        let mut names: Vec<(Vec<u8>, u64)> = Vec::new();
        for block in content.chunks(4096) {
            let block = Reader(block);
            let count = usize::from(block.u16(8)) / 12;
            for n in 0..count {
                let start = usize::from(block.u16(n * 12 + 8));
                let end = match n + 1 < count {
                    true => usize::from(block.u16(n * 12 + 20)),
                    false => block.0.len(),
                };
                let name = &block.0[start..end];
                let name = name.split(|&byte| byte == 0).next().unwrap();
                names.push((name.to_vec(), block.u64(n * 12)));
            }
        }
        assert!(names.is_sorted_by(|a, b| a.0 < b.0), "names out of order");
        names
    }
}

fn meta(mode: u16) -> Meta {
    Meta { mode, ..Meta::default() }
}

/// A tree in the making, with its files' data.
struct Garden {
    tree: Tree,
    spool: Spool,
}

impl Garden {
    fn new() -> Self {
        let spool = Spool::new(&std::env::temp_dir()).unwrap();
        Self { tree: Tree::new(), spool }
    }

    fn file(&mut self, content: &[u8]) -> Kind {
        let data = self.spool.reserve(content.len() as u64);
        self.spool.write(data, 0, content).unwrap();
        Kind::File(data)
    }

    fn plant(&mut self, parent: NodeId, name: &str, meta: Meta, kind: Kind) -> NodeId {
        let node = self.tree.add(Node { meta, kind });
        self.name(parent, name.as_bytes(), node);
        node
    }

    fn directory(&mut self, parent: NodeId, name: &str) -> NodeId {
        let node = self.tree.add_directory(parent, meta(0o755));
        self.name(parent, name.as_bytes(), node);
        node
    }

    fn name(&mut self, parent: NodeId, name: &[u8], node: NodeId) {
        let directory = self.tree.directory_mut(parent).unwrap();
        directory.children.insert(name.into(), Child { node, layer: 1 });
    }

    fn disk(self) -> Vec<u8> {
        let disk = tempfile::tempfile().unwrap();
        let bytes = write(&self.tree, &self.spool.finish().unwrap(), &disk).unwrap();
        let mut content = vec![0; bytes as usize];
        disk.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), bytes);
        content
    }
}

#[test]
fn every_kind_of_file_is_read_back_as_it_was() {
    let mut garden = Garden::new();
    let deep = garden.directory(ROOT, "deep");
    let big: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let body = garden.file(&big);
    let shared = garden.plant(deep, "big", meta(0o4755), body);
    garden.name(ROOT, b"link", shared);
    let who = Meta {
        mode: 0o600,
        uid: 70_000,
        gid: 3,
        mtime: Time { seconds: -7, nanoseconds: 9 },
        xattrs: Xattrs::from([
            (b"security.capability".to_vec(), vec![1, 2, 3]),
            (b"user.empty".to_vec(), vec![]),
            (b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0]),
        ]),
    };
    let body = garden.file(b"small");
    garden.plant(ROOT, "small", who, body);
    garden.plant(ROOT, "s", meta(0o777), Kind::Symlink(b"deep/big".as_slice().into()));
    let long = [b'x'; 4095];
    garden.plant(ROOT, "long", meta(0o777), Kind::Symlink(long.as_slice().into()));
    let device = Device { major: 0x123, minor: 0x4_5678 };
    garden.plant(ROOT, "dev", meta(0o660), Kind::Block(device));
    garden.plant(ROOT, "fifo", meta(0o666), Kind::Fifo);

    let disk = garden.disk();
    let all = Reader(&disk).all();
    let at = |path: &str| all[path.as_bytes()].clone();
    assert_eq!(at("/deep/big").content, big);
    assert_eq!((at("/deep/big").mode, at("/deep/big").links), (0o104_755, 2));
    assert_eq!(at("/deep/big").inode, at("/link").inode);
    let small = at("/small");
    assert_eq!((small.uid, small.gid, small.mtime), (70_000, 3, (-7, 9)));
    assert_eq!(small.content, b"small");
    assert_eq!(small.xattrs[&b"security.capability"[..]], [1, 2, 3]);
    assert_eq!(small.xattrs.len(), 3);
    assert_eq!(at("/s").content, b"deep/big");
    assert_eq!(at("/long").content, long);
    assert_eq!((at("/dev").mode, at("/dev").device), (0o060_660, 0x4561_2378));
    assert_eq!(at("/fifo").mode, 0o010_666);
    assert_eq!((at("").links, at("/deep").links), (3, 2));
}

#[test]
fn a_directory_of_thousands_spans_blocks_in_order() {
    let mut garden = Garden::new();
    let names: Vec<String> = (0..5000).map(|n| format!("{n:x}-{}", "y".repeat(n % 97))).collect();
    for name in &names {
        garden.plant(ROOT, name, meta(0o600), Kind::Fifo);
    }
    for name in ["!", "-", "...", "\u{7f}"] {
        // Before and behind `.` and `..` in the order of bytes.
        garden.plant(ROOT, name, meta(0o600), Kind::Fifo);
    }
    let disk = garden.disk();
    assert_eq!(Reader(&disk).all().len(), 1 + 5000 + 4);
}

#[test]
fn a_hole_takes_no_room_on_the_host() {
    use std::os::unix::fs::MetadataExt;
    let mut garden = Garden::new();
    let hole = Kind::File(garden.spool.reserve(64 << 20));
    garden.plant(ROOT, "hole", meta(0o600), hole);
    let disk = tempfile::tempfile().unwrap();
    let bytes = write(&garden.tree, &garden.spool.finish().unwrap(), &disk).unwrap();
    assert!(bytes > 64 << 20);
    assert!(disk.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn the_checksum_is_of_the_first_block_behind_the_boot_sector() {
    let disk = Garden::new().disk();
    let mut block = disk[1024..4096].to_vec();
    let said = u32::from_le_bytes(block[4..8].try_into().unwrap());
    block[4..8].fill(0);
    // CRC-32C of "123456789" is a known number; ours is without the final inversion.
    assert_eq!(!format::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(format::crc32c(&block), said);
}

#[derive(Clone, Debug)]
struct Leaf {
    name: String,
    size: usize,
    xattr: usize,
    mtime: i64,
    uid: u32,
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    let sizes =
        prop_oneof![0..100usize, 3900..4200usize, 8000..8400usize, Just(4096), Just(40_000)];
    let xattrs = prop_oneof![4 => Just(0), 1 => 1..300usize, 1 => 3000..9000usize];
    let name = "[a-d][a-z]{0,3}";
    (name, sizes, xattrs, 0..2i64, prop_oneof![3 => Just(0u32), 1 => Just(66_000)])
        .prop_map(|(name, size, xattr, mtime, uid)| Leaf { name, size, xattr, mtime, uid })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_is_read_back_as_it_was(
        directories in proptest::collection::vec(
            proptest::collection::btree_map("[a-d][a-z]{0,3}", any_leaf(), 0..20), 1..6)
    ) {
        let build = || {
            let mut garden = Garden::new();
            let mut wanted = BTreeMap::new();
            let mut parent = ROOT;
            let mut path = String::new();
            for (depth, leaves) in directories.iter().enumerate() {
                for (name, leaf) in leaves {
                    let content: Vec<u8> =
                        (0..leaf.size).map(|n| (n * 7 + leaf.name.len()) as u8).collect();
                    let mut meta = meta(0o644);
                    meta.uid = leaf.uid;
                    meta.mtime.seconds = leaf.mtime;
                    if leaf.xattr > 0 {
                        meta.xattrs.insert(b"user.x".to_vec(), vec![9; leaf.xattr]);
                    }
                    let kind = garden.file(&content);
                    garden.plant(parent, name, meta, kind);
                    wanted.insert(format!("{path}/{name}"), (leaf.clone(), content));
                }
                let name = format!("z{depth}");
                parent = garden.directory(parent, &name);
                path = format!("{path}/{name}");
            }
            (garden.disk(), wanted)
        };
        let (disk, wanted) = build();
        let all = Reader(&disk).all();
        prop_assert_eq!(all.len(), wanted.len() + directories.len() + 1);
        for (path, (leaf, content)) in &wanted {
            let found = &all[path.as_bytes()];
            prop_assert_eq!(&found.content, content);
            prop_assert_eq!((found.uid, found.mtime.0), (leaf.uid, leaf.mtime));
            prop_assert_eq!(found.xattrs.values().map(Vec::len).sum::<usize>(), leaf.xattr);
        }
        prop_assert!(build().0 == disk, "the same tree gave other bytes");
    }
}
