use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::exit::Failure;
use crate::oci::VERSION;

#[derive(Args, Debug)]
pub(in crate::cli) struct Spec {
    /// The bundle's directory. [default: this directory]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// One for a user who is not root.
    #[arg(long)]
    rootless: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

impl Spec {
    pub(super) fn call(self) -> Result<u8, Failure> {
        let path = self.bundle.unwrap_or_else(|| PathBuf::from(".")).join("config.json");
        let text = serde_json::to_string_pretty(&template(self.rootless))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{text}"))
            .map_err(|source| WriteError { path, source })?;
        Ok(0)
    }
}

/// What runc's has, so that a bundle that was begun with one goes on with the other.
fn template(rootless: bool) -> serde_json::Value {
    let few = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut spec = json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": few, "effective": few, "permitted": few },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "microvm",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    if rootless {
        let us = [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()];
        let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        spec["linux"]["uidMappings"] = mapping(us[0]);
        spec["linux"]["gidMappings"] = mapping(us[1]);
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": "user" }));
        }
        if let Some(linux) = spec["linux"].as_object_mut() {
            linux.remove("resources");
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_bundle_that_can_be_run() {
        for rootless in [false, true] {
            let json = serde_json::to_string(&template(rootless)).unwrap();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&json).unwrap();
            assert_eq!(spec.version(), VERSION);
            assert!(spec.process().is_some() && spec.root().is_some());
        }
    }
}
