//! From a reference to the one manifest that is meant: by tag or digest, and by platform.

use oci_spec::image::ImageIndex;

use super::error::RegistryError;
use super::repository::{Asked, Repository, shown};
use super::{PullError, Sources, checked, kind};
use crate::config::MAX_JSON_BYTES;
use crate::manifest::{self, Kind, MAX_INDEXES};
use crate::{Digest, Platform, Reference};

/// What we can read (distribution specification, "Pulling manifests").
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

impl Sources<'_> {
    /// The bytes of the manifest that `reference` means on `platform`.
    pub(crate) fn manifest(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Vec<u8>, PullError> {
        self.first(|repository| resolve(repository, reference, platform))
    }
}

fn resolve(
    repository: &Repository,
    reference: &Reference,
    platform: &Platform,
) -> Result<Vec<u8>, PullError> {
    let image = reference.to_string();
    let wrong = |source| PullError::Image { image: image.clone(), source };
    let (url, mut content, mut kind) = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => by_digest(repository, digest, None)?,
        (None, tag) => by_tag(repository, tag.unwrap_or_default())?,
    };
    for _ in 0..=MAX_INDEXES {
        match manifest::kind(&kind, &content) {
            Some(Kind::Manifest) => return Ok(content),
            Some(Kind::Index) => {}
            None => {
                let kind = shown(&kind);
                return Err(
                    RegistryError::Kind { url, kind, wanted: "manifest of an image" }.into()
                );
            }
        }
        let index: ImageIndex = serde_json::from_slice(&content)
            .map_err(|source| RegistryError::Json { url: url.clone(), source })?;
        let Some(chosen) = manifest::choose(index.manifests(), platform) else {
            let there = manifest::platforms(index.manifests());
            let wanted = platform.clone();
            return Err(PullError::NoPlatform { image: image.clone(), there, wanted });
        };
        let digest = manifest::digest(chosen).map_err(wrong)?;
        (_, content, kind) = by_digest(repository, digest, Some(chosen.size()))?;
    }
    Err(RegistryError::Kind { url, kind, wanted: "manifest, but an index in an index" }.into())
}

type Found = (String, Vec<u8>, String);

fn by_tag(repository: &Repository, tag: &str) -> Result<Found, PullError> {
    let (url, content, kind, said) = get(repository, tag)?;
    let found = Digest::of(&content);
    match said {
        Some(said) if said != found => Err(RegistryError::WrongDigest { url, said, found }.into()),
        _ => Ok((url, content, kind)),
    }
}

fn by_digest(
    repository: &Repository,
    digest: Digest,
    bytes: Option<u64>,
) -> Result<Found, PullError> {
    let (url, content, kind, _) = get(repository, &digest.to_string())?;
    let bytes = bytes.unwrap_or(content.len() as u64);
    Ok((url.clone(), checked(url, content, digest, bytes)?, kind))
}

/// Address, content, kind, and the digest that the registry says it has.
fn get(
    repository: &Repository,
    name: &str,
) -> Result<(String, Vec<u8>, String, Option<Digest>), PullError> {
    let asked = Asked { accept: Some(ACCEPT), ..Asked::default() };
    let (url, response) = repository.get(&format!("manifests/{name}"), asked)?;
    let kind = kind(&response);
    let said = response.headers().get("docker-content-digest");
    let said = said.and_then(|digest| digest.to_str().ok()?.parse().ok());
    let content = repository.whole(&url, response, MAX_JSON_BYTES)?;
    Ok((url, content, kind, said))
}
