use clap::Args;

use super::oci;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::{Root, StateError};
use crate::visit::Visited;

/// Remove ended containers.
#[derive(Args, Debug)]
pub(super) struct Rm {
    /// End running ones first.
    #[arg(short, long)]
    force: bool,
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Rm {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let root = Root::open(&settings.root)?;
        for word in &self.names {
            let entry = root.find(word)?;
            if entry.record.as_ref().is_ok_and(|record| record.oci.is_some()) {
                oci::delete(settings, word, self.force)?;
                println!("{word}");
                continue;
            }
            if entry.alive && self.force {
                Visited::new(root.find(word)?)?.end(None)?;
            }
            root.remove(&entry.dir, || Ok::<_, StateError>(()))?;
            println!("{word}");
        }
        Ok(0)
    }
}
