use clap::Args;

use super::oci;
use super::volume::volumes;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::{Root, StateError};
use crate::visit::Visited;
use crate::volumes::Anonymous;

/// Remove ended containers.
#[derive(Args, Debug)]
pub(super) struct Rm {
    /// End running ones first.
    #[arg(short, long)]
    force: bool,
    /// With the volumes that were made for them alone.
    #[arg(short, long)]
    volumes: bool,
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
            let own = entry.record.map(|record| record.own_volumes).unwrap_or_default();
            root.remove(&entry.dir, || Ok::<_, StateError>(()))?;
            if self.volumes && !own.is_empty() {
                drop(Anonymous { volumes: volumes(settings)?, root: root.clone(), names: own });
            }
            println!("{word}");
        }
        Ok(0)
    }
}
