//! Where things are: the checkout, what is built in it, and the cache beside it.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};

/// The root of the checkout that `cargo xtask` was called in. Cargo says it; a program that is run
/// without cargo remembers where it was built.
pub(crate) fn checkout() -> &'static Path {
    static CHECKOUT: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = || env!("CARGO_MANIFEST_DIR").into();
        let xtask = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built));
        xtask.parent().map_or_else(|| xtask.clone(), Path::to_owned)
    });
    &CHECKOUT
}

/// Cargo's `target` directory. It is the checkout's own whatever `CARGO_TARGET_DIR` says, since the
/// emulated host shares exactly this one.
pub(crate) fn target() -> PathBuf {
    checkout().join("target")
}

/// Where `cargo xtask build` puts what people run: `microvm`, `vmlinux`, `initramfs.cpio`,
/// `demo.tar`.
pub(crate) fn outputs() -> PathBuf {
    target().join("microvm")
}

/// What outlives a clone: `$XDG_CACHE_HOME/microvm`, else `~/.cache/microvm`.
pub(crate) fn cache() -> Result<PathBuf> {
    let caches = match env::var_os("XDG_CACHE_HOME") {
        Some(caches) if Path::new(&caches).is_absolute() => PathBuf::from(caches),
        _ => {
            let home = env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
            PathBuf::from(home).join(".cache")
        }
    };
    Ok(caches.join("microvm"))
}
