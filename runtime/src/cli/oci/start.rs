use clap::Args;

use super::known;
use crate::detach;
use crate::exit::Failure;
use crate::oci::hooks;
use crate::oci::state::State;
use crate::orders::{Order, order};
use crate::settings::Settings;
use crate::state::record::Status;
use crate::state::{Entry, Root, StateError};
use crate::visit::Visited;
use crate::wishes::Wishes;

#[derive(Args, Debug)]
pub(in crate::cli) struct Start {
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// It is not at the point where that can be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot start container {id}: it is {status}")]
struct NotCreated {
    id: String,
    status: Status,
}

/// Nothing says how it was started.
#[derive(Debug, thiserror::Error)]
#[error("container {name} was made by an older microvm: how to start it is not written down")]
struct NoWishes {
    name: String,
}

impl Start {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        for name in &self.names {
            let entry = Root::open(&settings.root)?.find(name)?;
            if entry.record.as_ref().is_ok_and(|record| record.oci.is_none()) {
                start_again(settings, entry)?;
                println!("{name}");
            } else {
                start(settings, name)?;
            }
        }
        Ok(0)
    }
}

/// Starts a container of an image or directory that has ended: with the name, the command and the disk that it
/// had, and nothing of what it wrote elsewhere.
pub(in crate::cli) fn start_again(settings: &Settings, entry: Entry) -> Result<(), Failure> {
    let record = entry.record?;
    let name = record.name.to_string();
    if entry.alive {
        return Err(StateError::Running { name: record.name }.into());
    }
    let wishes = record.wishes.clone().ok_or(NoWishes { name })?;
    let wishes = Wishes { detach: true, ..wishes };
    detach::start(settings.clone(), wishes, Some(record))?;
    Ok(())
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
