//! A container as the guest sees it.
//!
//! The inner types are the OCI runtime specification's, 1.2, with its field names, cut to what the
//! guest honours: the host has read and judged the whole `config.json` before it sends this.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything the guest needs to make one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Where its root file system is.
    pub root: Root,
    /// The root cannot be written to (`root.readonly`).
    #[serde(default)]
    pub readonly: bool,
    /// `hostname`; the guest's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `mounts`, in order. `bind` sources are paths in the guest.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// `linux.maskedPaths`.
    #[serde(default)]
    pub masked_paths: Vec<PathBuf>,
    /// `linux.readonlyPaths`.
    #[serde(default)]
    pub readonly_paths: Vec<PathBuf>,
    /// `linux.sysctl`, name with dots and value.
    #[serde(default)]
    pub sysctl: Vec<(String, String)>,
    /// `domainname`; the guest's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// The namespaces it has for itself. What is not named it shares with the guest.
    #[serde(default = "Namespace::usual", skip_serializing_if = "Namespace::are_usual")]
    pub namespaces: Vec<Namespace>,
    /// `linux.uidMappings`, for a user namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// `linux.gidMappings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// `linux.timeOffsets`, for a time namespace: clock ("monotonic", "boottime"), seconds,
    /// nanoseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_offsets: Vec<(String, i64, u32)>,
    /// `linux.devices`, beside those every container has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// What its processes may do with devices: the body of a `BPF_PROG_TYPE_CGROUP_DEVICE` program,
    /// an instruction (`struct bpf_insn`) in each number, little endian. Empty lets them do all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_program: Vec<u64>,
    /// `linux.resources` as files of its cgroup (version 2) and what is written to them, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroup: Vec<(String, String)>,
    /// `linux.rootfsPropagation` as `mount` takes it ("rslave"); "rprivate" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_propagation: Option<String>,
    /// `hooks.startContainer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start_hooks: Vec<Hook>,
    /// `process`.
    pub process: Process,
}

/// A namespace of `linux.namespaces[]` that a guest's container can have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Process numbers.
    Pid,
    /// Mounts.
    Mount,
    /// System V and POSIX queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// The view of the cgroup hierarchy.
    Cgroup,
    /// Users and capabilities.
    User,
    /// Clocks.
    Time,
}

impl Namespace {
    /// What a container has that nobody said anything about.
    pub fn usual() -> Vec<Self> {
        vec![Self::Pid, Self::Mount, Self::Ipc, Self::Uts, Self::Cgroup]
    }

    fn are_usual(namespaces: &Vec<Self>) -> bool {
        *namespaces == Self::usual()
    }
}

/// A range of ids inside that stands for one outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// First id in the container.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id in the guest.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// OCI `linux.devices[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// "c" (or "u"), "b" or "p".
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    #[serde(default)]
    pub major: u32,
    /// Minor number.
    #[serde(default)]
    pub minor: u32,
    /// Permission bits; 0666 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner in the container.
    #[serde(default)]
    pub uid: u32,
    /// Group in the container.
    #[serde(default)]
    pub gid: u32,
}

/// A program that is run in the container before its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// Its arguments, with its name.
    #[serde(default)]
    pub args: Vec<String>,
    /// `NAME=value` each. Absent is the environment of whoever runs it: in the container its process's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Seconds it may take; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// The container's state in JSON, for its standard input.
    pub state: String,
}

impl Default for Container {
    fn default() -> Self {
        Self {
            root: Root::default(),
            readonly: false,
            hostname: None,
            mounts: vec![],
            masked_paths: vec![],
            readonly_paths: vec![],
            sysctl: vec![],
            domainname: None,
            namespaces: Namespace::usual(),
            uid_mappings: vec![],
            gid_mappings: vec![],
            time_offsets: vec![],
            devices: vec![],
            device_program: vec![],
            cgroup: vec![],
            root_propagation: None,
            start_hooks: vec![],
            process: Process::default(),
        }
    }
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Root {
    /// A read-only EROFS disk, with an upper layer on top.
    Disk {
        /// Which of the VM's disks, counted from 0 in the order of their slots.
        index: u8,
        /// The most an upper layer in the guest's memory may hold, in bytes; `None` is half of that memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upper_bytes: Option<u64>,
        /// The disk that the upper layer is on, an ext4 one; `None` is the guest's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upper_disk: Option<u8>,
    },
    /// A directory that stands in the guest already.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// A directory of the host.
    Share {
        /// Its name in the VM's file share.
        name: String,
    },
}

impl Default for Root {
    fn default() -> Self {
        Self::Disk { index: 0, upper_bytes: None, upper_disk: None }
    }
}

/// OCI `mounts[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// File system type; `bind` needs none.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Device, name or path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For a `bind` of the host's, instead of a source: the name of the file or directory in the VM's
    /// file share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// Instead of a source: what stands in a file of the container's own that is mounted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Of such a file: by it the container knows others, and [`Request::Introduce`](crate::message::Request::Introduce)
    /// changes it.
    #[serde(default, skip_serializing_if = "crate::is_false")]
    pub introduces: bool,
    /// As `mount -o` takes them.
    #[serde(default)]
    pub options: Vec<String>,
    /// Of a share: what the host has mounted below it, parents first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub submounts: Vec<Submount>,
    /// Of a share that is an empty directory: what the root has at the destination is copied into it first.
    #[serde(default, skip_serializing_if = "crate::is_false")]
    pub copies_up: bool,
}

/// A mount below what a share shows. The guest gets it as a mount of its own, for options to hold of it
/// and for the table of mounts to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submount {
    /// Where, seen from the share.
    pub path: PathBuf,
    /// What the host has it mounted with, as `mount -o` takes it.
    #[serde(default)]
    pub options: Vec<String>,
}

/// OCI `process`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Which streams it has.
    pub stdio: Stdio,
    /// Who it runs as.
    #[serde(default)]
    pub user: User,
    /// Program and arguments, never empty. A program without a slash is looked up in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value` each.
    #[serde(default)]
    pub env: Vec<String>,
    /// Absolute working directory in the container.
    pub cwd: PathBuf,
    /// The five sets; absent means none of them is kept.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Resource limits.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// `/proc/self/oom_score_adj`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// `linux.seccomp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// `process.scheduler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// `process.ioPriority` as ioprio_set(2) takes it: class and level in one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<u16>,
    /// `linux.personality` as personality(2) takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
    /// What its descriptors 3, 4 and so on are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preserved: Vec<Preserved>,
    /// For an exec: the cgroup it begins in, which is there, as a path from the container's own. Absent
    /// is the container's, or its first process's if that one takes no processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// A filter of system calls, ready to be installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default)]
    pub flags: u32,
    /// An instruction (`struct sock_filter`) in each number, little endian; at most 4096.
    pub program: Vec<u64>,
}

/// What sched_setattr(2) takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// As `runtime`.
    pub deadline: u64,
    /// As `runtime`.
    pub period: u64,
}

/// A process's streams, each a connection of its own (see [`crate::stream`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stdio {
    /// Pipes. A stream that is `false` is `/dev/null`.
    Pipes {
        /// Standard input is attached.
        stdin: bool,
        /// Standard output is attached.
        stdout: bool,
        /// Standard error is attached.
        stderr: bool,
    },
    /// A terminal of the container's own.
    Terminal {
        /// Its size to begin with.
        size: TerminalSize,
    },
}

/// A descriptor beside the standard ones: the guest's double of one that the host's caller has handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preserved {
    /// The reading end of a pipe.
    Input,
    /// The writing end of a pipe.
    Output,
    /// A stream socket.
    Socket,
    /// `/dev/null`.
    Null,
}

impl Default for Stdio {
    fn default() -> Self {
        Self::Pipes { stdin: false, stdout: false, stderr: false }
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// OCI `process.user`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// By number, or by name for the guest to look up in the container's own files.
    #[serde(default)]
    pub who: Who,
    /// Further groups.
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    /// File mode creation mask; inherited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
}

/// How a user was named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Who {
    /// As a `config.json` says it.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// As an image's `User` or `-u` says it: `user`, `uid`, `user:group`, `uid:gid`, looked up in
    /// `/etc/passwd` and `/etc/group` of the container, which only the guest can read.
    Name {
        /// The words.
        name: String,
    },
}

impl Default for Who {
    fn default() -> Self {
        Self::Ids { uid: 0, gid: 0 }
    }
}

/// OCI `process.capabilities`: names such as `CAP_CHOWN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The most that `execve` can give.
    pub bounding: Vec<String>,
    /// In force.
    pub effective: Vec<String>,
    /// Kept across `execve` by files that ask for it.
    pub inheritable: Vec<String>,
    /// May be put in force.
    pub permitted: Vec<String>,
    /// Kept across `execve` of any file.
    pub ambient: Vec<String>,
}

/// OCI `process.rlimits[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and its like.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is enforced.
    pub soft: u64,
    /// How far `soft` may be raised.
    pub hard: u64,
}
