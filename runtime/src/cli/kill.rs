use clap::Args;

use super::each;
use crate::exit::Failure;
use crate::plan::signal_number;
use crate::settings::Settings;

/// Send a signal to the first process of running containers.
#[derive(Args, Debug)]
pub(super) struct Kill {
    /// The signal, by name or number.
    #[arg(short, long, default_value = "KILL", allow_hyphen_values = true)]
    signal: String,
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Kill {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let signal = signal_number(&self.signal)?;
        each(settings, &self.names, |_, container| Ok(container.signal(signal)?))
    }
}
