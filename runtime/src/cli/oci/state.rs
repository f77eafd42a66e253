use clap::Args;

use super::known;
use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(in crate::cli) struct State {
    /// The container.
    id: String,
}

impl State {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        println!("{}", serde_json::to_string_pretty(&known(settings, &self.id)?.state())?);
        Ok(0)
    }
}
