mod change;

use std::io::{BufWriter, Write};

use clap::Args;
use image::{Step, Store};
use proto::files::Work;

use crate::exit::Failure;
use crate::files::{self, CopyError};
use crate::run;
use crate::settings::Settings;
use crate::state::record::now;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(super) struct Commit {
    /// Who made it.
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Why.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// How it wants to be run, as a line of a Dockerfile: 'CMD ["sh"]'. May be given several times: CMD,
    /// ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR.
    #[arg(short, long = "change", value_name = "LINE")]
    changes: Vec<String>,
    /// The container's name, or the beginning of its id.
    name: String,
    /// The new image's name.
    image: Option<String>,
}

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error("container {name} has no image")]
    NoImage { name: String },
}

impl Commit {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        // Judged before anything is read.
        self.image.as_deref().map(str::parse::<image::Reference>).transpose()?;
        let image = run::visit(settings, &self.name, |container| self.commit(&store, container))?;
        println!("{}", image.id);
        Ok(0)
    }

    fn commit(&self, store: &Store, container: &Visited) -> Result<image::Image, Failure> {
        let no_image = || CommitError::NoImage { name: self.name.clone() };
        let base = store.find(container.record.image_id.as_deref().ok_or_else(no_image)?)?;
        let step = Step {
            created: now(),
            author: self.author.clone(),
            comment: self.message.clone(),
            created_by: container.record.process.args.join(" "),
            config: change::fields(&base.config, &self.changes)?,
        };
        let carrier = container.carry(Work::Changes { names_only: false })?;
        let mut heard = files::heard(&carrier)?;
        let sink = BufWriter::with_capacity(64 << 10, store.scratch()?);
        let mut sink = files::layer(&mut heard, sink)?;
        sink.flush().map_err(CopyError::Write)?;
        let layer = sink.into_inner().map_err(|error| CopyError::Write(error.into_error()))?;
        Ok(store.commit(&base, layer, &step, self.image.as_deref())?)
    }
}
