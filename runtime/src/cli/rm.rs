use clap::Args;

use super::oci;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::Root;
use crate::storage;
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
            let disk = entry.record.ok().and_then(|record| record.storage);
            root.remove(&entry.dir, || {
                Ok::<_, Failure>(disk.as_deref().map_or(Ok(()), storage::remove)?)
            })?;
            println!("{word}");
        }
        Ok(0)
    }
}
