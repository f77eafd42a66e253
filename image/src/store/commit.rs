//! An image and what was changed in it become a new image.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::kept::manifest_for;
use super::make::{MakeError, Parts};
use super::names::Names;
use super::{FindError, Image, Store, sync_directory};
use crate::digest::Hasher;
use crate::packing::Packing;
use crate::{BadReference, Digest, LayerError, Reference};

/// What is written about the step from one image to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// When, RFC 3339.
    pub created: String,
    /// Who.
    pub author: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// What ran.
    pub created_by: String,
    /// Fields of the configuration that are other than before, by their names (`Cmd`, `Env`, …).
    pub config: Vec<(String, Value)>,
}

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CommitError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Reference(#[from] BadReference),
    #[error("image {reference} was loaded by a microvm that kept no layers, pull or load it again")]
    NoLayers { reference: String },
    #[error("layer {layer}")]
    Layer { layer: Digest, source: LayerError },
    #[error("the image's disk {path}")]
    Disk { path: PathBuf, source: crate::WriteError },
    #[error("store file {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl From<(PathBuf, io::Error)> for CommitError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}

impl From<MakeError> for CommitError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Layer { layer, source } => Self::Layer { layer, source },
            MakeError::Write { path, source } => Self::Disk { path, source },
            MakeError::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl Store {
    /// A file without a name to write a layer into: it is gone when it is closed.
    pub fn scratch(&self) -> Result<File, CommitError> {
        let tmp = self.tmp();
        tempfile::tempfile_in(&tmp).map_err(|source| (tmp, source).into())
    }

    /// Makes a new image of `base` and of `layer`, a tar archive of what is other in it with whiteouts for
    /// what is gone (OCI image specification, "Layer Filesystem Changeset"), and gives it the name `name`.
    pub fn commit(
        &self,
        base: &Image,
        mut layer: File,
        step: &Step,
        name: Option<&str>,
    ) -> Result<Image, CommitError> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        let lock = self.lock()?;
        let kept = self.kept(base.id)?;
        let kept = kept.filter(|kept| kept.layers.len() == base.diff_ids.len());
        let no_layers = || CommitError::NoLayers { reference: base.id.to_string() };
        let kept = kept.ok_or_else(no_layers)?;
        let (digest, bytes) = self.keep_scratch(&mut layer)?;
        let mut layers = Vec::new();
        for &(digest, bytes) in &kept.layers {
            layers.push((digest, bytes, self.packing_of(digest)?));
        }
        layers.push((digest, bytes, Packing::None));
        let config_json = self.next_config(base, digest, step)?;
        let id = Digest::of(&config_json);
        let diff_ids = base.diff_ids.iter().copied().chain([digest]);
        let parts = Parts {
            manifest_json: manifest_for(&config_json, &layers),
            config_json,
            layers: layers.iter().map(|&(digest, ..)| digest).zip(diff_ids).collect(),
        };
        let made = self.make_image(&parts, &lock);
        let made = made.inspect_err(|_| {
            // A layer that is refused is nobody's.
            let _ = self.used_blobs().map(|used| self.collect(&used, &lock));
        })?;
        self.move_in(id, made, &lock)?;
        let mut names = Names::read(&self.names_file())?;
        if let Some(name) = name {
            names.give(name, id);
            names.write(&self.names_file(), &self.tmp())?;
        }
        Ok(self.image(id, &names)?)
    }

    /// Copies a layer to where blobs are.
    fn keep_scratch(&self, layer: &mut File) -> Result<(Digest, u64), CommitError> {
        let tmp = self.tmp();
        let io = |source| CommitError::Io { path: tmp.clone(), source };
        layer.rewind().map_err(io)?;
        let mut copy = tempfile::NamedTempFile::new_in(&tmp).map_err(io)?;
        let mut hasher = Hasher::new();
        let (mut buffer, mut bytes) = (vec![0; 1 << 17], 0);
        loop {
            let count = layer.read(&mut buffer).map_err(io)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            copy.write_all(&buffer[..count]).map_err(io)?;
            bytes += count as u64;
        }
        copy.as_file().sync_all().map_err(io)?;
        let digest = hasher.finish();
        let blob = self.blob(digest);
        let at = |source| CommitError::Io { path: blob.clone(), source };
        copy.persist(&blob).map_err(|error| at(error.error))?;
        sync_directory(&self.blobs()).map_err(at)?;
        Ok((digest, bytes))
    }

    fn packing_of(&self, digest: Digest) -> Result<Packing, CommitError> {
        let path = self.blob(digest);
        let mut start = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(8).read_to_end(&mut start));
        read.map_err(|source| CommitError::Io { path, source })?;
        Ok(Packing::of(&start))
    }

    /// The configuration of `base` with a layer more. What we do not know in it stays.
    fn next_config(
        &self,
        base: &Image,
        diff_id: Digest,
        step: &Step,
    ) -> Result<Vec<u8>, CommitError> {
        let path = self.image_directory(base.id).join("config.json");
        let io = |source| CommitError::Io { path: path.clone(), source };
        let mut config: Value =
            serde_json::from_slice(&fs::read(&path).map_err(io)?).map_err(|e| io(e.into()))?;
        config["created"] = json!(step.created);
        if let Some(author) = &step.author {
            config["author"] = json!(author);
        }
        for (field, value) in &step.config {
            config["config"][field] = value.clone();
        }
        // `base` was believed, so these are lists or missing.
        if let Some(diff_ids) = config["rootfs"]["diff_ids"].as_array_mut() {
            diff_ids.push(json!(diff_id.to_string()));
        }
        let mut past = json!({ "created": step.created, "created_by": step.created_by });
        for (field, word) in [("author", &step.author), ("comment", &step.comment)] {
            if let Some(word) = word {
                past[field] = json!(word);
            }
        }
        match config["history"].as_array_mut() {
            Some(history) => history.push(past),
            None => config["history"] = json!([past]),
        }
        // Of the container that made the image before.
        if let Some(fields) = config.as_object_mut() {
            fields.remove("container");
            fields.remove("container_config");
        }
        Ok(config.to_string().into_bytes())
    }
}
