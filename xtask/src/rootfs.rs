//! The initramfs that carries the agent: what `rootfs/contents` lists, as a cpio archive in the
//! kernel's `newc` format (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{paths, step};

/// Packs the agent into `target/microvm/initramfs.cpio` and says where that is: same agent, same
/// bytes. A file that is right already is left alone.
pub(crate) fn build(agent: &Path) -> Result<PathBuf> {
    let list = paths::checkout().join("rootfs/contents");
    let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let entries = parse(&text).with_context(|| list.display().to_string())?;
    let agent = fs::read(agent).with_context(|| agent.display().to_string())?;
    let archive = pack(&entries, &agent)?;

    let place = paths::outputs().join("initramfs.cpio");
    if fs::read(&place).is_ok_and(|there| there == archive) {
        return Ok(place);
    }
    step::say("packing the initramfs");
    fs::create_dir_all(paths::outputs())?;
    let half = place.with_extension("half");
    fs::write(&half, archive).with_context(|| half.display().to_string())?;
    fs::rename(&half, &place).with_context(|| place.display().to_string())?;
    Ok(place)
}

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    path: &'a str,
    permissions: u32,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    Device { major: u32, minor: u32 },
    Agent,
}

/// Reads the list; the error names the line.
fn parse(text: &str) -> Result<Vec<Entry<'_>>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| entry(line).with_context(|| format!("line {}: {line}", number + 1)))
        .collect()
}

fn entry(line: &str) -> Result<Entry<'_>> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (path, mode, kind) = match words[..] {
        ["directory", path, mode] => (path, mode, Kind::Directory),
        ["agent", path, mode] => (path, mode, Kind::Agent),
        ["device", path, mode, major, minor] => {
            (path, mode, Kind::Device { major: major.parse()?, minor: minor.parse()? })
        }
        _ => bail!("not an entry"),
    };
    if path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        bail!("not a plain path below the root");
    }
    let permissions = u32::from_str_radix(mode, 8)?;
    if permissions > 0o7777 {
        bail!("not a file mode");
    }
    Ok(Entry { path, permissions, kind })
}

/// The archive: its entries in the order given, then the one that ends it.
fn pack(entries: &[Entry<'_>], agent: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Vec::with_capacity(agent.len() + 4096);
    for (index, entry) in (1..).zip(entries) {
        let (format, rdev, content) = match entry.kind {
            Kind::Directory => (0o040_000, (0, 0), [].as_slice()),
            Kind::Device { major, minor } => (0o020_000, (major, minor), [].as_slice()),
            Kind::Agent => (0o100_000, (0, 0), agent),
        };
        let size = u32::try_from(content.len()).context("the agent does not fit a cpio archive")?;
        let head = Head { inode: index, mode: format | entry.permissions, size, rdev };
        head.append(entry.path, &mut archive);
        archive.extend_from_slice(content);
        pad(&mut archive);
    }
    Head { inode: 0, mode: 0, size: 0, rdev: (0, 0) }.append("TRAILER!!!", &mut archive);
    Ok(archive)
}

/// What differs from entry to entry in a header. The rest is fixed: owner root, one link, no date.
struct Head {
    inode: u32,
    mode: u32,
    size: u32,
    rdev: (u32, u32),
}

impl Head {
    fn append(&self, path: &str, archive: &mut Vec<u8>) {
        const MAGIC: &str = "070701";
        let name_size = path.len() as u32 + 1;
        let (major, minor) = self.rdev;
        let fields =
            [self.inode, self.mode, 0, 0, 1, 0, self.size, 0, 0, major, minor, name_size, 0];
        archive.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(path.as_bytes());
        archive.push(0);
        pad(archive);
    }
}

/// Headers and contents begin at multiples of four bytes.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_bytes_the_kernel_expects() {
        let list = "directory dev 0755\ndevice dev/console 0600 5 1\nagent init 0755\n";
        let archive = pack(&parse(list).unwrap(), b"agent").unwrap();
        // Magic, inode, mode, owner, group, links, date, size; device, its number, name size, check.
        let golden = "\
            070701 00000001 000041ed 00000000 00000000 00000001 00000000 00000000 \
             00000000 00000000 00000000 00000000 00000004 00000000 \
             dev\0 \0\0 \
            070701 00000002 00002180 00000000 00000000 00000001 00000000 00000000 \
             00000000 00000000 00000005 00000001 0000000c 00000000 \
             dev/console\0 \0\0 \
            070701 00000003 000081ed 00000000 00000000 00000001 00000000 00000005 \
             00000000 00000000 00000000 00000000 00000005 00000000 \
             init\0 \0 agent \0\0\0 \
            070701 00000000 00000000 00000000 00000000 00000001 00000000 00000000 \
             00000000 00000000 00000000 00000000 0000000b 00000000 \
             TRAILER!!!\0 \0\0\0";
        assert_eq!(String::from_utf8(archive).unwrap(), golden.replace(' ', ""));
    }

    #[test]
    fn our_own_list_can_be_read_and_starts_the_agent() {
        let entries = parse(include_str!("../../rootfs/contents")).unwrap();
        let init = entries.iter().find(|entry| entry.path == "init").unwrap();
        assert_eq!(init, &Entry { path: "init", permissions: 0o755, kind: Kind::Agent });
        for (index, entry) in entries.iter().enumerate() {
            if let Some((parent, _)) = entry.path.rsplit_once('/') {
                let before = &entries[..index];
                assert!(before.iter().any(|entry| entry.path == parent), "{}", entry.path);
            }
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (line, why) in [
            ("link a b", "not an entry"),
            ("directory dev", "not an entry"),
            ("directory /dev 0755", "not a plain path below the root"),
            ("directory a/../b 0755", "not a plain path below the root"),
            ("directory dev 0999", "invalid digit found in string"),
            ("directory dev 10000", "not a file mode"),
            ("device dev/null 0666 one 3", "invalid digit found in string"),
        ] {
            let text = format!("# first\n{line}\n");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert_eq!(error, format!("line 2: {line}: {why}"));
        }
    }
}
