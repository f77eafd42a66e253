//! A layer into a file, whatever the network does: a connection that breaks off is made anew and goes on
//! where it was (RFC 9110, section 14), as long as that leads anywhere.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use ureq::http::{StatusCode, header};

use super::error::RegistryError;
use super::repository::{Asked, Repository, shown};
use super::{PullError, Sources};
use crate::Digest;
use crate::digest::Hasher;

/// A connection that brings this much was worth making.
const FRUITFUL_BYTES: u64 = 1 << 20;

/// So many connections in a row may bring less.
const MAX_FRUITLESS: u32 = 3;

/// What is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

/// How far it is.
struct Arrival<'a> {
    blob: Blob,
    file: &'a File,
    hasher: Hasher,
    came: u64,
    /// Some of it was in the file before.
    inherited: bool,
}

/// Why a connection ended early.
enum Ended {
    /// Another one may bring the rest.
    Broken(RegistryError),
    /// It may not.
    Refused(PullError),
}

impl Sources<'_> {
    /// Puts `blob` into `file`, where a part of it may be, and sees that it is the right one. `arrived`
    /// hears how many bytes there are. After an error, what is in the file is a beginning of the blob as
    /// far as is known.
    pub(crate) fn download(
        &self,
        blob: Blob,
        file: &File,
        arrived: &dyn Fn(u64),
    ) -> Result<(), PullError> {
        self.first(|repository| {
            let url = format!("{}/{}: blob {}", repository.registry, repository.path, blob.digest);
            let io = |source| RegistryError::Io { url: url.clone(), source };
            let mut arrival = Arrival::inherit(blob, file).map_err(io)?;
            arrival.fetch(repository, arrived, &url)
        })
    }
}

impl<'a> Arrival<'a> {
    /// Goes on from what is in the file.
    fn inherit(blob: Blob, file: &'a File) -> io::Result<Self> {
        let mut arrival = Self { blob, file, hasher: Hasher::new(), came: 0, inherited: false };
        let there = file.metadata()?.len();
        if there > blob.bytes {
            arrival.begin_again()?;
            return Ok(arrival);
        }
        let mut buffer = vec![0; 1 << 17];
        while arrival.came < there {
            let count = file.read_at(&mut buffer, arrival.came)?;
            if count == 0 {
                break;
            }
            arrival.hasher.update(&buffer[..count]);
            arrival.came += count as u64;
        }
        arrival.inherited = arrival.came > 0;
        Ok(arrival)
    }

    fn begin_again(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.hasher, self.came, self.inherited) = (Hasher::new(), 0, false);
        Ok(())
    }

    fn fetch(
        &mut self,
        repository: &Repository,
        arrived: &dyn Fn(u64),
        url: &str,
    ) -> Result<(), PullError> {
        let io = |source| RegistryError::Io { url: url.to_owned(), source };
        let mut fruitless = 0;
        loop {
            let before = self.came;
            match self.connect(repository, arrived, url) {
                Ok(()) => {
                    let (said, found) = (self.blob.digest, self.hasher.clone().finish());
                    if said == found {
                        return Ok(());
                    }
                    let inherited = self.inherited;
                    self.begin_again().map_err(io)?;
                    // What somebody left may have been no beginning of it.
                    if !inherited {
                        let url = url.to_owned();
                        return Err(RegistryError::WrongDigest { url, said, found }.into());
                    }
                }
                Err(Ended::Refused(error)) => return Err(error),
                Err(Ended::Broken(error)) => {
                    let brought = self.came.saturating_sub(before);
                    fruitless = if brought >= FRUITFUL_BYTES { 0 } else { fruitless + 1 };
                    if fruitless < MAX_FRUITLESS {
                        continue;
                    }
                    return Err(match self.came {
                        0 => error,
                        came => RegistryError::BrokenOff {
                            url: url.to_owned(),
                            came,
                            bytes: self.blob.bytes,
                            times: fruitless,
                            why: error.to_string(),
                        },
                    }
                    .into());
                }
            }
        }
    }

    /// One request for what is missing.
    fn connect(
        &mut self,
        repository: &Repository,
        arrived: &dyn Fn(u64),
        url: &str,
    ) -> Result<(), Ended> {
        let io = |source| refused(RegistryError::Io { url: url.to_owned(), source });
        if self.came == self.blob.bytes {
            return Ok(());
        }
        let asked = Asked { from: self.came, long: true, accept: None };
        let what = format!("blobs/{}", self.blob.digest);
        let (address, response) = match repository.get(&what, asked) {
            Ok(found) => found,
            Err(PullError::Registry(RegistryError::Status { status: 416, .. }))
                if self.came > 0 =>
            {
                // It has no such part.
                self.begin_again().map_err(io)?;
                repository.get(&what, Asked { from: 0, ..asked }).map_err(ended)?
            }
            Err(error) => return Err(ended(error)),
        };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(header::CONTENT_RANGE);
            let range = range.and_then(|range| range.to_str().ok()).unwrap_or_default();
            if !range.starts_with(&format!("bytes {}-", self.came)) {
                let (url, found) = (address, shown(range));
                return Err(refused(RegistryError::WrongPart { url, wanted: self.came, found }));
            }
        } else if self.came > 0 {
            // It gives all of it or nothing.
            self.begin_again().map_err(io)?;
        }
        let coming = response.body().content_length();
        if let Some(coming) = coming.filter(|coming| self.came + coming != self.blob.bytes) {
            let (said, found) = (self.blob.bytes, self.came + coming);
            return Err(refused(RegistryError::WrongSize { url: address, said, found }));
        }
        self.read(repository, response.into_body().into_reader(), arrived, &address)
    }

    fn read(
        &mut self,
        repository: &Repository,
        mut body: impl Read,
        arrived: &dyn Fn(u64),
        url: &str,
    ) -> Result<(), Ended> {
        let patience = repository.access.patience;
        let (mut looked, mut then) = (Instant::now(), self.came);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Ended::Broken(repository.broken_at(url, error.into()))),
            };
            let url = || url.to_owned();
            let (said, found) = (self.blob.bytes, self.came + count as u64);
            if count == 0 && found < said {
                let why = format!("the answer ends after {found} of {said} bytes");
                return Err(Ended::Broken(RegistryError::Connection { url: url(), why }));
            }
            if count == 0 {
                return Ok(());
            }
            if found > said {
                return Err(refused(RegistryError::WrongSize { url: url(), said, found }));
            }
            let wrote = self.file.write_all_at(&buffer[..count], self.came);
            wrote.map_err(|source| refused(RegistryError::Io { url: url(), source }))?;
            self.hasher.update(&buffer[..count]);
            self.came = found;
            arrived(found);
            if looked.elapsed() >= patience.window {
                let bytes = self.came - then;
                if bytes < patience.window_bytes {
                    let seconds = patience.window.as_secs_f64();
                    return Err(refused(RegistryError::Slow { url: url(), bytes, seconds }));
                }
                (looked, then) = (Instant::now(), self.came);
            }
        }
    }
}

fn refused(error: RegistryError) -> Ended {
    Ended::Refused(error.into())
}

/// A connection that was not made may be made the next time; a registry that said no means it.
fn ended(error: PullError) -> Ended {
    match error {
        PullError::Registry(
            error @ (RegistryError::Connection { .. } | RegistryError::Silent { .. }),
        ) => Ended::Broken(error),
        error => Ended::Refused(error),
    }
}
