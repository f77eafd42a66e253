//! Who pulls: each with a store of its own that is empty.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::race::Contender;
use crate::start::{OURS, Ours};

pub(super) const PODMAN: &str = "podman";

pub(super) const CONTAINERD: &str = "containerd";

/// All of them, us first.
pub(super) const NAMES: [&str; 3] = [OURS, PODMAN, CONTAINERD];

/// One, ready to pull.
pub(super) struct Engine {
    client: Contender,
    pull: &'static [&'static str],
    remove: &'static [&'static str],
    /// The directory that holds images.
    pub(super) store: PathBuf,
    /// Who does it, if that is not the client.
    _daemon: Option<Daemon>,
}

impl Engine {
    /// The one of [`NAMES`] that is `name`, with all that it has in `place`, which is made. What is pulled is
    /// not encrypted, and nothing is shown of it.
    pub(super) fn new(name: &str, outputs: &Path, place: &Path) -> Result<Self> {
        fs::create_dir(place).with_context(|| place.display().to_string())?;
        let below = |name: &str| place.join(name).display().to_string();
        let store = place.join("store");
        Ok(match name {
            PODMAN => Self {
                client: Contender::of(
                    PODMAN,
                    &[
                        "--root",
                        &below("store"),
                        "--runroot",
                        &below("run"),
                        "--storage-driver",
                        "overlay",
                    ],
                ),
                pull: &["pull", "--quiet", "--tls-verify=false"],
                remove: &["rmi"],
                store,
                _daemon: None,
            },
            CONTAINERD => {
                let socket = below("socket");
                Self {
                    _daemon: Some(containerd(place, &store, &socket)?),
                    client: Contender::of("ctr", &["--address", &socket]),
                    pull: &["images", "pull", "--plain-http", "--snapshotter", "overlayfs"],
                    remove: &["images", "remove", "--sync"],
                    store,
                }
            }
            _ => Self {
                client: Ours::new(outputs, place).alone(),
                pull: &["pull", "--quiet"],
                remove: &["rmi"],
                store,
                _daemon: None,
            },
        })
    }

    pub(super) fn pull(&self, reference: &str) -> Contender {
        self.client.clone().then(&[self.pull, &[reference]].concat())
    }

    pub(super) fn remove(&self, reference: &str) -> Contender {
        self.client.clone().then(&[self.remove, &[reference]].concat())
    }
}

/// The first line of what one says about its version.
pub(super) fn version(name: &str, outputs: &Path) -> Result<String> {
    let program = if name == OURS { outputs.join(name) } else { name.into() };
    Contender::new(program, &["--version"]).first_line()
}

/// Without what Kubernetes wants of it, which would only start more.
fn containerd(place: &Path, store: &Path, socket: &str) -> Result<Daemon> {
    let config = place.join("containerd.toml");
    let said = format!(
        "version = 2\nroot = {store:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n",
        place.join("state")
    );
    fs::write(&config, said).with_context(|| config.display().to_string())?;
    let mut command = Command::new(CONTAINERD);
    command.arg("--config").arg(&config);
    Daemon::start(command, "successfully booted")
}
