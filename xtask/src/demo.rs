//! The demo image: Debian's `busybox-static` as a `docker save` archive.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Builds the archive, or finds it in the cache, and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    bail!("the demo image has no build yet")
}
