//! `cargo xtask build`: everything a person needs to run, in `target/microvm`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::toolchain::{self, TRIPLE};
use crate::{cache, demo, kernel, paths, rootfs, step};

/// What was built.
pub(crate) struct Outputs {
    /// The directory that holds all of them; `microvm` looks for the kernel and the initramfs
    /// beside itself.
    pub(crate) directory: PathBuf,
    /// The program.
    pub(crate) microvm: PathBuf,
    /// An image for it to run, as `docker save` writes it.
    pub(crate) demo: PathBuf,
}

/// Builds what is missing or out of date.
pub(crate) fn everything() -> Result<Outputs> {
    let directory = paths::outputs();
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let _lock = cache::lock(&paths::target().join("microvm.lock"), "build")?;
    toolchain::add_target()?;
    let agent = binary("agent", "agent", "agent")?;
    let microvm = binary("runtime", "microvm", "release")?;
    let vmlinux = kernel::build()?;
    let initramfs = rootfs::build(&agent)?;
    let demo = demo::build()?;

    let place = |file: &Path, name: &str| place(file, directory.join(name));
    place(&vmlinux, "vmlinux")?;
    place(&initramfs, "initramfs.cpio")?;
    Ok(Outputs { microvm: place(&microvm, "microvm")?, demo: place(&demo, "demo.tar")?, directory })
}

/// Builds one static binary and says where cargo put it.
pub(crate) fn binary(package: &str, name: &str, profile: &str) -> Result<PathBuf> {
    let mut cargo = step::cargo();
    cargo.args(["build", "--target", TRIPLE, "--package", package, "--bin", name]);
    cargo.args(["--profile", profile]);
    step::open(&format!("building {name}"), &mut cargo)?;
    Ok(paths::target().join(TRIPLE).join(profile).join(name))
}

/// Makes `to` the same as `from` unless it is. A reader sees the old file or the new one.
pub(crate) fn place(from: &Path, to: PathBuf) -> Result<PathBuf> {
    let same = |from: &fs::Metadata, to: &fs::Metadata| {
        from.len() == to.len() && from.modified().ok() == to.modified().ok()
    };
    let source = fs::metadata(from).with_context(|| from.display().to_string())?;
    if fs::metadata(&to).is_ok_and(|there| same(&source, &there)) {
        return Ok(to);
    }
    let half = to.with_extension("half");
    fs::copy(from, &half).with_context(|| format!("{} to {}", from.display(), half.display()))?;
    if let Ok(modified) = source.modified() {
        fs::File::options()
            .write(true)
            .open(&half)
            .and_then(|file| file.set_modified(modified))
            .with_context(|| half.display().to_string())?;
    }
    fs::rename(&half, &to).with_context(|| to.display().to_string())?;
    Ok(to)
}
