use clap::{Args, ValueEnum};

use crate::doctor::{self, Verdict};
use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Doctor {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let facts = doctor::examine(settings);
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&facts)?),
            Format::Text => facts.iter().for_each(|fact| println!("{fact}")),
        }
        let well = facts.iter().all(|fact| fact.verdict != Verdict::Bad);
        Ok(if well { 0 } else { 1 })
    }
}
