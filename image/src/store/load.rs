//! From an archive into the store.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

use super::names::Names;
use super::{Image, LoadError, Store, sync_directory};
use crate::archive::Archive;
use crate::layer;
use crate::limits::Budget;
use crate::manifest::{self, Manifest};
use crate::merge::Merge;
use crate::spool::Spool;
use crate::{LayerError, Reference, erofs};

impl Store {
    /// Takes in every image of `archive` that is for this machine: an OCI layout directory, an OCI
    /// archive or a `docker save` archive. Their names are those the archive gives them, or `name`, if
    /// it holds exactly one. Those names are taken from the images that had them.
    ///
    /// All of the archive's images are taken in, or none.
    pub fn load(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, LoadError> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        let wrong = |source| LoadError::Archive { path: archive.to_owned(), source };
        let opened = Archive::open(archive, &self.tmp(), &self.limits).map_err(wrong)?;
        let mut manifests = manifest::images(&opened).map_err(wrong)?;
        if let Some(name) = name {
            let images = manifests.len();
            let [only] = &mut manifests[..] else {
                let (path, name) = (archive.to_owned(), name.to_string());
                return Err(LoadError::SeveralImages { path, images, name });
            };
            only.names = vec![name];
        }
        let io = |(path, source)| LoadError::Io { path, source };
        let _lock = self.lock().map_err(io)?;
        let known = Names::read(&self.names_file())?;
        let mut made = Vec::new();
        for manifest in &manifests {
            // An id stands for all that is in an image, so one that is there and whole is the same.
            if self.image(manifest.id, &known).is_err() {
                made.push((manifest.id, self.make_image(archive, &opened, manifest)?));
            }
        }
        for (id, directory) in made {
            let place = self.image_directory(id);
            if fs::symlink_metadata(&place).is_ok() {
                self.discard(&place).map_err(io)?;
            }
            let moved = fs::rename(directory.path(), &place)
                .and_then(|()| sync_directory(&self.images_directory()));
            moved.map_err(|source| io((place, source)))?;
            // It has moved out of the guard's reach; there is nothing left to remove.
            let _ = directory.keep();
        }
        let mut names = known.clone();
        for manifest in &mut manifests {
            for name in manifest.names.drain(..) {
                names.give(name, manifest.id);
            }
        }
        if names != known {
            names.write(&self.names_file(), &self.tmp()).map_err(io)?;
        }
        let image = |manifest: &Manifest| Ok(self.image(manifest.id, &names)?);
        manifests.iter().map(image).collect()
    }

    /// An image's directory, made in `tmp` and synced.
    fn make_image(
        &self,
        path: &Path,
        archive: &Archive,
        manifest: &Manifest,
    ) -> Result<TempDir, LoadError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::Io { path, source }
        };
        let tmp = self.tmp();
        let made = TempDir::new_in(&tmp).map_err(io(&tmp))?;
        let config = made.path().join("config.json");
        fs::write(&config, &manifest.config_json)
            .and_then(|()| File::open(&config)?.sync_all())
            .map_err(io(&config))?;
        let mut merge = Merge::new(&self.limits);
        let mut budget = Budget::new(&self.limits);
        let mut spool = Spool::new(&tmp).map_err(|error| io(&error.directory)(error.source))?;
        for file in &manifest.layers {
            let wrong = |source| LoadError::Layer {
                path: path.to_owned(),
                layer: file.digest.map_or_else(|| file.member.clone(), |digest| digest.to_string()),
                source,
            };
            let member = archive
                .member(&file.member)
                .map_err(|source| LoadError::Archive { path: path.to_owned(), source })?
                .ok_or_else(|| wrong(LayerError::Missing))?;
            layer::unpack(member, file, &mut merge, &mut spool, &mut budget).map_err(wrong)?;
        }
        let place = made.path().join("disk.erofs");
        let disk = File::create_new(&place).map_err(io(&place))?;
        let spool = spool.finish().map_err(|error| io(&error.directory)(error.source))?;
        erofs::write(&merge.into_tree(), &spool, &disk)
            .map_err(|source| LoadError::Write { path: place.clone(), source })?;
        disk.sync_all().map_err(io(&place))?;
        sync_directory(made.path()).map_err(io(made.path()))?;
        Ok(made)
    }
}
