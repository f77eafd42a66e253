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
    /// `process`.
    pub process: Process,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Root {
    /// A read-only EROFS disk, with an upper layer in the guest's memory on top.
    Disk {
        /// Which of the VM's disks, counted from 0 in the order of their slots.
        index: u8,
        /// The most the upper layer may hold, in bytes; `None` is half of the guest's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upper_bytes: Option<u64>,
    },
    /// A directory that stands in the guest already.
    Directory {
        /// Its path.
        path: PathBuf,
    },
}

/// OCI `mounts[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// File system type; `bind` needs none.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Device, name or path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// As `mount -o` takes them.
    #[serde(default)]
    pub options: Vec<String>,
}

/// OCI `process`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
