//! The verbs of every OCI runtime, with the options and answers of runc 1.1.

mod added;
mod checkpoint;
mod create;
mod delete;
mod events;
mod features;
mod list;
mod pause;
mod processes;
mod spec;
mod start;
mod state;
mod threads;
mod update;

use clap::Subcommand;

use crate::exit::Failure;
use crate::oci::state::Known;
use crate::settings::Settings;
use crate::state::Root;
use crate::visit::Visited;

pub(super) use self::added::{Added, write_pid_file};
pub(super) use self::create::{Bundled, run};
pub(super) use self::delete::delete;
pub(super) use self::processes::processes;
pub(super) use self::start::start_again;
pub(super) use self::threads::threads;

/// What an OCI runtime gives back when something goes wrong.
pub(super) const FAILED: u8 = 1;
/// What `exec` gives back then.
pub(super) const FAILED_EXEC: u8 = 255;

#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub(super) enum Verb {
    /// Create a container from a bundle: everything is there, its process waits for `start`.
    Create(create::Create),
    /// Start containers again that have ended, in the background, or let the process of a bundle's created one go.
    Start(start::Start),
    /// Print a container's state.
    State(state::State),
    /// Delete a container that has ended or was never started.
    Delete(delete::Delete),
    /// List containers.
    List(list::List),
    /// Stop a container's virtual CPUs.
    Pause(pause::Pause),
    /// Let a paused container's virtual CPUs go on.
    Resume(pause::Resume),
    /// Print what a container uses, and when its memory ran out, as JSON lines.
    Events(events::Events),
    /// Change what a container may use.
    Update(Box<update::Update>),
    /// Write a `config.json` to begin with.
    Spec(spec::Spec),
    /// Print what this runtime can do (runtime specification, "Features Structure").
    Features(features::Features),
    /// Not supported yet.
    Checkpoint(checkpoint::Checkpoint),
    /// Not supported yet.
    Restore(checkpoint::Restore),
}

impl Verb {
    pub(super) fn call(self, settings: Settings) -> Result<u8, Failure> {
        let end = match self {
            Self::Create(verb) => verb.call(settings),
            Self::Start(verb) => verb.call(&settings),
            Self::State(verb) => verb.call(&settings),
            Self::Delete(verb) => verb.call(&settings),
            Self::List(verb) => verb.call(&settings),
            Self::Pause(verb) => verb.call(&settings),
            Self::Resume(verb) => verb.call(&settings),
            Self::Events(verb) => verb.call(&settings),
            Self::Update(verb) => verb.call(&settings),
            Self::Spec(verb) => verb.call(),
            Self::Features(verb) => verb.call(),
            Self::Checkpoint(verb) => verb.call(),
            Self::Restore(verb) => verb.call(),
        };
        end.map_err(|failure| Failure { code: FAILED, ..failure })
    }
}

/// A container by its id.
fn known(settings: &Settings, id: &str) -> Result<Known, Failure> {
    Ok(Known::new(Root::open(&settings.root)?.find(id)?)?)
}

/// A container by its id, whose guest can be talked to.
fn visited(settings: &Settings, id: &str) -> Result<Visited, Failure> {
    Ok(Visited::new(Root::open(&settings.root)?.find(id)?)?)
}
