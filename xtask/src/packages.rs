//! Debian packages that a step needs: asked for by name, installed when missing.

use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::step;

/// Makes sure that all of `names` are installed, and says which it installs.
///
/// Off Debian, or for a user who may not install, the error says which are missing.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!("only root can install the Debian packages that are missing: {list}");
    }
    refresh()?;
    step::quiet(
        &format!("installing Debian packages: {list}"),
        apt().args(["install", "-y", "--no-install-recommends"]).args(&missing),
    )
}

/// Refreshes the package lists, once in a run of this program: a new machine's are empty, and an old
/// one's name versions that mirrors have dropped.
pub(crate) fn refresh() -> Result<()> {
    static LISTS: Once = Once::new();
    let mut fresh = Ok(());
    LISTS.call_once(|| fresh = step::quiet("refreshing the package lists", apt().arg("update")));
    fresh
}

fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let list = names.join(" ");
    // It fails when one is unknown, and still answers for the others.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(names)
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("dpkg-query, to see whether these are installed: {list}"))?;
    let known = String::from_utf8_lossy(&known.stdout);
    let installed = |name: &&&str| known.lines().any(|line| line == format!("{name} installed"));
    Ok(names.iter().filter(|name| !installed(name)).copied().collect())
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-qq", "-o", "DPkg::Lock::Timeout=600"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}
