//! Names given, and what nobody needs taken away.

use std::collections::BTreeSet;

use super::names::Names;
use super::{FindError, Image, RemoveError, Removed, Store};
use crate::{Digest, Reference};

/// Which images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// Those whose names newer images took.
    Nameless,
    /// All that are not in use.
    Unused,
}

/// What [`Store::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The images that are gone.
    pub removed: Vec<Removed>,
    /// Bytes of the disk that are free again.
    pub freed_bytes: u64,
}

impl Store {
    /// Gives the image that `reference` names the name `name` too, which is taken from the image that had
    /// it.
    pub fn tag(&self, reference: &str, name: &str) -> Result<Image, RemoveError> {
        let io = |(path, source)| RemoveError::Io { path, source };
        let name: Reference = name.parse().map_err(FindError::from)?;
        if name.digest().is_some() {
            let why = "a name that is given has a tag and no digest";
            let bad = crate::BadReference { reference: name.to_string(), why };
            return Err(FindError::from(bad).into());
        }
        let _lock = self.lock().map_err(io)?;
        let mut names = Names::read(&self.names_file())?;
        let (id, _) = self.resolve(reference, &names)?;
        let image = self.image(id, &names)?;
        names.give(name, id);
        names.write(&self.names_file(), &self.tmp()).map_err(io)?;
        Ok(Image { names: names.of(id).map(Reference::to_string).collect(), ..image })
    }

    /// Takes away the images that `unneeded` means, but none of those `in_use`; then layers that no image
    /// has, and beginnings of layers that nobody brings.
    pub fn prune(
        &self,
        unneeded: Unneeded,
        in_use: &BTreeSet<Digest>,
    ) -> Result<Pruned, RemoveError> {
        let io = |(path, source)| RemoveError::Io { path, source };
        let lock = self.lock().map_err(io)?;
        let mut names = Names::read(&self.names_file())?;
        let mut pruned = Pruned::default();
        let mut going = Vec::new();
        for id in self.ids()? {
            let its: Vec<Reference> = names.of(id).cloned().collect();
            let unneeded = unneeded == Unneeded::Unused || its.is_empty();
            if unneeded && !in_use.contains(&id) {
                its.iter().for_each(|name| names.take(name));
                going.push((id, its));
            }
        }
        // Names first: an image without one can be removed again, a name without an image cannot be.
        names.write(&self.names_file(), &self.tmp()).map_err(io)?;
        for (id, its) in going {
            let directory = self.image_directory(id);
            pruned.freed_bytes += bytes_of(&directory.join("disk.erofs"));
            self.discard(&directory).map_err(io)?;
            let names = its.iter().map(Reference::to_string).collect();
            pruned.removed.push(Removed { names, image: Some(id) });
        }
        pruned.freed_bytes += self.collect(&self.used_blobs()?, &lock).map_err(io)?;
        pruned.freed_bytes += self.sweep_partials(true).map_err(io)?;
        Ok(pruned)
    }
}

/// What a file takes of the disk; nothing if it is damaged or gone.
fn bytes_of(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

#[cfg(test)]
mod tests;
