//! Registries: from a reference to a manifest, a configuration and layers, by HTTP (OCI distribution
//! specification 1.1).
//!
//! ```text
//!   reference ──► [index ──► platform ──►] manifest ──► configuration
//!   (mirrors first,                            └──────► layers, several at once,
//!    then the registry)                                 each goes on where it broke off
//! ```
//!
//! A registry is not trusted: everything it sends is held against a digest (a tag's manifest against
//! nothing but its own), and nothing is unbounded, in length or in time. What is given to it is who we are,
//! if it asks, and only where nobody else can listen. This room knows no store: it writes into files it is
//! given.

mod address;
mod challenge;
mod credentials;
mod download;
mod error;
mod keeper;
mod manifests;
mod proxies;
mod repository;
mod token;

use std::time::Duration;

use ureq::http::header;

pub use credentials::{CredentialError, Credentials};
pub(crate) use download::Blob;
pub use error::{PullError, RegistryError};
use repository::{Asked, Repository};

use crate::{Digest, Reference};

/// How registries are asked.
#[derive(Clone, Debug)]
pub struct Access {
    /// Certificates are checked, and nothing goes unencrypted over a network.
    pub tls_verify: bool,
    /// `[REGISTRY=]HOST[:PORT][/PATH]` each: who is asked first for what is in REGISTRY, docker.io if
    /// that is left out. PATH is put in front of an image's.
    pub mirrors: Vec<String>,
    /// How many layers come at the same time, at least one.
    pub at_once: usize,
    /// Where to look for who we are.
    pub credentials: Credentials,
    /// How long a registry may take.
    pub patience: Patience,
}

/// How long a registry may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the next byte, and for all of an answer that is not a layer.
    pub idle: Duration,
    /// A layer's speed is looked at this often.
    pub window: Duration,
    /// The fewest bytes of a layer in that time.
    pub window_bytes: u64,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            tls_verify: true,
            mirrors: Vec::new(),
            at_once: 4,
            credentials: Credentials::usual(),
            patience: Patience::default(),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        let window = Duration::from_secs(30);
        Self { idle: Duration::from_secs(60), window, window_bytes: 30 << 10 }
    }
}

/// What happens while an image is pulled, for whoever wants to show it.
#[derive(Debug)]
pub enum News<'a> {
    /// A mirror did not do, the next one is asked.
    PassedOver {
        /// Which.
        mirror: &'a str,
        /// Why.
        why: &'a PullError,
    },
    /// The image has these layers, with so many bytes each.
    Layers(&'a [(Digest, u64)]),
    /// So much of a layer has come.
    Arrived {
        /// Which.
        layer: Digest,
        /// Bytes, from its beginning.
        bytes: u64,
    },
    /// All of a layer is there.
    Whole {
        /// Which.
        layer: Digest,
        /// It was there before, from another image or by another pull.
        already: bool,
    },
    /// All layers are there and become a disk.
    Unpacking,
}

/// Hears [`News`], from several threads.
pub trait Watcher: Sync {
    /// Something happened.
    fn hear(&self, news: News<'_>);
}

/// Nobody looks.
impl Watcher for () {
    fn hear(&self, _: News<'_>) {}
}

/// All who may have an image, in the order in which they are asked.
pub(crate) struct Sources<'a> {
    repositories: Vec<Repository>,
    watcher: &'a dyn Watcher,
}

impl<'a> Sources<'a> {
    pub(crate) fn of(
        reference: &Reference,
        access: &Access,
        watcher: &'a dyn Watcher,
    ) -> Result<Self, PullError> {
        let (registry, path) = (reference.registry(), reference.path());
        let mut repositories = Vec::new();
        for mirror in &access.mirrors {
            let (of, place) = mirror.split_once('=').unwrap_or(("docker.io", mirror));
            let bad = || PullError::Mirror { mirror: mirror.clone() };
            let (host, prefix) = place.split_once('/').unwrap_or((place, ""));
            // What names an image there names a mirror as well.
            let there = format!("{host}/{prefix}{}x", if prefix.is_empty() { "" } else { "/" });
            let there: Reference = there.parse().map_err(|_| bad())?;
            if there.registry() != host {
                return Err(bad());
            }
            if of == registry {
                let path = format!("{}{path}", there.path().strip_suffix('x').unwrap_or_default());
                repositories.push(Repository::new(host, &path, access)?);
            }
        }
        repositories.push(Repository::new(registry, path, access)?);
        Ok(Self { repositories, watcher })
    }

    /// What the first repository gives that gives it.
    fn first<T>(&self, ask: impl Fn(&Repository) -> Result<T, PullError>) -> Result<T, PullError> {
        let last = self.repositories.len() - 1;
        for repository in &self.repositories[..last] {
            match ask(repository) {
                Ok(given) => return Ok(given),
                Err(why) => {
                    self.watcher.hear(News::PassedOver { mirror: &repository.registry, why: &why });
                }
            }
        }
        ask(&self.repositories[last])
    }

    /// Ends all requests, whichever thread waits for them.
    pub(crate) fn hang_up(&self) {
        self.repositories.iter().for_each(Repository::hang_up);
    }

    /// A blob that is kept in memory, of at most `most` bytes.
    pub(crate) fn small_blob(
        &self,
        digest: Digest,
        bytes: u64,
        most: u64,
    ) -> Result<Vec<u8>, PullError> {
        self.first(|repository| {
            let (url, response) = repository.get(&format!("blobs/{digest}"), Asked::default())?;
            let blob = repository.whole(&url, response, most)?;
            checked(url, blob, digest, bytes).map_err(PullError::from)
        })
    }
}

/// `content`, if it is what a descriptor says.
fn checked(
    url: String,
    content: Vec<u8>,
    said: Digest,
    bytes: u64,
) -> Result<Vec<u8>, RegistryError> {
    let found = content.len() as u64;
    if found != bytes {
        return Err(RegistryError::WrongSize { url, said: bytes, found });
    }
    match Digest::of(&content) {
        found if found != said => Err(RegistryError::WrongDigest { url, said, found }),
        _ => Ok(content),
    }
}

/// The media type that an answer says it has, without its parameters.
fn kind<T>(response: &ureq::http::Response<T>) -> String {
    let header = response.headers().get(header::CONTENT_TYPE);
    let kind = header.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
