use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use proto::files::Work;

use super::cp::unless_terminal;
use crate::exit::Failure;
use crate::files::{self, CopyError, Naming};
use crate::run;
use crate::settings::Settings;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(super) struct Export {
    /// Write to FILE, not to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container's name, or the beginning of its id.
    name: String,
}

impl Export {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        run::visit(settings, &self.name, |container| match &self.output {
            None => write(container, &mut unless_terminal()?),
            Some(path) => {
                let host = |source| CopyError::Host { path: path.clone(), source };
                let file = File::create(path).map_err(host)?;
                // Half an archive is none.
                write(container, &mut BufWriter::with_capacity(64 << 10, file))
                    .inspect_err(|_| drop(std::fs::remove_file(path)))
            }
        })?;
        Ok(0)
    }
}

fn write(container: &Visited, sink: &mut dyn Write) -> Result<(), Failure> {
    let carrier = container.carry(Work::Root)?;
    let mut heard = files::heard(&carrier)?;
    files::tar(None, &mut heard, &Naming::Bare, sink)?;
    Ok(())
}
