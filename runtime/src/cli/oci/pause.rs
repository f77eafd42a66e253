use clap::Args;

use super::known;
use crate::exit::Failure;
use crate::orders::{Order, order};
use crate::settings::Settings;
use crate::state::record::Status;

#[derive(Args, Debug)]
pub(in crate::cli) struct Pause {
    /// The container.
    id: String,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Resume {
    /// The container.
    id: String,
}

/// There is nobody to be paused.
#[derive(Debug, thiserror::Error)]
#[error("container {0} is not running")]
struct NotRunning(String);

impl Pause {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        tell(settings, &self.id, Order::Pause)
    }
}

impl Resume {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        tell(settings, &self.id, Order::Resume)
    }
}

fn tell(settings: &Settings, id: &str, what: Order) -> Result<u8, Failure> {
    let container = known(settings, id)?;
    if container.status == Status::Stopped {
        return Err(NotRunning(id.to_owned()).into());
    }
    order(&container.dir, what)?;
    Ok(0)
}
