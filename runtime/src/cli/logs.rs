use std::fs::File;
use std::io;

use clap::Args;

use crate::exit::Failure;
use crate::log;
use crate::settings::Settings;
use crate::state::Root;

#[derive(Args, Debug)]
pub(super) struct Logs {
    /// The container's name, or the beginning of its id.
    name: String,
}

/// Why there is no log to print.
#[derive(Debug, thiserror::Error)]
enum LogsError {
    #[error("container {name} did not run in the background: its output is not kept")]
    NotKept { name: String },
    #[error("log of container {name}")]
    Log { name: String, source: log::LogError },
}

impl Logs {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let entry = Root::open(&settings.root)?.find(&self.name)?;
        let name = entry.dir.name().to_string();
        if !entry.record?.detached {
            return Err(LogsError::NotKept { name }.into());
        }
        let file = File::open(entry.dir.log_path())
            .map_err(|source| LogsError::Log { name: name.clone(), source: source.into() })?;
        log::replay(file, &mut io::stdout().lock(), &mut io::stderr().lock())
            .map_err(|source| LogsError::Log { name, source })?;
        Ok(0)
    }
}
