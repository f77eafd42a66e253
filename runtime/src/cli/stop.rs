use std::time::Duration;

use clap::Args;

use super::each;
use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Stop {
    /// How many seconds they have.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Stop {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let grace = Duration::from_secs(self.time.into());
        each(settings, &self.names, |_, container| Ok(container.end(Some(grace))?))
    }
}
