use clap::Args;

use super::known;
use crate::exit::Failure;
use crate::oci::hooks;
use crate::oci::state::State;
use crate::orders::{Order, order};
use crate::settings::Settings;
use crate::state::record::Status;
use crate::visit::Visited;

/// Let the process of a created container go.
#[derive(Args, Debug)]
pub(in crate::cli) struct Start {
    /// The container.
    id: String,
}

/// It is not at the point where that can be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot start container {id}: it is {status}")]
struct NotCreated {
    id: String,
    status: Status,
}

impl Start {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        start(settings, &self.id)?;
        Ok(0)
    }
}

pub(super) fn start(settings: &Settings, id: &str) -> Result<(), Failure> {
    let before = known(settings, id)?;
    if before.status != Status::Created {
        return Err(NotCreated { id: id.to_owned(), status: before.status }.into());
    }
    order(&before.dir, Order::Start)?;
    let state = State::new(&before.record, &before.oci, Status::Running);
    if let Err(error) = hooks::run(&before.oci.poststart, &state) {
        // As runc has it: who wanted to know could not be told, so it does not go on.
        Visited::of(before.dir, before.record).end(None)?;
        return Err(error.into());
    }
    Ok(())
}
