//! Every policy of `run` and `exec`, in pure functions: nothing here touches the machine.

mod defaults;
mod network;
mod places;
mod shares;
mod storage;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use proto::spec::{Container, Mount, Process, Root, Stdio, TerminalSize, User, Who};

use crate::labels::Labels;
use crate::network::own::{BadPort, Newcomer};
use crate::state::record::{BadName, Id, Name};
use crate::wishes::{ProcessWishes, Wishes};

pub(crate) use self::defaults::{LOCALHOST, file};
pub(crate) use self::places::BadMount;
pub(crate) use self::shares::{Extent, Holds, ROOT, Shared, Volume};
pub(crate) use self::storage::Storage;
use self::storage::Upper;
pub(crate) use self::values::{USUAL_RAM_BYTES, limit_bytes, signal_number};

/// What a plan has to know about this machine and the caller.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Memory this machine has.
    pub(crate) memory_bytes: u64,
    /// The size of the caller's terminal, or the usual one.
    pub(crate) terminal: TerminalSize,
    /// Standard input is a terminal.
    pub(crate) stdin_is_terminal: bool,
    /// The caller's environment, as far as it was asked for.
    pub(crate) environment: BTreeMap<String, String>,
    /// A fresh id.
    pub(crate) id: Id,
}

/// The slots of a VM's disks: what it is made from, and what it writes to.
const IMAGE_SLOT: u8 = 0;
const STORAGE_SLOT: u8 = 1;

/// A container and its VM, decided to the last detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The container's id.
    pub(crate) id: Id,
    /// The container's name.
    pub(crate) name: Name,
    /// Virtual CPUs.
    pub(crate) vcpus: u8,
    /// Guest memory.
    pub(crate) ram_bytes: u64,
    /// What the agent is asked to make.
    pub(crate) container: Container,
    /// The signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// What the VM's process is to the host's security modules.
    pub(crate) labels: Labels,
    /// What of the host it sees.
    pub(crate) shares: Vec<Shared>,
    /// The disk it writes to, if it has one.
    pub(crate) storage: Option<Storage>,
    /// And what of the volumes.
    pub(crate) volumes: Vec<Volume>,
    /// The network of our own that it is on.
    pub(crate) network: Option<Newcomer>,
}

/// Why something cannot be done as it was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// No image was named, and no directory either.
    #[error("no image given (and no --rootfs)")]
    NoImage,
    /// Neither the command line nor the image says what to run.
    #[error("no command given, and {source_name} has none")]
    NoCommand {
        /// The image or directory.
        source_name: String,
    },
    /// The memory is no size.
    #[error("--memory {word:?} is not a size like 512m or 2g")]
    MemoryWord {
        /// What was said.
        word: String,
    },
    /// No guest fits in so little.
    #[error("--memory {word} is less than the least a VM needs, {}m", vmm::spec::MIN_RAM_BYTES >> 20)]
    MemoryTooSmall {
        /// What was said.
        word: String,
    },
    /// The machine does not have so much.
    #[error("--memory {word} is more than this machine has, {}m", host_bytes >> 20)]
    MemoryTooLarge {
        /// What was said.
        word: String,
        /// What the machine has.
        host_bytes: u64,
    },
    /// The number of CPUs is none.
    #[error("--cpus {word:?} is not a number from 1 to {}", vmm::spec::MAX_VCPUS)]
    Cpus {
        /// What was said.
        word: String,
    },
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A host name DNS would not take.
    #[error("--hostname {word:?} is not a host name")]
    Hostname {
        /// What was said.
        word: String,
    },
    /// An environment variable without a name.
    #[error("--env {word:?} has no name")]
    Env {
        /// What was said.
        word: String,
    },
    /// Something that cannot be mounted as it was said.
    #[error(transparent)]
    Mount(#[from] BadMount),
    /// Two mounts hide one another.
    #[error("two mounts at {}", place.display())]
    SamePlace {
        /// Where.
        place: PathBuf,
    },
    /// An image that would fill the host with directories.
    #[error("the image has {count} volumes, over the limit of {most}")]
    ManyVolumes {
        /// How many.
        count: usize,
        /// How many it may have.
        most: usize,
    },
    /// A place for what is written that is none.
    #[error("--storage {word:?}: {what}")]
    Storage {
        /// What was said.
        word: String,
        /// What is wrong with it.
        what: String,
    },
    /// What is written goes to the directory itself.
    #[error("--storage is for images: what is written to --rootfs goes there")]
    StorageOfDirectory,
    /// A network that a VM cannot be on.
    #[error("--network {word}: {why}")]
    Network {
        /// What was said.
        word: String,
        /// Why not.
        why: String,
    },
    /// What is said about names and makes no sense.
    #[error("--{option} {word}: {why}")]
    Names {
        /// Which option.
        option: &'static str,
        /// What was said.
        word: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A port that is none.
    #[error(transparent)]
    Port(#[from] BadPort),
    /// A working directory that depends on where one is.
    #[error("--workdir {word:?} is not an absolute path")]
    Workdir {
        /// What was said.
        word: String,
    },
    /// A string that C programs cannot be given.
    #[error("the image's {field} contains a zero byte")]
    ZeroByte {
        /// Where.
        field: &'static str,
    },
    /// A person was promised a terminal, and there is none.
    #[error("-i and -t together need a terminal on standard input")]
    NoTerminal,
}

/// Decides everything about a new container.
///
/// `image` is what the image says about running it, the empty configuration for a directory.
pub(crate) fn container(
    image: &image::Config,
    wishes: &Wishes,
    host: &Host,
) -> Result<Plan, PlanError> {
    let (source_name, command) = source_and_command(wishes)?;
    let args = arguments(image, wishes.entrypoint.as_deref(), command);
    if args.is_empty() {
        return Err(PlanError::NoCommand { source_name: source_name.to_owned() });
    }
    let name = match &wishes.name {
        Some(word) => word.parse()?,
        None => host.id.as_name(),
    };
    let hostname = match &wishes.hostname {
        Some(word) if !values::is_hostname(word) => {
            return Err(PlanError::Hostname { word: word.clone() });
        }
        Some(word) => word.clone(),
        None => host.id.short().to_owned(),
    };
    let stdio = stdio(&wishes.process, wishes.detach, host)?;
    let mut env = defaults::env(&hostname, matches!(stdio, Stdio::Terminal { .. }));
    for variable in &image.env {
        defaults::set(&mut env, variable);
    }
    set_wished(&mut env, &wishes.process.env, host)?;
    let process = Process {
        stdio,
        user: user(wishes.process.user.as_deref().or(image.user.as_deref())),
        args,
        env,
        cwd: match &wishes.process.workdir {
            Some(word) => absolute(word)?,
            None => PathBuf::from("/").join(image.working_dir.as_deref().unwrap_or_default()),
        },
        capabilities: defaults::capabilities(),
        rlimits: defaults::rlimits(),
        ..Process::default()
    };
    no_zero_bytes(&process)?;
    let root = wishes.rootfs.as_ref().map(|path| Shared {
        name: ROOT.to_owned(),
        path: path.clone(),
        holds: Holds::default(),
        recursive: true,
    });
    let mut mounts = shares::mounts(&image.volumes, wishes, host.id.as_ref())?;
    let (vcpus, ram_bytes) = size(wishes.memory.as_deref(), wishes.cpus.as_deref(), host)?;
    let (root_of_container, storage) = match (&root, wishes.storage.as_deref()) {
        (Some(_), Some(_)) => return Err(PlanError::StorageOfDirectory),
        (Some(root), None) => (Root::Share { name: root.name.clone() }, None),
        (None, word) => over_image(storage::upper(word, ram_bytes)?),
    };
    let network = network::newcomer(wishes, &host.id, &name, &hostname)?;
    if root.is_none() {
        // A directory of the host's has its own, and nothing is made in it.
        let files = defaults::names(&hostname, network.is_some());
        add_files(&mut mounts.mounts, files, wishes.read_only);
    }
    Ok(Plan {
        id: host.id.clone(),
        name,
        vcpus,
        ram_bytes,
        container: Container {
            root: root_of_container,
            readonly: wishes.read_only,
            hostname: Some(hostname),
            mounts: mounts.mounts,
            masked_paths: defaults::masked_paths(),
            readonly_paths: defaults::readonly_paths(),
            process,
            ..Container::default()
        },
        // An image's word for it may be anything.
        labels: Labels::default(),
        stop_signal: image
            .stop_signal
            .as_deref()
            .and_then(|word| signal_number(word).ok())
            .unwrap_or(Signal::SIGTERM as i32),
        shares: root.into_iter().chain(mounts.shares).collect(),
        storage,
        volumes: mounts.volumes,
        network,
    })
}

/// Adds files to what is mounted, but where somebody has brought one, or the directory they would be in. As in
/// docker they can be written to where the root can.
pub(crate) fn add_files(mounts: &mut Vec<Mount>, files: Vec<Mount>, read_only: bool) {
    for mut file in files {
        file.options.extend(read_only.then(|| "ro".to_owned()));
        let is_brought = |mount: &Mount| file.destination.starts_with(&mount.destination);
        if !mounts.iter().any(is_brought) {
            mounts.push(file);
        }
    }
}

/// A root made of an image and of what is written over it, and the disk for that.
fn over_image(upper: Upper) -> (Root, Option<Storage>) {
    let (upper_bytes, upper_disk, storage) = match upper {
        Upper::Memory { bytes } => (Some(bytes), None, None),
        Upper::Disk(storage) => (None, Some(STORAGE_SLOT), Some(storage)),
    };
    (Root::Disk { index: IMAGE_SLOT, upper_bytes, upper_disk }, storage)
}

/// The size of a VM, in virtual CPUs and bytes of memory, in the words of the command line.
pub(crate) fn size(
    memory: Option<&str>,
    cpus: Option<&str>,
    host: &Host,
) -> Result<(u8, u64), PlanError> {
    Ok((values::vcpus(cpus)?, values::ram_bytes(memory, host.memory_bytes)?))
}

/// Decides everything about a process that is added to a container whose first one is `first`.
pub(crate) fn exec(
    first: &Process,
    wishes: &ProcessWishes,
    command: &[String],
    host: &Host,
) -> Result<Process, PlanError> {
    let stdio = stdio(wishes, false, host)?;
    let mut env = first.env.clone();
    if matches!(stdio, Stdio::Terminal { .. }) && !env.iter().any(|set| set.starts_with("TERM=")) {
        defaults::set(&mut env, defaults::TERM);
    }
    set_wished(&mut env, &wishes.env, host)?;
    Ok(Process {
        stdio,
        user: wishes.user.as_deref().map_or_else(|| first.user.clone(), |word| user(Some(word))),
        args: command.to_vec(),
        env,
        cwd: match &wishes.workdir {
            Some(word) => absolute(word)?,
            None => first.cwd.clone(),
        },
        ..first.clone()
    })
}

/// What the root is made from, in the words of the command line, and the command behind it.
pub(crate) fn source_and_command(wishes: &Wishes) -> Result<(&str, &[String]), PlanError> {
    match (&wishes.rootfs, wishes.image_and_command.split_first()) {
        (Some(directory), _) => {
            Ok((directory.to_str().unwrap_or("--rootfs"), &wishes.image_and_command))
        }
        (None, Some((image, command))) => Ok((image, command)),
        (None, None) => Err(PlanError::NoImage),
    }
}

/// The rules of docker: a command replaces the image's; an entrypoint replaces both.
fn arguments(image: &image::Config, entrypoint: Option<&str>, command: &[String]) -> Vec<String> {
    let (entrypoint, usual) = match entrypoint {
        Some("") => (Vec::new(), &[][..]),
        Some(program) => (vec![program.to_owned()], &[][..]),
        None => (image.entrypoint.clone(), &image.command[..]),
    };
    let command = if command.is_empty() { usual } else { command };
    entrypoint.into_iter().chain(command.iter().cloned()).collect()
}

fn stdio(wishes: &ProcessWishes, detach: bool, host: &Host) -> Result<Stdio, PlanError> {
    if wishes.tty && wishes.interactive && !detach && !host.stdin_is_terminal {
        return Err(PlanError::NoTerminal);
    }
    Ok(if wishes.tty {
        Stdio::Terminal { size: host.terminal }
    } else {
        Stdio::Pipes { stdin: wishes.interactive, stdout: true, stderr: true }
    })
}

/// Names are looked up by the guest, in the container's own files.
fn user(word: Option<&str>) -> User {
    let who = match word {
        None | Some("") => Who::default(),
        Some(name) => Who::Name { name: name.to_owned() },
    };
    User { who, ..User::default() }
}

fn set_wished(env: &mut Vec<String>, wished: &[String], host: &Host) -> Result<(), PlanError> {
    for word in wished {
        match word.split_once('=') {
            Some(("", _)) => return Err(PlanError::Env { word: word.clone() }),
            Some(_) => defaults::set(env, word),
            None if word.is_empty() => return Err(PlanError::Env { word: word.clone() }),
            None => {
                if let Some(value) = host.environment.get(word) {
                    defaults::set(env, &format!("{word}={value}"));
                }
            }
        }
    }
    Ok(())
}

fn absolute(word: &str) -> Result<PathBuf, PlanError> {
    if word.starts_with('/') {
        Ok(PathBuf::from(word))
    } else {
        Err(PlanError::Workdir { word: word.to_owned() })
    }
}

/// Only an image can say such a thing: a command line cannot.
fn no_zero_bytes(process: &Process) -> Result<(), PlanError> {
    let user = match &process.user.who {
        Who::Name { name } => name.as_str(),
        Who::Ids { .. } => "",
    };
    let cwd = process.cwd.to_string_lossy();
    let fields = [
        ("Cmd or Entrypoint", process.args.iter().any(|arg| arg.contains('\0'))),
        ("Env", process.env.iter().any(|variable| variable.contains('\0'))),
        ("WorkingDir", cwd.contains('\0')),
        ("User", user.contains('\0')),
    ];
    match fields.iter().find(|(_, has)| *has) {
        Some((field, _)) => Err(PlanError::ZeroByte { field }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
