//! What `cargo xtask bench images` pulls: three images in a registry's files, and the program that serves them.
//!
//! They are pushed here and carried to where it is measured, which has no registry and takes ten times as long
//! for everything.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::bufread::GzDecoder;

use crate::build::Outputs;
use crate::cache::{self, Key};
use crate::registry::{self, Registry};
use crate::{build, paths, services, step};

/// Where its package puts it.
const REGISTRY: &str = "/usr/bin/docker-registry";

/// The image of a service that is the middle one, of one layer.
const MIDDLE: &str = "redis";

/// The one that becomes the large one, of [`LAYERS`].
const LARGE: &str = "python";

/// What the large one's files are in.
const LAYERS: usize = 4;

/// A directory with `microvm` and `stopwatch` of `outputs`, `docker-registry`, and in `registry` its files, with
/// `small`, `middle` and `large` in them.
pub(crate) fn directory(outputs: &Outputs, stopwatch: &Path) -> Result<PathBuf> {
    registry::install()?;
    let layout = services::layout()?;
    let key = Key::new().part("recipe", include_str!("images.rs")).file("demo", &outputs.demo)?;
    let key = key.part("services", layout.as_os_str().as_encoded_bytes());
    let entry = cache::entry("images", &key, |entry| build(&layout, &outputs.demo, entry))?;
    let directory = paths::target().join("images");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let programs = [
        (&*outputs.microvm, "microvm"),
        (stopwatch, "stopwatch"),
        (REGISTRY.as_ref(), "docker-registry"),
    ];
    for (program, name) in programs {
        build::place(program, directory.join(name))?;
    }
    let files = directory.join("registry");
    if files.exists() {
        fs::remove_dir_all(&files).with_context(|| files.display().to_string())?;
    }
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto"]).arg(entry.join("registry")).arg(&directory);
    step::quiet("images: copying the registry's files", &mut copy)?;
    Ok(directory)
}

fn build(services: &Path, demo: &Path, entry: &Path) -> Result<()> {
    let registry = Registry::serve(entry)?;
    registry.push(&format!("oci-archive:{}", demo.display()), "small")?;
    registry.push(&format!("oci:{}:{MIDDLE}", services.display()), "middle")?;
    let scratch = entry.join("scratch");
    fs::create_dir(&scratch).with_context(|| scratch.display().to_string())?;
    let large = in_layers(&format!("oci:{}:{LARGE}", services.display()), &scratch)?;
    registry.push(&large, "large")?;
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())
}

/// The image of one layer that skopeo calls `from`, with the same files in [`LAYERS`], made in `scratch`; what
/// skopeo calls that.
fn in_layers(from: &str, scratch: &Path) -> Result<String> {
    let whole = scratch.join("whole");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--insecure-policy", from])
        .arg(format!("dir:{}", whole.display()));
    step::quiet("large: taking its layer", &mut copy)?;
    let manifest = whole.join("manifest.json");
    let json = fs::read(&manifest).with_context(|| manifest.display().to_string())?;
    let json: serde_json::Value = serde_json::from_slice(&json)?;
    let digest =
        json["layers"][0]["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let layer = whole.join(digest.with_context(|| format!("{from} has no layer"))?);
    let packed = fs::read(&layer).with_context(|| layer.display().to_string())?;
    let mut archive = Vec::new();
    GzDecoder::new(&packed[..])
        .read_to_end(&mut archive)
        .with_context(|| layer.display().to_string())?;

    let (layout, tar) = (scratch.join("layout"), scratch.join("layer.tar"));
    let image = format!("{}:large", layout.display());
    let umoci = |words: &[&str]| {
        let mut umoci = Command::new("umoci");
        umoci.args(words);
        step::quiet("large: making the image", &mut umoci)
    };
    umoci(&["init", "--layout", &layout.display().to_string()])?;
    umoci(&["new", "--image", &image])?;
    for piece in pieces(&archive, LAYERS)? {
        fs::write(&tar, piece).with_context(|| tar.display().to_string())?;
        umoci(&["raw", "add-layer", "--image", &image, &tar.display().to_string()])?;
    }
    umoci(&["config", "--image", &image, "--config.cmd", "python3"])?;
    Ok(format!("oci:{image}"))
}

/// A tar archive, cut between entries into `count` of about the same length. Links lead to what came before
/// them, so each piece can be a layer on those before it.
fn pieces(archive: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    let mut ends = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        let end = entry.raw_file_position() + entry.size();
        ends.push(usize::try_from(end)?.next_multiple_of(BLOCK_BYTES));
    }
    let whole = ends.last().copied().unwrap_or_default();
    let mut began = 0;
    let piece = |number: usize| {
        let end = ends.iter().copied().find(|end| *end >= whole * number / count).unwrap_or(whole);
        let piece = [&archive[began..end], &[0; 2 * BLOCK_BYTES]].concat();
        began = end;
        piece
    };
    Ok((1..=count).map(piece).collect())
}

/// What a tar archive is made of; two of zeros end it.
const BLOCK_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_have_every_entry_in_its_order() {
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..10_u8 {
            let bytes = vec![number; 100 * usize::from(number)];
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            // A name this long has a header of its own before the entry's.
            let name = format!("{}/{number}", "long".repeat(40));
            archive.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        let archive = archive.into_inner().unwrap();
        let pieces = pieces(&archive, 3).unwrap();
        assert_eq!(pieces.len(), 3);
        let mut seen = Vec::new();
        for piece in &pieces {
            let mut entries = tar::Archive::new(&piece[..]);
            for entry in entries.entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                assert!(path.ends_with(&format!("/{}", seen.len())), "{path}");
                assert_eq!(bytes, vec![seen.len() as u8; 100 * seen.len()]);
                seen.push(path);
            }
        }
        assert_eq!(seen.len(), 10);
    }
}
