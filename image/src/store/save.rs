//! From the store into an archive that other tools load.
//!
//! An OCI archive has everything as it came, digests and all. A `docker save` archive has unpacked layers,
//! which is what older tools read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::kept::Kept;
use super::names::Names;
use super::{FindError, Store};
use crate::digest::Hashed;
use crate::packing::{UnknownPacking, Unpacked};
use crate::{BadReference, Digest, Reference};

/// Which kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// What `docker save` writes and everybody reads.
    Docker,
    /// An OCI image layout in a tar file.
    Oci,
}

/// Why images cannot be saved.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SaveError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("image {reference} was loaded by a microvm that kept no layers, pull or load it again")]
    NoLayers { reference: String },
    #[error("store file {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "store file {path}: its content is not what its name says, pull or load the image again"
    )]
    Damaged { path: PathBuf },
    #[error("store file {path}")]
    Packing { path: PathBuf, source: UnknownPacking },
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
}

/// An image whose files are open: they stay, whoever removes it meanwhile.
struct Opened {
    id: Digest,
    names: Vec<Reference>,
    config_json: Vec<u8>,
    kept: Kept,
    diff_ids: Vec<Digest>,
    /// As many as `kept.layers`.
    blobs: Vec<(PathBuf, File)>,
}

impl Store {
    /// Writes the images that `references` name into an archive. One that is asked for by name has that
    /// name in it, one that is asked for by id has none. The same images give the same bytes.
    pub fn save(
        &self,
        references: &[String],
        kind: ArchiveKind,
        out: &mut dyn Write,
    ) -> Result<(), SaveError> {
        let mut images: Vec<Opened> = Vec::new();
        for reference in references {
            let opened = self.open_image(reference)?;
            match images.iter_mut().find(|image| image.id == opened.id) {
                Some(known) => known.names.extend(opened.names),
                None => images.push(opened),
            }
        }
        let mut archive = Archive { tar: tar::Builder::new(out), written: BTreeSet::new() };
        let written = match kind {
            ArchiveKind::Oci => archive.oci(&images),
            ArchiveKind::Docker => archive.docker(&images, &self.tmp()),
        };
        if let Err(SaveError::Damaged { path }) = &written {
            // It is of no use to anybody, and the next to want it brings it again.
            let _ = std::fs::remove_file(path);
        }
        written?;
        archive.tar.finish().map_err(SaveError::Write)
    }

    fn open_image(&self, reference: &str) -> Result<Opened, SaveError> {
        // Nobody removes it while its files are opened.
        let _lock = self.lock().map_err(|(path, source)| SaveError::Io { path, source })?;
        let names = Names::read(&self.names_file())?;
        let (id, name) = self.resolve(reference, &names)?;
        let image = self.image(id, &names)?;
        let no_layers = || SaveError::NoLayers { reference: reference.to_owned() };
        let kept = self.kept(id)?.ok_or_else(no_layers)?;
        let path = self.image_directory(id).join("config.json");
        let config_json = std::fs::read(&path).map_err(|source| SaveError::Io { path, source })?;
        let open = |&(digest, _): &(Digest, u64)| {
            let path = self.blob(digest);
            match File::open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(SaveError::Io { path, source }),
            }
        };
        let blobs = kept.layers.iter().map(open).collect::<Result<_, _>>()?;
        let (names, diff_ids) = (name.into_iter().collect(), image.diff_ids);
        Ok(Opened { id, names, config_json, kept, diff_ids, blobs })
    }
}

struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    /// Members, which images may share.
    written: BTreeSet<String>,
}

impl Archive<'_> {
    fn oci(&mut self, images: &[Opened]) -> Result<(), SaveError> {
        let mut listed = Vec::new();
        for image in images {
            let json = &image.kept.json;
            let media_type = image.kept.manifest.media_type().as_ref();
            let media_type = media_type.map_or_else(
                || "application/vnd.oci.image.manifest.v1+json".to_owned(),
                ToString::to_string,
            );
            let descriptor = serde_json::json!({
                "mediaType": media_type, "digest": Digest::of(json).to_string(), "size": json.len(),
            });
            let named = image.names.iter().map(|name| {
                let mut descriptor = descriptor.clone();
                // podman reads the one, containerd and docker the other.
                descriptor["annotations"] = serde_json::json!({
                    "io.containerd.image.name": name.canonical(),
                    "org.opencontainers.image.ref.name": name.canonical(),
                });
                descriptor
            });
            let before = listed.len();
            listed.extend(named);
            if listed.len() == before {
                listed.push(descriptor);
            }
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": listed,
        });
        self.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.bytes("index.json", index.to_string().as_bytes())?;
        for image in images {
            for json in [&image.kept.json, &image.config_json] {
                self.bytes(&format!("blobs/sha256/{}", Digest::of(json).hex()), json)?;
            }
            for ((path, file), &(digest, bytes)) in image.blobs.iter().zip(&image.kept.layers) {
                let name = format!("blobs/sha256/{}", digest.hex());
                self.checked(&name, path, file, digest, bytes)?;
            }
        }
        Ok(())
    }

    fn docker(&mut self, images: &[Opened], scratch: &Path) -> Result<(), SaveError> {
        let mut listed = Vec::new();
        for image in images {
            let config = format!("{}.json", image.id.hex());
            self.bytes(&config, &image.config_json)?;
            let mut layers = Vec::new();
            for ((path, file), diff_id) in image.blobs.iter().zip(&image.diff_ids) {
                let name = format!("{}.tar", diff_id.hex());
                self.unpacked(&name, path, file, *diff_id, scratch)?;
                layers.push(name);
            }
            let names: Vec<_> = image.names.iter().map(Reference::to_string).collect();
            listed.push(serde_json::json!({
                "Config": config, "RepoTags": names, "Layers": layers,
            }));
        }
        self.bytes("manifest.json", serde_json::json!(listed).to_string().as_bytes())
    }

    fn bytes(&mut self, name: &str, content: &[u8]) -> Result<(), SaveError> {
        match self.written.insert(name.to_owned()) {
            true => self.member(name, content.len() as u64, content).map_err(SaveError::Write),
            false => Ok(()),
        }
    }

    /// A blob as it is.
    fn checked(
        &mut self,
        name: &str,
        path: &Path,
        file: &File,
        digest: Digest,
        bytes: u64,
    ) -> Result<(), SaveError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let damaged = || SaveError::Damaged { path: path.to_owned() };
        let io = |source| SaveError::Io { path: path.to_owned(), source };
        if file.metadata().map_err(io)?.len() != bytes {
            return Err(damaged());
        }
        let mut source = Hashed::new(file);
        self.member(name, bytes, &mut source).map_err(SaveError::Write)?;
        match source.digest() == digest {
            true => Ok(()),
            false => Err(damaged()),
        }
    }

    /// What a blob unpacks to. A tar file wants to know how long it is before it comes.
    fn unpacked(
        &mut self,
        name: &str,
        path: &Path,
        file: &File,
        diff_id: Digest,
        scratch: &Path,
    ) -> Result<(), SaveError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let io = |source| SaveError::Io { path: path.to_owned(), source };
        let packing = |source| SaveError::Packing { path: path.to_owned(), source };
        let source = Unpacked::new(BufReader::new(file)).map_err(io)?.map_err(packing)?;
        let mut source = Hashed::new(source);
        let scratch_io = |source| SaveError::Io { path: scratch.to_owned(), source };
        let mut plain = tempfile::tempfile_in(scratch).map_err(scratch_io)?;
        // What it unpacks to was within the limits when the image was made, and it is still the same.
        let bytes = io::copy(&mut source, &mut plain).map_err(io)?;
        if source.digest() != diff_id {
            return Err(SaveError::Damaged { path: path.to_owned() });
        }
        plain.rewind().map_err(scratch_io)?;
        self.member(name, bytes, plain).map_err(SaveError::Write)
    }

    fn member(&mut self, name: &str, bytes: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, content)
    }
}

impl From<BadReference> for SaveError {
    fn from(bad: BadReference) -> Self {
        Self::Find(bad.into())
    }
}

#[cfg(test)]
mod tests;
