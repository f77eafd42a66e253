use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::signal::Signal;
use proto::spec::{Preserved, Stdio};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::known;
use crate::exit::Failure;
use crate::oci::preserved::{self, PreserveError};
use crate::oci::supervise::{self, Creation, Order, Streams};
use crate::settings::Settings;
use crate::signals::Signals;
use crate::terminal::{self, Raw};

#[derive(Args, Debug)]
pub(in crate::cli) struct Create {
    #[command(flatten)]
    bundled: Bundled,
    /// The container's id, unique on this host.
    id: String,
}

// What `create` and `run` of a bundle have in common.
#[derive(Args, Clone, Debug, Default)]
pub(in crate::cli) struct Bundled {
    /// The bundle's directory. [default: this directory]
    #[arg(short, long, value_name = "DIR")]
    pub(in crate::cli) bundle: Option<PathBuf>,
    /// Send the terminal's master to the Unix socket at PATH.
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) console_socket: Option<PathBuf>,
    /// Write the container's process number to FILE.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) pid_file: Option<PathBuf>,
    /// Give it N descriptors more, from 3 on: pipes, stream sockets, files, /dev/null.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) preserve_fds: u32,
    /// For other runtimes: a guest's container is always moved into its root.
    #[arg(long)]
    pub(in crate::cli) no_pivot: bool,
    /// For other runtimes: a guest has its own session keyrings.
    #[arg(long)]
    pub(in crate::cli) no_new_keyring: bool,
}

/// A demand that a VM cannot meet.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemandError {
    #[error("--pid-file {}", path.display())]
    PidFile { path: PathBuf, source: std::io::Error },
}

impl Create {
    pub(super) fn call(self, settings: Settings) -> Result<u8, Failure> {
        let preserved = self.bundled.preserved()?;
        create(settings, &self.bundled, &self.id, false, &preserved)?;
        Ok(0)
    }
}

/// Creates the container and gives back its process number. `ours` may have our terminal.
fn create(
    settings: Settings,
    bundled: &Bundled,
    id: &str,
    ours: bool,
    preserved: &[(Preserved, OwnedFd)],
) -> Result<u32, Failure> {
    let Bundled { bundle, console_socket, pid_file, .. } = bundled;
    let order = Order::Create(Creation {
        settings: settings.clone(),
        name: id.parse()?,
        bundle: std::path::absolute(bundle.as_deref().unwrap_or(Path::new(".")))?,
        console_socket: console_socket.as_deref().map(std::path::absolute).transpose()?,
        own_terminal: ours && terminal::on_stdin(),
        listened: preserved::listened(),
    });
    let pid = supervise::start(&order, Streams::Callers, preserved)?;
    if let Some(path) = pid_file
        && let Err(source) = write_pid(path, pid)
    {
        // Nobody would know of it.
        let _ = super::delete::delete(&settings, id, true);
        return Err(DemandError::PidFile { path: path.clone(), source }.into());
    }
    Ok(pid)
}

/// Whole or not at all: others wait for the file to appear.
pub(super) fn write_pid(path: &Path, pid: u32) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, pid.to_string())?;
    fs::rename(&new, path)
}

/// `run` of a bundle: create, start, and unless it is detached, wait and delete.
pub(in crate::cli) fn run(
    settings: Settings,
    bundled: &Bundled,
    id: &str,
    detach: bool,
    keep: bool,
) -> Result<u8, Failure> {
    let preserved = bundled.preserved()?;
    let signals = if detach { None } else { Some(Signals::catch()?) };
    let pid = create(settings.clone(), bundled, id, !detach, &preserved)?;
    // They are the container's from here on, and their ends its end.
    drop(preserved);
    let end = start_and_wait(&settings, bundled, id, pid, signals.as_ref());
    if !detach && !keep || end.is_err() {
        super::delete::delete(&settings, id, true)?;
    }
    end
}

fn start_and_wait(
    settings: &Settings,
    bundled: &Bundled,
    id: &str,
    pid: u32,
    signals: Option<&Signals>,
) -> Result<u8, Failure> {
    let container = known(settings, id)?;
    let supervisor = Pid::from_raw(pid.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
    let supervisor = pidfd_open(supervisor, PidfdFlags::empty())?;
    let talks = signals.is_some() && bundled.console_socket.is_none() && terminal::on_stdin();
    let terminal = matches!(container.record.process.stdio, Stdio::Terminal { .. });
    let _raw = (talks && terminal).then(Raw::enter).transpose()?;
    super::start::start(settings, id)?;
    let Some(signals) = signals else { return Ok(0) };
    loop {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds =
            [PollFd::new(&supervisor, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = signals.next()? {
            if let Ok(signal) = Signal::try_from(signal)
                && let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32)
            {
                let _ = pidfd_send_signal(&supervisor, signal);
            }
        }
        if !fds[0].revents().is_empty() {
            return Ok(container.dir.wait()?.unwrap_or(128 + 9));
        }
    }
}

impl Bundled {
    /// What the process is to have of ours.
    fn preserved(&self) -> Result<Vec<(Preserved, OwnedFd)>, PreserveError> {
        preserved::take(preserved::listened().saturating_add(self.preserve_fds))
    }

    /// Whether `words` of `run` name a bundle's container: it is said, or we stand in a bundle.
    pub(in crate::cli) fn is_meant(&self, words: &[String]) -> bool {
        let said =
            self.bundle.is_some() || self.console_socket.is_some() || self.pid_file.is_some();
        said || words.len() == 1 && stands_in_bundle()
    }
}

/// A `config.json` can be anybody's; a bundle's says which version of the specification it is of.
fn stands_in_bundle() -> bool {
    #[derive(serde::Deserialize)]
    struct Versioned {
        #[serde(rename = "ociVersion")]
        _version: String,
    }
    crate::oci::bundle::read::<Versioned>(Path::new("config.json")).is_ok()
}
