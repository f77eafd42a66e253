//! From an archive into the store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::kept::manifest_for;
use super::make::{MakeError, Parts};
use super::names::Names;
use super::{Image, LoadError, Lock, Store, sync_directory};
use crate::archive::Archive;
use crate::digest::Hasher;
use crate::manifest::{self, LayerFile, Manifest};
use crate::packing::Packing;
use crate::{Digest, LayerError, Platform, Reference};

impl Store {
    /// Takes in every image of `archive` that is for this machine: an OCI layout directory, an OCI
    /// archive or a `docker save` archive. Their names are those the archive gives them, or `name`, if
    /// it holds exactly one. Those names are taken from the images that had them. An image that is given back has
    /// those of its names alone.
    ///
    /// All of the archive's images are taken in, or none.
    pub fn load(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, LoadError> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        let wrong = |source| LoadError::Archive { path: archive.to_owned(), source };
        let opened = Archive::open(archive, &self.tmp(), &self.limits).map_err(wrong)?;
        let mut manifests = manifest::images(&opened, &Platform::here()).map_err(wrong)?;
        if let Some(name) = name {
            let images = manifests.len();
            let [only] = &mut manifests[..] else {
                let (path, name) = (archive.to_owned(), name.to_string());
                return Err(LoadError::SeveralImages { path, images, name });
            };
            only.names = vec![name];
        }
        let lock = self.lock()?;
        let taken = self.take_in(archive, &opened, &manifests, &lock);
        // Blobs of an image that was refused, or replaced, are nobody's.
        let collected = self.used_blobs().map(|used| self.collect(&used, &lock));
        let images = taken?;
        collected??;
        Ok(images)
    }

    fn take_in(
        &self,
        path: &Path,
        archive: &Archive,
        manifests: &[Manifest],
        lock: &Lock,
    ) -> Result<Vec<Image>, LoadError> {
        let known = Names::read(&self.names_file())?;
        let mut made = Vec::new();
        for manifest in manifests {
            // An id stands for all that is in an image, so one that is there and whole is the same.
            if !self.has(manifest.id, &known) {
                let parts = self.parts(path, archive, manifest)?;
                let directory =
                    self.make_image(&parts, lock).map_err(|error| LoadError::of(error, path))?;
                made.push((manifest.id, directory));
            }
        }
        for (id, directory) in made {
            self.move_in(id, directory, lock)?;
        }
        let mut names = known.clone();
        for manifest in manifests {
            for name in &manifest.names {
                names.give(name.clone(), manifest.id);
            }
        }
        if names != known {
            names.write(&self.names_file(), &self.tmp())?;
        }
        let loaded = |manifest: &Manifest| {
            let mut image = self.image(manifest.id, &names)?;
            image
                .names
                .retain(|name| manifest.names.iter().any(|given| given.to_string() == *name));
            Ok(image)
        };
        manifests.iter().map(loaded).collect()
    }

    /// Keeps the layers of an image as blobs.
    fn parts(
        &self,
        path: &Path,
        archive: &Archive,
        manifest: &Manifest,
    ) -> Result<Parts, LoadError> {
        let mut kept = Vec::new();
        let mut layers = Vec::new();
        for file in &manifest.layers {
            let wrong = |source| LoadError::Layer {
                path: path.to_owned(),
                layer: file.digest.map_or_else(|| file.member.clone(), |digest| digest.to_string()),
                source,
            };
            let blob = match self.keep_layer(path, archive, file)? {
                Ok(blob) => blob,
                Err(source) => return Err(wrong(source)),
            };
            layers.push((blob.0, file.diff_id));
            kept.push(blob);
        }
        let config_json = manifest.config_json.clone();
        let json = manifest.json.clone();
        let manifest_json = json.unwrap_or_else(|| manifest_for(&config_json, &kept));
        Ok(Parts { config_json, manifest_json, layers })
    }

    /// Copies a layer out of `archive`, and checks what is said about it.
    fn keep_layer(
        &self,
        path: &Path,
        archive: &Archive,
        file: &LayerFile,
    ) -> Result<Result<(Digest, u64, Packing), LayerError>, LoadError> {
        let wrong = |source| LoadError::Archive { path: path.to_owned(), source };
        let Some(mut member) = archive.member(&file.member).map_err(wrong)? else {
            return Ok(Err(LayerError::Missing));
        };
        let bytes = member.length();
        if let Some(said) = file.bytes.filter(|said| *said != bytes) {
            return Ok(Err(LayerError::WrongSize { said, found: bytes }));
        }
        let tmp = self.tmp();
        let io = |source| LoadError::Io { path: tmp.clone(), source };
        let mut copy = tempfile::NamedTempFile::new_in(&tmp).map_err(io)?;
        let (found, packing) = match copy_and_digest(&mut member, copy.as_file_mut()) {
            Ok(found) => found,
            Err(Side::Read(error)) => return Ok(Err(LayerError::Read(error))),
            Err(Side::Write(error)) => return Err(io(error)),
        };
        if file.digest.is_some_and(|said| said != found) {
            return Ok(Err(LayerError::WrongDigest { found }));
        }
        let blob = self.blob(found);
        // One that is there may be damaged, and this one is not.
        copy.as_file().sync_all().map_err(io)?;
        let at = |source| LoadError::Io { path: blob.clone(), source };
        copy.persist(&blob).map_err(|error| at(error.error))?;
        sync_directory(&self.blobs()).map_err(at)?;
        Ok(Ok((found, bytes, packing)))
    }
}

/// Which side of a copy went wrong.
enum Side {
    Read(io::Error),
    Write(io::Error),
}

fn copy_and_digest(from: &mut impl Read, to: &mut File) -> Result<(Digest, Packing), Side> {
    let mut hasher = Hasher::new();
    let mut packing = None;
    let mut buffer = vec![0; 1 << 17];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), packing.unwrap_or(Packing::None))),
            Ok(count) => {
                packing.get_or_insert_with(|| Packing::of(&buffer[..count]));
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count]).map_err(Side::Write)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Side::Read(error)),
        }
    }
}

impl LoadError {
    fn of(error: MakeError, path: &Path) -> Self {
        match error {
            MakeError::Layer { layer, source } => {
                Self::Layer { path: path.to_owned(), layer: layer.to_string(), source }
            }
            MakeError::Write { path, source } => Self::Write { path, source },
            MakeError::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl From<(PathBuf, io::Error)> for LoadError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}
