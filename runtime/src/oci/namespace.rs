//! The VM's namespaces on the host. A guest's processes have theirs in the guest; what is left for the
//! host is where the VM is on the network.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};

use super::plan::Network;

/// Why the network namespace was not entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// There is none at its path, or it is no network namespace.
    #[error("linux.namespaces[network].path {}", path.display())]
    Join {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel makes none.
    #[error("new network namespace")]
    Make(#[source] io::Error),
}

/// Enters `network`, with this process and all it will start. It must have one thread.
pub(super) fn enter(network: &Network) -> Result<(), NetworkError> {
    match network {
        Network::New => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| NetworkError::Make(error.into()))
        }
        Network::At(path) => File::open(path)
            .and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?))
            .map_err(|source| NetworkError::Join { path: path.clone(), source }),
    }
}
