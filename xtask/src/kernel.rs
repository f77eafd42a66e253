//! The guest kernel.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Builds the guest kernel, or finds it in the cache, and says where the `vmlinux` is.
pub(crate) fn build() -> Result<PathBuf> {
    bail!("the guest kernel has no build yet")
}
