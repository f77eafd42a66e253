//! What is kept of an image besides its disk: its manifest, which names the blobs of its layers.

use std::collections::BTreeSet;
use std::io;

use oci_spec::image::ImageManifest;

use super::{FindError, Image, Store, read_bounded};
use crate::packing::Packing;
use crate::{Digest, manifest};

/// A layer as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob.
    pub bytes: u64,
    /// Of what it unpacks to.
    pub diff_id: Digest,
}

/// The manifest of an image in the store.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) json: Vec<u8>,
    pub(super) manifest: ImageManifest,
    /// Digest and length of each layer, lowest first.
    pub(super) layers: Vec<(Digest, u64)>,
}

impl Store {
    /// What is kept of the image `id`; `None` if it was loaded by a microvm that kept nothing.
    pub(super) fn kept(&self, id: Digest) -> Result<Option<Kept>, FindError> {
        let path = self.image_directory(id).join("manifest.json");
        let damaged = |why| FindError::Damaged { path: path.clone(), why };
        let json = match read_bounded(&path) {
            Ok(json) => json.ok_or_else(|| damaged("it is longer than any manifest"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FindError::Io { path, source }),
        };
        let manifest: ImageManifest =
            serde_json::from_slice(&json).map_err(|_| damaged("it is no manifest of an image"))?;
        if manifest::digest(manifest.config()).ok() != Some(id) {
            return Err(damaged("it is another image's"));
        }
        let layers = manifest.layers().iter().map(|layer| {
            let digest = manifest::digest(layer).map_err(|_| damaged("a layer has no digest"))?;
            Ok((digest, layer.size()))
        });
        let layers = layers.collect::<Result<_, FindError>>()?;
        Ok(Some(Kept { json, manifest, layers }))
    }

    /// The layers of `image`, lowest first; none if it was loaded by a microvm that kept none.
    pub fn layers(&self, image: &Image) -> Result<Vec<Layer>, FindError> {
        let kept = self.kept(image.id)?;
        let layers = kept.iter().flat_map(|kept| &kept.layers);
        let both = layers.zip(&image.diff_ids);
        let layer = |(&(digest, bytes), &diff_id)| Layer { digest, bytes, diff_id };
        Ok(both.map(layer).collect())
    }

    /// The digest of `image`'s manifest, which is what registries call it by; `None` if none was kept.
    pub fn manifest_digest(&self, image: &Image) -> Result<Option<Digest>, FindError> {
        Ok(self.kept(image.id)?.map(|kept| Digest::of(&kept.json)))
    }

    /// The blobs that images in the store have. An image whose manifest cannot be read has none: it has
    /// to be loaded again in any case.
    pub(super) fn used_blobs(&self) -> Result<BTreeSet<Digest>, FindError> {
        let mut used = BTreeSet::new();
        for id in self.ids()? {
            match self.kept(id) {
                Ok(Some(kept)) => used.extend(kept.layers.iter().map(|(digest, _)| digest)),
                Ok(None) | Err(FindError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    }
}

/// A manifest (OCI image specification, "Image Manifest") for an image that came without one. The same
/// layers give the same bytes.
pub(super) fn manifest_for(config_json: &[u8], layers: &[(Digest, u64, Packing)]) -> Vec<u8> {
    let descriptor = |kind: &str, digest: Digest, bytes: u64| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes })
    };
    let layer = |&(digest, bytes, packing): &(Digest, u64, Packing)| {
        let ending = match packing {
            Packing::None => "",
            Packing::Gzip => "+gzip",
            Packing::Zstd => "+zstd",
        };
        descriptor(&format!("layer.v1.tar{ending}"), digest, bytes)
    };
    let config = descriptor("config.v1+json", Digest::of(config_json), config_json.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}
