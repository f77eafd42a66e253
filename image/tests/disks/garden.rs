//! A directory with everything in it, and a portrait of one to compare.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use image::Digest;

/// A directory with everything a file system can hold.
pub(crate) fn garden(root: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(root.join("deep/deeper"))?;
    for size in [0, 1, 100, 3900, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193, 1_000_000] {
        let content: Vec<u8> = (0..size).map(|n: u32| ((n / 3) ^ size) as u8).collect();
        fs::write(root.join(format!("deep/{size}")), content)?;
    }
    fs::create_dir(root.join("many"))?;
    for n in 0..3000 {
        let name = format!("{n}-{}", "x".repeat(n % 200));
        fs::write(root.join("many").join(name), n.to_string())?;
    }
    fs::create_dir_all(root.join("n/".repeat(300)))?;
    fs::write(root.join("n/".repeat(300)).join("bottom"), "found")?;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"deep/\xff\xfe\n")), "name of any bytes")?;
    fs::hard_link(root.join("deep/8193"), root.join("linked"))?;
    symlink("deep/8193", root.join("short-link"))?;
    symlink("x/".repeat(2000), root.join("long-link"))?;
    let hole = File::create(root.join("hole"))?;
    hole.set_len(5_000_000)?;
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 4_999_997)?;
    let setuid = root.join("deep/100");
    rustix::fs::setxattr(&setuid, "user.empty", b"", rustix::fs::XattrFlags::empty())?;
    let long = vec![7; 3000];
    rustix::fs::setxattr(&setuid, "user.long", &long, rustix::fs::XattrFlags::empty())?;
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o6751))?;
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), fifo, mode, 0)?;
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(300, 70_000);
        let block = rustix::fs::FileType::BlockDevice;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("block"), block, mode, device)?;
        std::os::unix::fs::chown(root.join("deep/1"), Some(100_000), Some(70_000))?;
        // Version 2, effective: CAP_NET_RAW.
        let capability = [2u32 << 24 | 1, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("deep/4096"), "security.capability", &capability, flags)?;
    }
    for (path, seconds) in [("deep/4095", 1), ("deep/deeper", -100), ("deep/4097", 5_000_000_000)] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            root.join(path),
            &times,
            rustix::fs::AtFlags::empty(),
        )?;
    }
    Ok(())
}

/// What `stat` and more say about everything under `root`; inode numbers as the path seen first.
pub(crate) fn portrait(root: &Path) -> Result<BTreeMap<PathBuf, String>, Box<dyn Error>> {
    let mut portraits = BTreeMap::new();
    let mut first_names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![PathBuf::from(".")];
    let mut index = 0;
    while let Some(path) = pending.get(index).cloned() {
        index += 1;
        let whole = root.join(&path);
        let metadata = fs::symlink_metadata(&whole)?;
        let kind = metadata.file_type();
        let mut content = String::new();
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&whole)?
                .map(|entry| entry.map(|entry| path.join(entry.file_name())))
                .collect::<Result<_, _>>()?;
            names.sort();
            pending.extend(names);
        } else if kind.is_symlink() {
            content = format!("{:?}", fs::read_link(&whole)?);
        } else if kind.is_file() {
            content = Digest::of(&fs::read(&whole)?).to_string();
        } else if kind.is_block_device() {
            content = metadata.rdev().to_string();
        }
        let size = if kind.is_dir() { 0 } else { metadata.size() };
        let first = first_names.entry(metadata.ino()).or_insert_with(|| path.clone());
        let portrait = format!(
            "{:o} {}:{} links {} size {size} time {}.{:09} same as {} xattrs {:?} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            first.display(),
            xattrs(&whole)?,
        );
        portraits.insert(path, portrait);
    }
    Ok(portraits)
}

fn xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        length => length?,
    };
    let mut xattrs = BTreeMap::new();
    for name in String::from_utf8(names[..length].to_vec())?.split_terminator('\0') {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        xattrs.insert(name.to_owned(), value[..length].to_vec());
    }
    xattrs.remove("security.selinux");
    Ok(xattrs)
}
