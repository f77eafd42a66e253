//! From a registry into the store.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use oci_spec::image::ImageManifest;

use super::blobs::{Bringing, Claim};
use super::make::{MakeError, Parts};
use super::names::Names;
use super::{Image, Store};
use crate::config::MAX_JSON_BYTES;
use crate::manifest::{self, Manifest};
use crate::registry::{Blob, Sources};
use crate::{Access, ArchiveError, Digest, News, Platform, PullError, Reference, Watcher};

impl Store {
    /// Takes in the image that registries call `reference` and that is for `platform`, and gives it that
    /// name, which is taken from the image that had it. Only layers are asked for that are not there.
    ///
    /// Two who pull the same at once, in this process or another, share the work.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        access: &Access,
        watcher: &dyn Watcher,
    ) -> Result<Image, PullError> {
        let sources = Sources::of(reference, access, watcher)?;
        let manifest = resolve(&sources, reference, platform)?;
        let bytes = manifest.layers.iter().filter_map(|layer| layer.bytes);
        let bytes = bytes.fold(0, u64::saturating_add);
        let most = self.limits.unpacked_bytes;
        if bytes > most {
            let member = "all layers together".to_owned();
            let source = ArchiveError::TooLong { member, bytes, most };
            return Err(PullError::Image { image: reference.to_string(), source });
        }
        // From here on the blobs of an image that is there stay, even if it is removed meanwhile.
        let bringing = self.bring()?;
        let known = Names::read(&self.names_file())?;
        if !self.has(manifest.id, &known) {
            self.bring_layers(&sources, &manifest, access.at_once, watcher)?;
            watcher.hear(News::Unpacking);
        }
        self.make_pulled(reference, manifest, bringing)
    }

    /// Brings the layers that are not there, `at_once` at a time. The first that cannot be brought ends
    /// it for all.
    fn bring_layers(
        &self,
        sources: &Sources<'_>,
        manifest: &Manifest,
        at_once: usize,
        watcher: &dyn Watcher,
    ) -> Result<(), PullError> {
        // Some are in an image more than once: what an empty step leaves, for one.
        let layers: BTreeMap<Digest, u64> =
            manifest.layers.iter().filter_map(known_layer).collect();
        let layers: Vec<(Digest, u64)> = layers.into_iter().collect();
        watcher.hear(News::Layers(&layers));
        let next = AtomicUsize::new(0);
        let first_error = Mutex::new(None);
        let work = || {
            while let Some(&(layer, bytes)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.bring_layer(sources, layer, bytes, watcher) {
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                    drop(first);
                    next.store(layers.len(), Ordering::Relaxed);
                    sources.hang_up();
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..at_once.clamp(1, layers.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn bring_layer(
        &self,
        sources: &Sources<'_>,
        layer: Digest,
        bytes: u64,
        watcher: &dyn Watcher,
    ) -> Result<(), PullError> {
        let partial = match self.claim(layer)? {
            Claim::There => {
                watcher.hear(News::Whole { layer, already: true });
                return Ok(());
            }
            Claim::Ours(partial) => partial,
        };
        let arrived = |bytes| watcher.hear(News::Arrived { layer, bytes });
        sources.download(Blob { digest: layer, bytes }, &partial.file, &arrived)?;
        self.keep(&partial, layer)?;
        watcher.hear(News::Whole { layer, already: false });
        Ok(())
    }

    fn make_pulled(
        &self,
        reference: &Reference,
        manifest: Manifest,
        bringing: Bringing,
    ) -> Result<Image, PullError> {
        let lock = self.lock()?;
        let mut names = Names::read(&self.names_file())?;
        // Someone else may have made it while we waited.
        let id = manifest.id;
        let made = match self.has(id, &names) {
            true => Ok(()),
            false => {
                let made = self.make_image(&parts(manifest), &lock);
                made.and_then(|made| Ok(self.move_in(id, made, &lock)?))
            }
        };
        if made.is_ok() {
            names.give(reference.clone(), id);
            names.write(&self.names_file(), &self.tmp())?;
        }
        // Blobs of an image that was refused, or replaced, are nobody's.
        drop(bringing);
        self.collect(&self.used_blobs()?, &lock)?;
        made.map_err(|error| PullError::of(error, reference))?;
        Ok(self.image(id, &names)?)
    }
}

fn parts(manifest: Manifest) -> Parts {
    let layers = manifest.layers.iter().filter_map(|layer| Some((layer.digest?, layer.diff_id)));
    Parts {
        layers: layers.collect(),
        config_json: manifest.config_json,
        manifest_json: manifest.json.unwrap_or_default(),
    }
}

fn known_layer(layer: &manifest::LayerFile) -> Option<(Digest, u64)> {
    Some((layer.digest?, layer.bytes?))
}

fn resolve(
    sources: &Sources<'_>,
    reference: &Reference,
    platform: &Platform,
) -> Result<Manifest, PullError> {
    let image = reference.to_string();
    let wrong = |source| PullError::Image { image: image.clone(), source };
    let json = sources.manifest(reference, platform)?;
    let manifest: ImageManifest = serde_json::from_slice(&json)
        .map_err(|source| wrong(ArchiveError::Json { member: "its manifest".into(), source }))?;
    let config = manifest::digest(manifest.config()).map_err(wrong)?;
    let bytes = manifest.config().size();
    if bytes > MAX_JSON_BYTES {
        let (member, most) = (config.to_string(), MAX_JSON_BYTES);
        return Err(wrong(ArchiveError::TooLong { member, bytes, most }));
    }
    let config_json = sources.small_blob(config, bytes, MAX_JSON_BYTES)?;
    manifest::oci_image(json, &manifest, config_json, platform).map_err(wrong)
}

impl PullError {
    fn of(error: MakeError, reference: &Reference) -> Self {
        match error {
            MakeError::Layer { layer, source } => {
                Self::Layer { image: reference.to_string(), layer, source: Box::new(source) }
            }
            MakeError::Write { path, source } => Self::Write { path, source },
            MakeError::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl From<(PathBuf, io::Error)> for PullError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Io { path, source }
    }
}
