use std::collections::BTreeSet;

use clap::Args;
use image::{Digest, FindError, Store, Unneeded};

use super::megabytes;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::{Root, StateError};
use crate::storage;

#[derive(Args, Debug)]
pub(super) struct Prune {
    /// Images with names too.
    #[arg(short, long)]
    all: bool,
}

impl Prune {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        let in_use = in_use(&store, settings)?;
        let unneeded = if self.all { Unneeded::Unused } else { Unneeded::Nameless };
        let pruned = store.prune(unneeded, &in_use)?;
        for removed in &pruned.removed {
            removed.names.iter().for_each(|name| println!("{name}"));
            removed.image.iter().for_each(|id| println!("{id}"));
        }
        let root = Root::open(&settings.root)?;
        let disks = storage::list(&settings.store, root.path())?;
        let alive = root.entries()?.into_iter().map(|entry| Ok(entry.record?.id.to_string()));
        let alive = alive.collect::<Result<_, StateError>>()?;
        let (ids, bytes) = storage::sweep(&settings.store, root.path(), &disks, &alive)?;
        ids.iter().for_each(|id| println!("storage of {id}"));
        eprintln!("{} are free again", megabytes(pruned.freed_bytes + bytes));
        Ok(0)
    }
}

/// The images of all containers, ended ones too. A container that cannot be read may use any.
fn in_use(store: &Store, settings: &Settings) -> Result<BTreeSet<Digest>, Failure> {
    let mut in_use = BTreeSet::new();
    for entry in Root::open(&settings.root)?.entries()? {
        let record = entry.record?;
        match record.image_id.as_deref().and_then(|id| id.parse().ok()) {
            Some(id) => drop(in_use.insert(id)),
            // Of a bundle, or written down before ids were: then its name says which.
            None => match store.find(&record.image) {
                Ok(image) => drop(in_use.insert(image.id)),
                Err(FindError::Unknown { .. } | FindError::Reference(_)) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
    Ok(in_use)
}
