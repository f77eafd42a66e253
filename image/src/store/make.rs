//! From a manifest whose layers are there as blobs to an image in its place.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Lock, Store, sync_directory};
use crate::archive::Member;
use crate::layer;
use crate::limits::Budget;
use crate::merge::Merge;
use crate::spool::{Spool, SpoolError};
use crate::{Digest, LayerError, WriteError, erofs};

/// What an image is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config_json: Vec<u8>,
    pub(super) manifest_json: Vec<u8>,
    /// Lowest first: what is in the blob, and what it unpacks to.
    pub(super) layers: Vec<(Digest, Digest)>,
}

/// Why it cannot be made.
#[derive(Debug)]
pub(super) enum MakeError {
    Layer { layer: Digest, source: LayerError },
    Write { path: PathBuf, source: WriteError },
    Io { path: PathBuf, source: io::Error },
}

impl From<(PathBuf, io::Error)> for MakeError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}

impl From<SpoolError> for MakeError {
    fn from(error: SpoolError) -> Self {
        Self::Io { path: error.directory, source: error.source }
    }
}

impl Store {
    /// An image's directory, made in `tmp` and synced.
    pub(super) fn make_image(&self, parts: &Parts, _lock: &Lock) -> Result<TempDir, MakeError> {
        let tmp = self.tmp();
        let made = TempDir::new_in(&tmp).map_err(|source| (tmp.clone(), source))?;
        let files = [("config.json", &parts.config_json), ("manifest.json", &parts.manifest_json)];
        for (name, json) in files {
            let path = made.path().join(name);
            let written = fs::write(&path, json).and_then(|()| File::open(&path)?.sync_all());
            written.map_err(|source| (path, source))?;
        }
        let mut merge = Merge::new(&self.limits);
        let mut budget = Budget::new(&self.limits);
        let mut spool = Spool::new(&tmp)?;
        for &(layer, diff_id) in &parts.layers {
            let path = self.blob(layer);
            let blob = Member::of_file(&path).map_err(|source| (path.clone(), source))?;
            layer::unpack(blob, layer, diff_id, &mut merge, &mut spool, &mut budget).map_err(
                |source| {
                    if matches!(source, LayerError::WrongDigest { .. }) {
                        // It was damaged here: the next to want it brings it again.
                        let _ = fs::remove_file(&path);
                    }
                    MakeError::Layer { layer, source }
                },
            )?;
        }
        let place = made.path().join("disk.erofs");
        let io = |source| (place.clone(), source);
        let disk = File::create_new(&place).map_err(io)?;
        erofs::write(&merge.into_tree(), &spool.finish()?, &disk)
            .map_err(|source| MakeError::Write { path: place.clone(), source })?;
        disk.sync_all().map_err(io)?;
        sync_directory(made.path()).map_err(|source| (made.path().to_owned(), source))?;
        Ok(made)
    }

    /// Moves what was made to where it is an image, whatever was there.
    pub(super) fn move_in(
        &self,
        id: Digest,
        made: TempDir,
        _lock: &Lock,
    ) -> Result<(), (PathBuf, io::Error)> {
        let place = self.image_directory(id);
        if fs::symlink_metadata(&place).is_ok() {
            self.discard(&place)?;
        }
        let moved =
            fs::rename(made.path(), &place).and_then(|()| sync_directory(&self.images_directory()));
        moved.map_err(|source| (place, source))?;
        // It has moved out of the guard's reach; there is nothing left to remove.
        let _ = made.keep();
        Ok(())
    }
}
