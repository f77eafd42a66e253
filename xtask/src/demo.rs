//! The demo image: Debian's static busybox under all of its names, and the few files a person expects.
//!
//! One list of entries is written down twice: as an OCI archive, which `microvm load`, skopeo and
//! podman read, and as a directory, which is the root of a runc or crun bundle. The same busybox
//! gives the same bytes, whoever builds them and when.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use rustix::process::geteuid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::Key;
use crate::{packages, paths, step};

/// What `podman load` and `microvm load` call it.
const TAG: &str = "demo:latest";

/// Where the package puts its program; the image has it at the same place.
const BUSYBOX: &str = "/bin/busybox";

/// The directory's name among the outputs.
const ROOTFS: &str = "demo-rootfs";

/// The number of the user of that name and of its group.
const DEMO: u32 = 1000;

const ROOT: u32 = 0;

/// Path, mode, and the number of its user and group.
const DIRECTORIES: &[(&str, u32, u32)] = &[
    ("bin", 0o755, ROOT),
    ("dev", 0o755, ROOT),
    ("etc", 0o755, ROOT),
    ("home", 0o755, ROOT),
    ("home/demo", 0o755, DEMO),
    ("mnt", 0o755, ROOT),
    ("proc", 0o555, ROOT),
    ("root", 0o700, ROOT),
    ("run", 0o755, ROOT),
    ("sbin", 0o755, ROOT),
    ("sys", 0o555, ROOT),
    ("tmp", 0o1777, ROOT),
    ("usr", 0o755, ROOT),
    ("usr/bin", 0o755, ROOT),
    ("usr/sbin", 0o755, ROOT),
    ("var", 0o755, ROOT),
    ("var/tmp", 0o1777, ROOT),
];

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         demo:x:1000:1000:demo:/home/demo:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\ndemo:x:1000:\nstaff:x:1001:demo\nnogroup:x:65534:\n"),
];

/// Writes `demo.tar` and the directory [`ROOTFS`] among the outputs, unless they stand there already
/// and are made of the busybox that is installed now. Gives back where the archive is.
pub(crate) fn build() -> Result<PathBuf> {
    packages::install(&["busybox-static"])?;
    let out = paths::outputs();
    let (archive, root) = (out.join("demo.tar"), out.join(ROOTFS));
    let busybox = fs::read(BUSYBOX).context(BUSYBOX)?;
    let recipe =
        Key::new().part("busybox", &busybox).part("recipe", include_str!("demo.rs")).short();
    let made_of = out.join(".demo-made-of");
    let stands = archive.is_file() && root.is_dir();
    if stands && fs::read_to_string(&made_of).is_ok_and(|text| text == recipe) {
        return Ok(archive);
    }

    step::say("making the demo image");
    let image = Image::new(busybox, &applets()?);
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    // Without the stamp, whatever an interrupted build leaves is built again.
    if made_of.exists() {
        fs::remove_file(&made_of)?;
    }
    fs::write(&archive, image.archive(TAG)?)?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    image.unpack(&root)?;
    fs::write(&made_of, recipe)?;
    Ok(archive)
}

/// How many files more [`large`] has, and how long each is: a gibibyte.
const MORE: (usize, usize) = (8192, 128 << 10);

/// Writes `large.tar` among the outputs, unless it stands there: the demo image with [`MORE`] in it, for whoever
/// wants to know what an image's size costs. Gives back where it is.
pub(crate) fn large() -> Result<PathBuf> {
    let archive = paths::outputs().join("large.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    step::say("making an image of a gibibyte");
    let mut image = Image::new(fs::read(BUSYBOX).context(BUSYBOX)?, &applets()?);
    let (count, bytes) = MORE;
    let mut noise = 1u64;
    let more = (0..count).map(|number| {
        // A sixteenth of it like nothing else, so that it is no bomb to who unpacks it; the rest alike.
        let mut noisy = || {
            // xorshift64 (Marsaglia 2003): the same bytes each time.
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise
        };
        let random: Vec<u8> = (0..bytes / 16 / 8).flat_map(|_| noisy().to_le_bytes()).collect();
        let line = format!("file {number} of {count}\n");
        let bytes = random.into_iter().chain(line.bytes().cycle()).take(bytes).collect();
        (format!("var/{number}"), Node::File { mode: 0o644, bytes })
    });
    image.0.extend(more);
    let unfinished = archive.with_extension("unfinished");
    fs::write(&unfinished, image.archive("large:latest")?)?;
    fs::rename(&unfinished, &archive)?;
    Ok(archive)
}

/// The names busybox answers to, as paths without a leading slash.
fn applets() -> Result<Vec<String>> {
    let list = step::read("names of busybox", Command::new(BUSYBOX).arg("--list-full"))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// What stands at a path of the image. All but directories belong to root.
#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u32, owner: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Symlink { target: String },
}

/// Paths without a leading slash; their order puts a directory before what is in it.
struct Image(BTreeMap<String, Node>);

impl Image {
    fn new(busybox: Vec<u8>, applets: &[String]) -> Self {
        let directories = DIRECTORIES
            .iter()
            .map(|&(path, mode, owner)| (path.to_owned(), Node::Directory { mode, owner }));
        // What stands in the root itself is for initial RAM disks.
        let links = applets.iter().filter(|path| path.contains('/')).map(|path| {
            let up = "../".repeat(path.matches('/').count());
            (path.clone(), Node::Symlink { target: format!("{up}bin/busybox") })
        });
        let files = FILES.iter().map(|&(path, text)| {
            (path.to_owned(), Node::File { mode: 0o644, bytes: text.as_bytes().to_vec() })
        });
        // Last, because busybox lists a name of its own too, which must not become a link to itself.
        let program = (BUSYBOX[1..].to_owned(), Node::File { mode: 0o755, bytes: busybox });
        Self(directories.chain(links).chain(files).chain([program]).collect())
    }

    /// The root as one layer.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in &self.0 {
            match node {
                Node::Directory { mode, owner } => {
                    let mut header = header(tar::EntryType::Directory, *mode, 0);
                    header.set_uid(u64::from(*owner));
                    header.set_gid(u64::from(*owner));
                    tar.append_data(&mut header, format!("{path}/"), [].as_slice())?;
                }
                Node::File { mode, bytes } => {
                    let mut header = header(tar::EntryType::Regular, *mode, bytes.len());
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Node::Symlink { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    /// The image as an OCI archive, by this name: an image layout (image-spec, `image-layout.md`) in a tar.
    fn archive(&self, tag: &str) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(&layer)?;
        let packed = gzip.finish()?;
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Cmd": ["sh"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "busybox-static" }],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;

        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = header(tar::EntryType::Regular, 0o644, bytes.len());
            tar.append_data(&mut header, path, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &index)?;
        for blob in [&manifest, &config, &packed] {
            add(&format!("blobs/sha256/{}", sha256_hex(blob)), blob)?;
        }
        Ok(tar.into_inner()?)
    }

    /// The image as the directory `root`, which must not exist.
    fn unpack(&self, root: &Path) -> Result<()> {
        let set_mode =
            |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
        fs::create_dir(root).with_context(|| root.display().to_string())?;
        set_mode(root, 0o755)?;
        for (path, node) in &self.0 {
            let path = root.join(path);
            match node {
                Node::Directory { .. } => fs::create_dir(&path),
                Node::File { mode, bytes } => {
                    fs::write(&path, bytes).and_then(|()| set_mode(&path, *mode))
                }
                Node::Symlink { target } => symlink(target, &path),
            }
            .with_context(|| path.display().to_string())?;
        }
        // Once they are filled: a directory may deny writing.
        for (path, node) in &self.0 {
            if let Node::Directory { mode, owner } = node {
                let path = root.join(path);
                // Without the right to give it away, whoever builds this keeps it.
                if geteuid().is_root() {
                    chown(&path, Some(*owner), Some(*owner))?;
                }
                set_mode(&path, *mode)?;
            }
        }
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Image {
        let applets = ["bin/busybox", "bin/sh", "linuxrc", "usr/bin/env"].map(str::to_owned);
        Image::new(b"\x7fELF".to_vec(), &applets)
    }

    #[test]
    fn every_name_leads_to_the_one_program() {
        let Image(nodes) = small();
        assert_eq!(nodes["bin/sh"], Node::Symlink { target: "../bin/busybox".into() });
        assert_eq!(nodes["usr/bin/env"], Node::Symlink { target: "../../bin/busybox".into() });
        assert!(matches!(nodes["bin/busybox"], Node::File { mode: 0o755, .. }));
        assert!(!nodes.contains_key("linuxrc"));
    }

    #[test]
    fn the_archive_says_the_truth_about_its_blobs() {
        let archive = small().archive(TAG).unwrap();
        assert_eq!(archive, small().archive(TAG).unwrap(), "the same twice");
        let mut blobs = 0;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(name, sha256_hex(&bytes));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }

    #[test]
    fn the_directory_holds_what_the_layer_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        small().unpack(&root).unwrap();
        assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("../bin/busybox"));
        assert_eq!(fs::read(root.join("usr/bin/env")).unwrap(), b"\x7fELF");
        assert_eq!(fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);

        let layer = small().layer().unwrap();
        for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let path = root.join(entry.path().unwrap());
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            assert_eq!(kind.is_dir(), entry.header().entry_type().is_dir(), "{}", path.display());
            assert_eq!(kind.is_symlink(), entry.header().entry_type().is_symlink());
        }
    }
}
