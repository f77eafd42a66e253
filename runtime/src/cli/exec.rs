use clap::Args;

use crate::exit::Failure;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::state::Root;
use crate::terminal::Raw;
use crate::visit::Visited;
use crate::wishes::ProcessWishes;
use crate::{host, plan};

/// Run another program in a running container.
#[derive(Args, Debug)]
pub(super) struct Exec {
    #[command(flatten)]
    process: ProcessWishes,
    /// The container's name, or the beginning of its id.
    name: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let host = host::facts(&self.process.env)?;
        let container = Visited::new(Root::open(&settings.root)?.find(&self.name)?)?;
        let first = &container.record.process;
        let process = plan::exec(first, &self.process, &self.command, &host)?;
        let signals = Signals::catch()?;
        let talks = self.process.tty && self.process.interactive;
        let _raw = talks.then(Raw::enter).transpose()?;
        let interactive = self.process.interactive;
        Ok(container.exec(process, host.id.short(), interactive, &signals)?)
    }
}
