//! What this machine can do, one fact at a time, each with what to do about it.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;

use serde::Serialize;

use crate::host;
use crate::kvm;
use crate::network;
use crate::settings::{BootFile, Settings};

/// One fact.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    /// What it is about.
    pub(crate) name: &'static str,
    /// How it stands.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

/// How a fact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// Not as it could be; containers run.
    Fair,
    /// No container runs.
    Bad,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Fair => "note",
            Verdict::Bad => "BAD ",
        };
        write!(f, "{mark} {:15} {}", self.name, self.finding)?;
        match &self.fix {
            Some(fix) => write!(f, ": {fix}"),
            None => Ok(()),
        }
    }
}

fn good(name: &'static str, finding: impl Into<String>) -> Fact {
    Fact { name, verdict: Verdict::Good, finding: finding.into(), fix: None }
}

fn fair(name: &'static str, finding: impl Into<String>, fix: &str) -> Fact {
    let fix = Some(fix.to_owned());
    Fact { name, verdict: Verdict::Fair, finding: finding.into(), fix }
}

fn bad(name: &'static str, finding: impl Into<String>, fix: &str) -> Fact {
    Fact { verdict: Verdict::Bad, ..fair(name, finding, fix) }
}

/// Looks at everything. Makes nothing but the two directories, which `run` would make too.
pub(crate) fn examine(settings: &Settings) -> Vec<Fact> {
    let mut facts = vec![kvm_present()];
    match kvm::open() {
        Ok(kvm) => facts
            .extend([good("kvm permitted", "it opens for reading and writing"), kvm_real(&kvm)]),
        Err(kvm::KvmError::Absent) => {}
        Err(error) => facts.push(bad(
            "kvm permitted",
            chain(&error),
            "run as a member of the group that owns it",
        )),
    }
    facts.extend([
        boot_file("kernel", BootFile::Kernel, settings),
        boot_file("initramfs", BootFile::Initramfs, settings),
        directory("state directory", &settings.root, "name another with --root"),
        directory("image store", &settings.store, "name another with --store"),
        memory(),
        cgroups(),
        network(),
        user_namespaces(),
    ]);
    facts
}

fn kvm_present() -> Fact {
    if Path::new(kvm::DEVICE).exists() {
        return good("kvm present", kvm::DEVICE);
    }
    bad(
        "kvm present",
        format!("{} does not exist", kvm::DEVICE),
        "load the kvm_intel or kvm_amd module, with virtualization enabled in the firmware; in a VM, \
         have its host enable nested virtualization; in a container, pass the device in",
    )
}

fn kvm_real(kvm: &File) -> Fact {
    match kvm::prove(kvm) {
        Ok(()) => good("kvm real", "a guest's kernel code runs on the processor"),
        Err(error) => bad(
            "kvm real",
            chain(&error),
            "use a machine with hardware virtualization, or an emulated one (cargo xtask host)",
        ),
    }
}

fn boot_file(name: &'static str, file: BootFile, settings: &Settings) -> Fact {
    match file.open(settings) {
        Ok((_, path)) => good(name, path.display().to_string()),
        Err(error) => bad(name, chain(&error), "cargo xtask build makes one"),
    }
}

fn directory(name: &'static str, path: &Path, fix: &str) -> Fact {
    let try_it = || {
        fs::create_dir_all(path)?;
        tempfile::tempfile_in(path).and_then(|mut file| std::io::Write::write_all(&mut file, b"x"))
    };
    match try_it() {
        Ok(()) => good(name, path.display().to_string()),
        Err(error) => bad(name, format!("{}: {error}", path.display()), fix),
    }
}

fn memory() -> Fact {
    const LITTLE: u64 = 1 << 30;
    match host::memory_bytes() {
        Ok(bytes) if bytes < LITTLE => {
            fair("memory", format!("{} MiB", bytes >> 20), "give containers less, with --memory")
        }
        Ok(bytes) => good("memory", format!("{} MiB", bytes >> 20)),
        Err(error) => bad("memory", chain(&error), "mount /proc"),
    }
}

fn cgroups() -> Fact {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if unified {
        return good("cgroups", "version 2");
    }
    if Path::new("/sys/fs/cgroup").read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return good("cgroups", "version 1");
    }
    fair("cgroups", "none mounted", "mount cgroup2 at /sys/fs/cgroup to limit VMs on the host")
}

/// What networks need: nftables and a tap of the kernel's, or for those who may have none the network stack in user space.
fn network() -> Fact {
    match network::usual() {
        Ok(_) if rustix::process::geteuid().is_root() => tun(),
        Ok(program) => good("network", program),
        Err(missing @ network::Missing::Passt) => {
            fair("network", missing.to_string(), "install it for container networks")
        }
        Err(missing @ network::Missing::Nftables(_)) => {
            fair("network", missing.to_string(), "load nf_tables for container networks")
        }
    }
}

fn tun() -> Fact {
    const TUN: &str = "/dev/net/tun";
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => good("tun", TUN),
        Err(error) => {
            fair("tun", format!("{TUN}: {error}"), "load the tun module for container networks")
        }
    }
}

fn user_namespaces() -> Fact {
    const MOST: &str = "/proc/sys/user/max_user_namespaces";
    let number: Option<u64> =
        fs::read_to_string(MOST).ok().and_then(|text| text.trim().parse().ok());
    match number {
        Some(most @ 1..) => good("user namespaces", format!("up to {most}")),
        Some(0) => {
            fair("user namespaces", "none allowed", "set user.max_user_namespaces with sysctl")
        }
        None => fair("user namespaces", "not in this kernel", "VMs run without that fence"),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let errors = std::iter::successors(Some(error), |error| (**error).source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
