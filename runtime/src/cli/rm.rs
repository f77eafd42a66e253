use clap::Args;

use super::oci;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::Root;
use crate::storage;
use crate::visit::Visited;
use crate::volumes::{Anonymous, Volumes};

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
            let (disk, own) = match entry.record {
                Ok(record) => (record.storage, record.own_volumes),
                Err(_) => Default::default(),
            };
            root.remove(&entry.dir, || {
                Ok::<_, Failure>(disk.as_deref().map_or(Ok(()), storage::remove)?)
            })?;
            if self.volumes && !own.is_empty() {
                drop(Anonymous {
                    volumes: Volumes::open(&settings.store)?,
                    root: root.clone(),
                    names: own,
                });
            }
            println!("{word}");
        }
        Ok(0)
    }
}
