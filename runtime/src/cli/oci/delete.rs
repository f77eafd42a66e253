use std::path::Path;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::exit::{Failure, warn};
use crate::network::{self, Trace};
use crate::oci::hooks;
use crate::oci::state::{Known, State};
use crate::settings::Settings;
use crate::state::record::Status;
use crate::state::{Dir, Root, StateError};
use crate::storage;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(in crate::cli) struct Delete {
    /// End it first if it is running; no error if there is none.
    #[arg(short, long)]
    force: bool,
    /// The container.
    id: String,
}

/// It is alive.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete container {id} that is not stopped: {status}")]
struct NotStopped {
    id: String,
    status: Status,
}

impl Delete {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        delete(settings, &self.id, self.force)?;
        Ok(0)
    }
}

pub(in crate::cli) fn delete(settings: &Settings, id: &str, force: bool) -> Result<(), Failure> {
    let root = Root::open(&settings.root)?;
    let entry = match root.find(id) {
        // Of one whose deletion was killed on the way something may be left without a name.
        Err(StateError::NotFound { .. }) if force => return Ok(root.clear_halves()?),
        found => found?,
    };
    if entry.record.is_err() && force {
        // What is written about it cannot be read; what is alive of it can be found.
        end_at_once(&entry.dir)?;
        return remove(&root, &entry.dir, None).map(drop);
    }
    let Known { dir, record, oci, mut status } = Known::new(entry)?;
    let container = Visited::of(dir, record);
    if !force && status == Status::Running && is_on_its_way_out(&container)? {
        status = Status::Stopped;
    }
    if !force && !matches!(status, Status::Created | Status::Stopped) {
        return Err(NotStopped { id: id.to_owned(), status }.into());
    }
    match status {
        Status::Stopped => {}
        // A guest that is stopped hears no signal.
        Status::Paused | Status::Creating => end_at_once(container.dir())?,
        Status::Created | Status::Running => container.end(None)?,
    }
    if !remove(&root, container.dir(), container.record.storage.as_deref())? {
        // Somebody else was first.
        let gone = StateError::NotFound { word: id.to_owned() };
        return if force { Ok(()) } else { Err(gone.into()) };
    }
    if let Some(Trace { namespace, interfaces }) = &oci.network {
        network::clear(namespace, interfaces);
    }
    let gone = State::new(&container.record, &oci, Status::Stopped);
    for hook in &oci.poststop {
        // The container is gone whatever they make of it (runtime specification, "Lifecycle").
        if let Err(error) = hooks::run(std::slice::from_ref(hook), &gone) {
            warn(&error);
        }
    }
    Ok(())
}

/// Removes what an ended container has on the host. Its cgroup goes first: whoever makes another
/// container of this name gets one of its own.
fn remove(root: &Root, dir: &Dir, disk: Option<&Path>) -> Result<bool, Failure> {
    let cgroup = dir.cgroup();
    root.remove(dir, || {
        cgroup.map_or(Ok(()), |cgroup| cgroup.remove())?;
        Ok(disk.map_or(Ok(()), storage::remove)?)
    })
}

/// Whether its process has ended and its VM is about to: a VM takes longer to end than a process, and
/// engines do not know that it is there.
fn is_on_its_way_out(container: &Visited) -> Result<bool, Failure> {
    Ok(container.signal(0, false).is_err() && container.is_gone_soon()?)
}

fn end_at_once(dir: &Dir) -> Result<(), Failure> {
    let Some(supervisor) = dir.supervisor() else { return Ok(()) };
    let _ = pidfd_send_signal(&supervisor, Signal::KILL);
    poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], None)?;
    Ok(())
}
