//! OCI bundles, for those who are told of one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::race::Contender;

/// A directory with a `config.json` and a root.
pub(crate) struct Bundle(PathBuf);

impl Bundle {
    /// As `runc spec` makes it, for `/bin/true` without a terminal, on a copy of `root`.
    pub(crate) fn new(root: &Path, scratch: &Path) -> Result<Self> {
        let bundle = Self(scratch.join("bundle"));
        let path = bundle.path();
        fs::create_dir(&bundle.0).with_context(|| path.clone())?;
        let (root, copy) =
            (root.display().to_string(), bundle.0.join("rootfs").display().to_string());
        Contender::new("cp", &["-a", &root, &copy]).lap(scratch)?;
        Contender::new("runc", &["spec", "--bundle", &path]).lap(scratch)?;
        bundle.edit(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["/bin/true"]);
        })?;
        Ok(bundle)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Changes its `config.json`.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let config = self.0.join("config.json");
        let read = fs::read_to_string(&config).with_context(|| config.display().to_string())?;
        let mut spec = serde_json::from_str(&read).with_context(|| config.display().to_string())?;
        change(&mut spec);
        fs::write(&config, spec.to_string()).with_context(|| config.display().to_string())
    }
}
