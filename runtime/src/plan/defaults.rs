//! What a container gets that nobody asked for: the sets docker, podman and `runc spec` agree on.

use std::path::PathBuf;

use proto::spec::{Capabilities, Mount, Rlimit};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a terminal's programs are told about it.
pub(super) const TERM: &str = "TERM=xterm";

/// How programs find out that they are in a container (systemd's container interface).
const CONTAINER: &str = "container=microvm";

/// What root in a container may do: enough for packages to install, nothing about the kernel. As podman,
/// and unlike docker, not `CAP_MKNOD`: nothing but that keeps a container from the guest's disks yet.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Destination, type, source and options of each mount, in order.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
];

/// What every machine calls itself.
pub(crate) const LOCALHOST: &str =
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Open files: what the kernel allows a process at most (`fs.nr_open`).
const NOFILE: u64 = 1 << 20;

pub(super) fn env(hostname: &str, terminal: bool) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}"), CONTAINER.to_owned()];
    if terminal {
        env.push(TERM.to_owned());
    }
    env
}

/// Sets `NAME=value`, in the place of an earlier value if there is one. What has no name or no value
/// is nothing to set.
pub(super) fn set(env: &mut Vec<String>, variable: &str) {
    let Some((name @ [_, ..], _)) = variable.split_once('=').map(|(n, v)| (n.as_bytes(), v)) else {
        return;
    };
    let same = |set: &&mut String| set.as_bytes().strip_prefix(name).is_some_and(|r| r[0] == b'=');
    match env.iter_mut().find(same) {
        Some(earlier) => *earlier = variable.to_owned(),
        None => env.push(variable.to_owned()),
    }
}

pub(super) fn capabilities() -> Capabilities {
    let all: Vec<String> = CAPABILITIES.map(str::to_owned).to_vec();
    Capabilities {
        bounding: all.clone(),
        effective: all.clone(),
        permitted: all,
        // Nothing survives into a program that another user runs.
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

pub(super) fn rlimits() -> Vec<Rlimit> {
    vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: NOFILE, hard: NOFILE }]
}

pub(super) fn mounts() -> Vec<Mount> {
    let mount = |(destination, kind, source, options): (&str, &str, &str, &str)| Mount {
        destination: PathBuf::from(destination),
        kind: Some(kind.to_owned()),
        source: Some(source.to_owned()),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    MOUNTS.map(mount).to_vec()
}

/// Files that say who the container is. On a network it has more to know of names than that, so there is no
/// `/etc/hosts` among them then.
pub(super) fn names(hostname: &str, on_network: bool) -> Vec<Mount> {
    let hosts = || format!("{LOCALHOST}127.0.0.1\t{hostname}\n");
    let hosts = (!on_network).then(|| file("/etc/hosts", hosts()));
    hosts.into_iter().chain([file("/etc/hostname", format!("{hostname}\n"))]).collect()
}

/// A file of ours in a container, with this in it.
pub(crate) fn file(destination: &str, content: String) -> Mount {
    Mount { destination: PathBuf::from(destination), content: Some(content), ..Mount::default() }
}

pub(super) fn masked_paths() -> Vec<PathBuf> {
    MASKED_PATHS.map(PathBuf::from).to_vec()
}

pub(super) fn readonly_paths() -> Vec<PathBuf> {
    READONLY_PATHS.map(PathBuf::from).to_vec()
}
