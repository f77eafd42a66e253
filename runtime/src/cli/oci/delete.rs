use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, pidfd_send_signal};

use crate::exit::Failure;
use crate::oci::state::Known;
use crate::oci::{cgroup, hooks};
use crate::settings::Settings;
use crate::state::record::Status;
use crate::state::{Entry, Root, StateError};
use crate::visit::Visited;

/// Delete a container that has ended or was never started.
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
        Err(StateError::NotFound { .. }) if force => return Ok(()),
        found => found?,
    };
    let name = entry.dir.name().clone();
    if entry.record.is_err() && force {
        // What is written about it cannot be read; what is alive of it can be found.
        let place = entry.dir.supervisor_number().map(cgroup::of);
        end_at_once(&entry)?;
        if let Some(place) = place.filter(|place| *place != cgroup::of(getpid())) {
            // One that it shares with others is busy, and stays.
            let _ = cgroup::remove(&place);
        }
        return Ok(root.remove(&name)?);
    }
    let alive = entry.alive;
    let known = Known::new(entry)?;
    if alive {
        if !force && known.status != Status::Created {
            return Err(NotStopped { id: id.to_owned(), status: known.status }.into());
        }
        match (known.status, Visited::new(root.find(id)?)) {
            // A guest that is stopped hears no signal.
            (Status::Paused | Status::Creating, _) => end_at_once(&root.find(id)?)?,
            (_, Ok(container)) => container.end(None)?,
            // It has ended meanwhile.
            (_, Err(_)) => {}
        }
    }
    if let Some(place) = &known.oci.cgroup {
        cgroup::remove(place)?;
    }
    root.remove(&name)?;
    let gone = Known { status: Status::Stopped, ..known };
    for hook in &gone.oci.poststop {
        // The container is gone whatever they make of it (runtime specification, "Lifecycle").
        if let Err(error) = hooks::run(std::slice::from_ref(hook), &gone.state()) {
            eprintln!("microvm: warning: {}", Failure::of(&error).message);
        }
    }
    Ok(())
}

fn end_at_once(entry: &Entry) -> Result<(), Failure> {
    let Some(supervisor) = entry.dir.supervisor() else { return Ok(()) };
    let _ = pidfd_send_signal(&supervisor, Signal::KILL);
    poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], None)?;
    Ok(())
}
