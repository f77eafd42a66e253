//! What can go wrong between us and a registry. Every message names the address.

use std::io;
use std::path::PathBuf;

use super::credentials::CredentialError;
use crate::{ArchiveError, Digest, FindError, LayerError, Platform, WriteError};

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RegistryError {
    #[error("{url}: {why}")]
    Connection { url: String, why: String },
    #[error("{url}: nothing came for {seconds} s")]
    Silent { url: String, seconds: u64 },
    #[error("{url}: only {bytes} bytes came in {seconds} s")]
    Slow { url: String, bytes: u64, seconds: f64 },
    #[error(
        "{url}: {came} of {bytes} bytes came, the last {times} connections brought next to nothing: {why}"
    )]
    BrokenOff { url: String, came: u64, bytes: u64, times: u32, why: String },
    #[error("{url}: {status}{says}")]
    Status { url: String, status: u16, says: String },
    #[error("{url}: {status}, {advice}{says}")]
    Refused { url: String, status: u16, advice: &'static str, says: String },
    #[error("{url}: redirected more than {most} times")]
    Circle { url: String, most: usize },
    #[error("{url}: redirected to {to:?}, which is no address to go to")]
    Redirect { url: String, to: String },
    #[error("{url} is not encrypted, --tls-verify=false allows that")]
    Plain { url: String },
    #[error("{url}: it answers with {kind:?}, that is no {wanted}")]
    Kind { url: String, kind: String, wanted: &'static str },
    #[error("{url}")]
    Json { url: String, source: serde_json::Error },
    #[error("{url}: over the limit of {most} bytes")]
    TooLong { url: String, most: u64 },
    #[error("{url}: it has {found} bytes, its descriptor says {said}")]
    WrongSize { url: String, said: u64, found: u64 },
    #[error("{url}: what came has the digest {found}, not {said}")]
    WrongDigest { url: String, said: Digest, found: Digest },
    #[error("{url}: the answer's part begins at {found:?}, byte {wanted} was asked for")]
    WrongPart { url: String, wanted: u64, found: String },
    #[error("{url}: its wish for a proof of who we are cannot be read: {header:?}")]
    Challenge { url: String, header: String },
    #[error("{url}: it gives no token")]
    NoToken { url: String },
    #[error(
        "no certificates of authorities on this machine (package ca-certificates), so {url} cannot be trusted"
    )]
    NoAuthorities { url: String },
    #[error("proxy in {variable}: {why}")]
    Proxy { variable: String, why: String },
    #[error("{url}: it cannot be written down")]
    Io { url: String, source: io::Error },
}

/// Why an image cannot be pulled. What is whole of it stays for the next try; nothing else does.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("mirror {mirror:?} is not [REGISTRY=]HOST[:PORT][/PATH]")]
    Mirror { mirror: String },
    #[error("image {image} is there for {there}, not for {wanted}")]
    NoPlatform { image: String, there: String, wanted: Platform },
    /// Its manifest or its configuration is not what it should be.
    #[error("image {image}")]
    Image { image: String, source: ArchiveError },
    #[error("image {image}: layer {layer}")]
    Layer { image: String, layer: Digest, source: Box<LayerError> },
    #[error("disk {path}")]
    Write { path: PathBuf, source: WriteError },
    #[error(transparent)]
    Store(#[from] FindError),
    #[error("store file {path}")]
    Io { path: PathBuf, source: io::Error },
}
