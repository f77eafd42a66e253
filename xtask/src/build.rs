//! `cargo xtask build`: everything a person needs to run, in `target/microvm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{demo, kernel, paths, rootfs, step};

/// Static, so that the same files run here, in the emulated host and in the guest.
const TRIPLE: &str = "x86_64-unknown-linux-musl";

/// What was built.
pub(crate) struct Outputs {
    /// The directory that holds the four files below and nothing else.
    pub(crate) directory: PathBuf,
    /// The program.
    pub(crate) microvm: PathBuf,
    /// An image for it to run, as `docker save` writes it.
    pub(crate) demo: PathBuf,
}

/// Builds what is missing or out of date.
pub(crate) fn everything() -> Result<Outputs> {
    add_target()?;
    let agent = binary("agent", "agent", "agent")?;
    let microvm = binary("runtime", "microvm", "release")?;
    let vmlinux = kernel::build()?;
    let initramfs = rootfs::build(&agent)?;
    let demo = demo::build()?;

    let directory = paths::outputs();
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let place = |file: &Path, name: &str| place(file, directory.join(name));
    place(&vmlinux, "vmlinux")?;
    place(&initramfs, "initramfs.cpio")?;
    Ok(Outputs { microvm: place(&microvm, "microvm")?, demo: place(&demo, "demo.tar")?, directory })
}

/// `rustup` does not add a target by itself where RUSTUP_AUTO_INSTALL is 0.
fn add_target() -> Result<()> {
    let mut sysroot = Command::new("rustc");
    sysroot.args(["--print", "sysroot"]).current_dir(paths::checkout());
    let sysroot = step::read("finding the Rust toolchain", &mut sysroot)?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TRIPLE).is_dir() {
        return Ok(());
    }
    step::quiet(
        &format!("adding the Rust target {TRIPLE}"),
        Command::new("rustup").args(["target", "add", TRIPLE]).current_dir(paths::checkout()),
    )
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
