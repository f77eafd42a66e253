//! Setting a container up, from inside: the calling process is forked into new namespaces and
//! becomes the container's first.
//!
//! The order is the story: a root, what is mounted in it, what everyone expects there, what is hidden
//! again, and then into it.

pub(crate) mod cgroup;
mod devices;
mod masks;
mod mounts;
mod options;
mod root;
pub(crate) mod within;

use std::os::fd::{AsFd, BorrowedFd};

use proto::message::{Fault, FaultKind};
use proto::spec::{Container, Stdio};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::process::terminal::{Terminal, TerminalError};
use crate::sys;
use crate::words::words;
pub(crate) use root::Stage;
use within::Within;

/// Why a container cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
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
                root::RootError::NoSuchSlot { .. } | root::RootError::Directory { .. }
            ),
            SetupError::Mask(masks::MaskError::Sysctl { .. }) | SetupError::Cwd { .. } => true,
            SetupError::Mask(_)
            | SetupError::Device(_)
            | SetupError::Terminal(_)
            | SetupError::Step { .. } => false,
        };
        let kind = if of_the_spec { FaultKind::InvalidSpec } else { FaultKind::System };
        Self { kind, message: error.to_string() }
    }
}

/// Makes the calling process, forked into a container's namespaces and cgroup, stand in the
/// container's root. Gives the terminal of its first process, if it has one. `proc` is the guest's
/// `/proc`.
pub(crate) fn set_up(
    spec: &Container,
    stage: &Stage,
    proc: BorrowedFd<'_>,
) -> Result<Option<Terminal>, SetupError> {
    let step = |step| move |errno| SetupError::Step { step, errno };
    // Modes below are meant as they are written.
    rustix::process::umask(Mode::empty());
    sys::new_cgroup_namespace().map_err(step("cgroup namespace"))?;
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(step("hostname"))?;
    }
    masks::set_kernel_values(proc, &spec.sysctl)?;

    let tree = stage.mount(&spec.root)?;
    let root = Within::new(&tree);
    for mount in &spec.mounts {
        mounts::mount(&root, mount)?;
    }
    devices::make(&root, &spec.mounts)?;
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
    if spec.readonly {
        masks::make_read_only(tree.as_fd(), false).map_err(step("root.readonly"))?;
    }
    Ok(terminal)
}
