//! Which images an archive holds, and out of what layers.
//!
//! ```text
//!   OCI:     index.json ──► [index for platforms ──►] manifest ──► config, layers
//!   docker:  manifest.json ──────────────────────────────────────► config, layers
//! ```
//!
//! Newer `docker save` archives are both; then the first is followed, because it has a digest for
//! everything.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::archive::{Archive, ArchiveError};
use crate::config::{Description, MAX_JSON_BYTES};
use crate::{Digest, Platform, Reference};

/// One image, before its layers are looked at.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// What the archive calls it.
    pub(crate) names: Vec<Reference>,
    /// The digest of `config_json`.
    pub(crate) id: Digest,
    pub(crate) config_json: Vec<u8>,
    /// The manifest itself, as it came; docker's archives have none.
    pub(crate) json: Option<Vec<u8>>,
    /// Lowest first.
    pub(crate) layers: Vec<LayerFile>,
}

/// Where a layer is, and what is said about it.
#[derive(Debug)]
pub(crate) struct LayerFile {
    /// The member of the archive.
    pub(crate) member: String,
    /// The digest and the length of that member, where the archive tells them.
    pub(crate) digest: Option<Digest>,
    pub(crate) bytes: Option<u64>,
    /// The digest of what it unpacks to.
    pub(crate) diff_id: Digest,
}

/// An index may lead to an index, this often.
pub(crate) const MAX_INDEXES: usize = 4;

/// The most images in one archive.
const MAX_IMAGES: usize = 256;

/// The most bytes of their configurations, which are held in memory.
const MAX_CONFIGS_BYTES: u64 = 32 << 20;

/// Annotations by which archives name images: whole names by containerd and docker; names or only
/// tags by everyone else.
const WHOLE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images of `archive` that are for `platform`, at least one.
pub(crate) fn images(
    archive: &Archive,
    platform: &Platform,
) -> Result<Vec<Manifest>, ArchiveError> {
    let mut images = Vec::new();
    if let Some(json) = archive.read("index.json", MAX_JSON_BYTES)? {
        oci_images(archive, &parse("index.json", &json)?, platform, &mut images)?;
    } else if let Some(json) = archive.read("manifest.json", MAX_JSON_BYTES)? {
        let listed: Vec<DockerImage> = parse("manifest.json", &json)?;
        bounded("manifest.json", listed.len())?;
        for image in &listed {
            take_in(&mut images, docker_image(archive, image, platform)?)?;
        }
    } else {
        let member = "index.json and no manifest.json".to_owned();
        return Err(ArchiveError::Missing { member });
    }
    match images.is_empty() {
        true => Err(ArchiveError::NoImage { platform: platform.clone() }),
        false => Ok(images),
    }
}

/// Puts `image` with the others. An archive lists an image once for each of its names.
fn take_in(images: &mut Vec<Manifest>, image: Manifest) -> Result<(), ArchiveError> {
    let known = images.iter_mut().find(|known| known.id == image.id);
    match known {
        Some(known) => known.names.extend(image.names),
        None => images.push(image),
    }
    let bytes = images.iter().map(|image| image.config_json.len() as u64).sum();
    match bytes > MAX_CONFIGS_BYTES {
        true => Err(ArchiveError::TooLong {
            member: "all configurations together".to_owned(),
            bytes,
            most: MAX_CONFIGS_BYTES,
        }),
        false => Ok(()),
    }
}

fn oci_images(
    archive: &Archive,
    index: &ImageIndex,
    platform: &Platform,
    images: &mut Vec<Manifest>,
) -> Result<(), ArchiveError> {
    bounded("index.json", index.manifests().len())?;
    for listed in index.manifests() {
        let mut descriptor = Some(listed.clone());
        for _ in 0..MAX_INDEXES {
            match descriptor.as_ref().filter(|descriptor| is_index(descriptor)) {
                Some(further) => {
                    let index: ImageIndex = parse_blob(archive, further)?;
                    descriptor = choose(index.manifests(), platform).cloned();
                }
                None => break,
            }
        }
        if let Some(descriptor) = descriptor.filter(|one| fits(one, platform).is_some()) {
            let (digest, json) = read_blob(archive, &descriptor)?;
            let manifest: ImageManifest = parse(&digest.to_string(), &json)?;
            let (_, config_json) = read_blob(archive, manifest.config())?;
            let image = Manifest {
                names: oci_names(listed)?,
                ..oci_image(json, &manifest, config_json, platform)?
            };
            take_in(images, image)?;
        }
    }
    Ok(())
}

/// What `json`, which is `manifest`, and its configuration say together. Nobody says a name.
pub(crate) fn oci_image(
    json: Vec<u8>,
    manifest: &ImageManifest,
    config_json: Vec<u8>,
    platform: &Platform,
) -> Result<Manifest, ArchiveError> {
    let member = manifest.config().digest().to_string();
    let mut files = Vec::new();
    for layer in manifest.layers() {
        let digest = digest(layer)?;
        let kind = layer.media_type().to_string();
        if !kind.contains("tar") || kind.ends_with("+encrypted") {
            let what = format!("its media type is {kind:?}, which is no layer we read");
            return Err(ArchiveError::Says { member: digest.to_string(), what });
        }
        files.push((blob_path(digest), Some(digest), Some(layer.size())));
    }
    let image = described(member, Vec::new(), config_json, files, platform)?;
    Ok(Manifest { json: Some(json), ..image })
}

/// An element of `docker save`'s `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_image(
    archive: &Archive,
    image: &DockerImage,
    platform: &Platform,
) -> Result<Manifest, ArchiveError> {
    let Some(config_json) = archive.read(&image.config, MAX_JSON_BYTES)? else {
        return Err(ArchiveError::Missing { member: image.config.clone() });
    };
    if let Some(said) = digest_in_name(&image.config) {
        check(&image.config, said, &config_json)?;
    }
    let names = image.repo_tags.iter().flatten().map(|name| parse_name("manifest.json", name));
    let names = names.collect::<Result<_, _>>()?;
    let file = |member: &String| {
        // Only newer archives name their layers by digest; `<id>/layer.tar` is an id of another kind.
        (member.clone(), digest_in_name(member).filter(|_| member.starts_with("blobs/")), None)
    };
    let files = image.layers.iter().map(file).collect();
    described(image.config.clone(), names, config_json, files, platform)
}

/// Brings together what the manifest and the configuration say about the layers.
fn described(
    member: String,
    names: Vec<Reference>,
    config_json: Vec<u8>,
    files: Vec<(String, Option<Digest>, Option<u64>)>,
    platform: &Platform,
) -> Result<Manifest, ArchiveError> {
    let says = |what| ArchiveError::Says { member: member.clone(), what };
    let description: Description = Description::parse(&config_json)
        .map_err(|source| ArchiveError::Json { member: member.clone(), source })?;
    if !platform.takes(&description.platform) {
        let theirs = &description.platform;
        return Err(says(format!("the image is for {theirs}, not for {platform}")));
    }
    let (layers, diff_ids) = (files.len(), description.diff_ids.len());
    if layers != diff_ids {
        return Err(says(format!("{diff_ids} diff_ids for the manifest's {layers} layers")));
    }
    let mut described = Vec::with_capacity(layers);
    for ((member, digest, bytes), diff_id) in files.into_iter().zip(&description.diff_ids) {
        let diff_id = diff_id.parse().map_err(|bad| says(format!("rootfs.diff_ids: {bad}")))?;
        described.push(LayerFile { member, digest, bytes, diff_id });
    }
    let id = Digest::of(&config_json);
    Ok(Manifest { names, id, config_json, json: None, layers: described })
}

fn oci_names(descriptor: &Descriptor) -> Result<Vec<Reference>, ArchiveError> {
    let Some(annotations) = descriptor.annotations() else { return Ok(Vec::new()) };
    let whole = annotations.get(WHOLE_NAME);
    // A word alone is a tag of a name we are not told.
    let other = annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    whole.or(other).map(|name| parse_name("index.json", name)).into_iter().collect()
}

fn parse_name(member: &str, name: &str) -> Result<Reference, ArchiveError> {
    let says = |bad: crate::BadReference| ArchiveError::Says {
        member: member.to_owned(),
        what: bad.to_string(),
    };
    name.parse().map_err(says)
}

/// What a document is that says how an image is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of manifests.
    Index,
    /// Of one image.
    Manifest,
}

/// What `json` is, which came as a `named` one; `None` if it is nothing that we read.
pub(crate) fn kind(named: &str, json: &[u8]) -> Option<Kind> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(json).ok()?;
    let told = shape.media_type.as_deref().and_then(known).or_else(|| known(named));
    // What calls itself one thing and is made up as another is neither.
    match (told, shape.manifests.is_some(), shape.layers.is_some()) {
        (None | Some(Kind::Index), true, false) => Some(Kind::Index),
        (None | Some(Kind::Manifest), false, true) => Some(Kind::Manifest),
        _ => None,
    }
}

fn known(media_type: &str) -> Option<Kind> {
    match MediaType::from(media_type) {
        MediaType::ImageIndex => Some(Kind::Index),
        MediaType::ImageManifest => Some(Kind::Manifest),
        MediaType::Other(kind) => match kind.as_str() {
            "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Kind::Index),
            "application/vnd.docker.distribution.manifest.v2+json" => Some(Kind::Manifest),
            _ => None,
        },
        _ => None,
    }
}

fn is_index(descriptor: &Descriptor) -> bool {
    known(descriptor.media_type().as_ref()) == Some(Kind::Index)
}

/// Which of the `listed` is for `platform`, and the best of them.
pub(crate) fn choose<'a>(listed: &'a [Descriptor], platform: &Platform) -> Option<&'a Descriptor> {
    let fitting = listed.iter().filter_map(|one| Some((fits(one, platform)?, one)));
    fitting.min_by_key(|(fit, _)| *fit).map(|(_, one)| one)
}

/// The platforms that there are, for people.
pub(crate) fn platforms(listed: &[Descriptor]) -> String {
    let said: Vec<String> =
        listed.iter().filter_map(platform_of).map(|platform| platform.to_string()).collect();
    match said.is_empty() {
        true => "no platform".to_owned(),
        false => said.join(", "),
    }
}

/// Whether it leads to an image (a signature or a bill of materials is none) for `platform`; the smaller
/// the better. Who says no platform has the image for all.
fn fits(descriptor: &Descriptor, platform: &Platform) -> Option<u8> {
    known(descriptor.media_type().as_ref())?;
    match platform_of(descriptor) {
        Some(theirs) => platform.fits(&theirs),
        None => Some(u8::MAX),
    }
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let said = descriptor.platform().as_ref()?;
    Some(Platform::of(said.os(), said.architecture(), said.variant().as_deref()))
}

pub(crate) fn digest(descriptor: &Descriptor) -> Result<Digest, ArchiveError> {
    let word = descriptor.digest().to_string();
    word.parse().map_err(|_| ArchiveError::Says {
        member: word.clone(),
        what: "only sha256 digests are supported".to_owned(),
    })
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The digest in a name such as `<64 digits>.json` or `blobs/sha256/<64 digits>`.
fn digest_in_name(member: &str) -> Option<Digest> {
    let last = member.rsplit('/').next()?;
    Digest::from_hex(last.strip_suffix(".json").unwrap_or(last)).ok()
}

fn read_blob(
    archive: &Archive,
    descriptor: &Descriptor,
) -> Result<(Digest, Vec<u8>), ArchiveError> {
    let digest = digest(descriptor)?;
    let member = digest.to_string();
    let Some(content) = archive.read(&blob_path(digest), MAX_JSON_BYTES)? else {
        return Err(ArchiveError::Missing { member });
    };
    let (said, found) = (descriptor.size(), content.len() as u64);
    if said != found {
        return Err(ArchiveError::WrongSize { member, said, found });
    }
    check(&member, digest, &content)?;
    Ok((digest, content))
}

fn check(member: &str, said: Digest, content: &[u8]) -> Result<(), ArchiveError> {
    let found = Digest::of(content);
    match found == said {
        true => Ok(()),
        false => Err(ArchiveError::WrongDigest { member: member.to_owned(), found }),
    }
}

fn parse_blob<T: DeserializeOwned>(
    archive: &Archive,
    descriptor: &Descriptor,
) -> Result<T, ArchiveError> {
    let (digest, content) = read_blob(archive, descriptor)?;
    parse(&digest.to_string(), &content)
}

fn parse<T: DeserializeOwned>(member: &str, json: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(json)
        .map_err(|source| ArchiveError::Json { member: member.to_owned(), source })
}

fn bounded(member: &str, images: usize) -> Result<(), ArchiveError> {
    let says = |what| ArchiveError::Says { member: member.to_owned(), what };
    match images > MAX_IMAGES {
        true => Err(says(format!("{images} images, over the limit of {MAX_IMAGES}"))),
        false => Ok(()),
    }
}
