//! Setting a container up, from inside: the calling process is forked into new namespaces and
//! becomes the container's first.
//!
//! The order is the story: a root, what is mounted in it, what everyone expects there, what is hidden
//! again, and then into it.

pub(crate) mod cgroup;
mod copy_up;
mod devices;
mod masks;
mod mounts;
pub(crate) mod namespaces;
mod options;
pub(crate) mod proc;
mod root;
mod shares;
pub(crate) mod within;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use proto::message::{Fault, FaultKind};
use proto::spec::{Container, Namespace, Root, Stdio};
use rustix::fs::{CWD, FileType, Mode, fstat};
use rustix::io::Errno;

use crate::control::ChildEnd;
use crate::process::terminal::{Terminal, TerminalError};
use crate::sys::{self, NewNamespaces};
use crate::words::words;
pub(crate) use root::Stage;
use within::Within;

/// Why a container cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    Shares(#[from] shares::SharesError),
    #[error(transparent)]
    Root(#[from] root::RootError),
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Device(#[from] devices::DeviceError),
    #[error(transparent)]
    Mask(#[from] masks::MaskError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("process.cwd {path}: {}", words(*.errno))]
    Cwd { path: String, errno: Errno },
    #[error("{step}: {}", words(*.errno))]
    Step { step: &'static str, errno: Errno },
}

impl From<SetupError> for Fault {
    fn from(error: SetupError) -> Self {
        let of_the_spec = match &error {
            SetupError::Mount(error) => error.is_of_the_spec(),
            SetupError::Root(error) => matches!(
                error,
                root::RootError::NoSuchSlot { .. }
                    | root::RootError::Directory { .. }
                    | root::RootError::NoPropagation { .. }
            ),
            SetupError::Mask(masks::MaskError::Sysctl { .. }) | SetupError::Cwd { .. } => true,
            SetupError::Device(error) => error.is_of_the_spec(),
            SetupError::Shares(_)
            | SetupError::Mask(_)
            | SetupError::Terminal(_)
            | SetupError::Step { .. } => false,
        };
        let kind = if of_the_spec { FaultKind::InvalidSpec } else { FaultKind::System };
        Self { kind, message: error.to_string() }
    }
}

/// What is mounted at `path` of the calling process's, without what is mounted in it.
pub(crate) fn copy_of_one(path: &Path) -> Result<OwnedFd, Errno> {
    mounts::copy_of(CWD, path, options::Bind::One)
}

/// Whether a descriptor is one of a directory.
pub(crate) fn is_directory(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Directory)
}

/// Mounts what a container with users of its own is made of, while the calling process is still the
/// guest's root: disks and nodes of devices take no other's word.
pub(crate) fn set_the_stage(spec: &Container, stage: &Stage) -> Result<(), SetupError> {
    shares::mount(spec)?;
    stage.mount(&spec.root)?;
    Ok(devices::lay_out(spec, stage)?)
}

/// Makes the calling process, forked into a container's namespaces and cgroup, stand in the
/// container's root. Gives the terminal of its first process, if it has one. `proc` is the guest's
/// `/proc`; `control` hears what the root is made of.
pub(crate) fn set_up(
    spec: &Container,
    stage: &Stage,
    proc: BorrowedFd<'_>,
    control: &ChildEnd,
) -> Result<Option<Terminal>, SetupError> {
    let step = |step| move |errno| SetupError::Step { step, errno };
    // Modes below are meant as they are written.
    rustix::process::umask(Mode::empty());
    if namespaces::has_users(spec) {
        namespaces::take_root().map_err(step("user namespace"))?;
    }
    if spec.namespaces.contains(&Namespace::Cgroup) {
        sys::unshare(NewNamespaces::CGROUP).map_err(step("cgroup namespace"))?;
    }
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(step("hostname"))?;
    }
    if let Some(domainname) = &spec.domainname {
        rustix::system::setdomainname(domainname.as_bytes()).map_err(step("domainname"))?;
    }
    masks::set_kernel_values(proc, &spec.sysctl)?;

    let tree = match namespaces::has_users(spec) {
        true => stage.take_over()?,
        false => {
            shares::mount(spec)?;
            stage.mount(&spec.root)?
        }
    };
    if let (Root::Disk { .. }, false) = (&spec.root, namespaces::has_users(spec)) {
        control.hand_over(&stage.layers()?).map_err(step("layers"))?;
    }
    let root = Within::new(&tree);
    for mount in &spec.mounts {
        let file = mounts::mount(&root, mount)?;
        if let Some(file) = file.filter(|_| mount.introduces) {
            control.introduce(file.as_fd()).map_err(step("acquaintances"))?;
        }
    }
    devices::make(&root, spec, stage)?;
    root.make_directory(&spec.process.cwd)
        .map_err(|errno| SetupError::Cwd { path: spec.process.cwd.display().to_string(), errno })?;
    let terminal = match spec.process.stdio {
        Stdio::Terminal { size } => Some(Terminal::open(&root, size)?),
        Stdio::Pipes { .. } => None,
    };
    if let Some(terminal) = &terminal {
        devices::console(&root, terminal)?;
    }
    masks::mask(&root, &spec.masked_paths)?;
    masks::protect(&root, &spec.readonly_paths)?;
    root::enter(&tree)?;
    if let Some(word) = &spec.root_propagation {
        root::propagate(&tree, word)?;
    }
    for mount in &spec.mounts {
        mounts::propagate(&root, mount)?;
    }
    if spec.readonly {
        masks::make_read_only(tree.as_fd(), false).map_err(step("root.readonly"))?;
    }
    Ok(terminal)
}
