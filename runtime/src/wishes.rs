//! What a person asks of `run` and `exec`, in their words and not yet judged.
//!
//! These are the command line's own types, and what a supervisor in the background is handed:
//! `plan.rs` turns them into something that can be done, or says why not.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

// A new container.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wishes {
    /// Remove the container when it has ended.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Run in the background and print the container's id.
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) process: ProcessWishes,
    /// Run PROGRAM instead of the image's entrypoint (an empty one: none at all).
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Virtual CPUs, 1 to 32. A fraction is rounded up: a VM has whole ones. [default: 1]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) cpus: Option<String>,
    /// The VM's memory, from 64m to what this machine has: 512m, 2g. The host spends only what is
    /// touched. [default: 512m]
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Call the container NAME. [default: the beginning of its id]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) name: Option<String>,
    /// Use this directory as root instead of an image's. It is shared: what the container writes is
    /// written there.
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Mount a directory or file of this machine, or a volume by its name; `ro` for reading only. Without
    /// SRC the volume is the container's own.
    #[arg(short, long = "volume", value_name = "[SRC:]DST[:OPTIONS]")]
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    /// Where what the container writes to its root goes: a disk of its own (size=10g), which stays until the
    /// container is removed and is mounted again by `start`, or the VM's memory (type=memory,size=256m). Of a disk
    /// also how much it does in a second, reading and writing: bps=SIZE and iops=NUMBER, and at once, bps-burst=
    /// and iops-burst=. [default: half of the VM's memory]
    #[arg(long, value_name = "size=SIZE[,KEY=VALUE...]")]
    #[serde(default)]
    pub(crate) storage: Option<String>,
    /// The same by keys: type=bind|volume|tmpfs, src, dst, readonly, …
    #[arg(long = "mount", value_name = "KEY=VALUE,…")]
    #[serde(default)]
    pub(crate) mounts: Vec<String>,
    /// Mount an empty directory in the VM's memory: /tmp:size=64m,mode=1777
    #[arg(long, value_name = "DST[:OPTIONS]")]
    #[serde(default)]
    pub(crate) tmpfs: Vec<String>,
    /// Put the container on this network: default, one of `microvm network create`, passt, which needs no root, or
    /// none. What it may receive in a second is rx-bps=SIZE bytes and rx-pps=NUMBER packets, and at once
    /// rx-bps-burst= and rx-pps-burst=; tx- is for what it sends. [default: what MICROVM_NETWORK says, else default,
    /// or passt, where this machine can have it]
    #[arg(long, value_name = "NAME[,KEY=VALUE...]")]
    #[serde(default)]
    pub(crate) network: Option<String>,
    /// Let a port of the container be reached by one of this machine.
    #[arg(short, long = "publish", value_name = "[ADDRESS:]HOST:CONTAINER[/udp]")]
    #[serde(default)]
    pub(crate) publish: Vec<String>,
    /// Ask this server for names, instead of the machine's own.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default)]
    pub(crate) dns: Vec<String>,
    /// Look for short names in this domain, instead of the machine's own.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(default)]
    pub(crate) dns_search: Vec<String>,
    /// Give the resolver this option of resolv.conf(5), instead of the machine's own.
    #[arg(long, value_name = "OPTION")]
    #[serde(default)]
    pub(crate) dns_option: Vec<String>,
    /// Add a line to /etc/hosts; the host on the container's network is host-gateway.
    #[arg(long, value_name = "NAME:ADDRESS")]
    #[serde(default)]
    pub(crate) add_host: Vec<String>,
    /// The container cannot write to its root.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The container's host name. [default: the beginning of its id]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// The image, unless --rootfs is given, and the command to run in it.
    #[arg(trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    pub(crate) image_and_command: Vec<String>,
}

// What a container's process and an added one have in common.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessWishes {
    /// Keep standard input open and connected.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the process a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable; without a value, to what it is here.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Start in this directory of the container.
    #[arg(short, long, alias = "cwd", value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Run as this user: name or number, and :group.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
}
