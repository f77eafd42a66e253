//! Archives made by hand, honest and otherwise, for the tests of this crate.

use std::error::Error;
use std::io::Write;

use crate::Digest;

/// A tar archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    /// An entry of type `kind` whose header says what is given, unfit names and all.
    pub(crate) fn entry(mut self, kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.data(data)
    }

    /// A header as it stands, with its checksum put right.
    pub(crate) fn header(mut self, mut header: tar::Header) -> Self {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", data)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"")
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let length = (rest..).find(|length| rest + length.to_string().len() == *length);
            write!(data, "{} {key}=", length.unwrap()).unwrap();
            data.extend(*value);
            data.push(b'\n');
        }
        self.entry(b'x', b"PaxHeaders/x", b"", &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// An image in the making.
pub(crate) struct Recipe {
    /// Blobs as they are in the archive, and unpacked.
    pub(crate) layers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) architecture: &'static str,
    /// The `ref.name` in the index, or the tag for docker.
    pub(crate) name: Option<&'static str>,
}

pub(crate) const HERE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

impl Recipe {
    pub(crate) fn of(layers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let layers = layers.into_iter().map(|layer| (layer.clone(), layer)).collect();
        Self { layers, architecture: HERE, name: Some("example.org/demo:1") }
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<_> =
            self.layers.iter().map(|(_, plain)| Digest::of(plain).to_string()).collect();
        serde_json::to_vec(&serde_json::json!({
            "architecture": self.architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))
        .unwrap()
    }

    pub(crate) fn manifest(&self) -> serde_json::Value {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(blob, _)| descriptor("application/vnd.oci.image.layer.v1.tar", blob))
            .collect();
        serde_json::json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.config()),
            "layers": layers,
        })
    }

    /// The members of an OCI archive.
    pub(crate) fn oci(&self) -> Members {
        self.oci_with(&self.manifest())
    }

    /// The same, with another manifest.
    pub(crate) fn oci_with(&self, manifest: &serde_json::Value) -> Members {
        let manifest = serde_json::to_vec(manifest).unwrap();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(name) = self.name {
            entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
        }
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut members = Members::default();
        members.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        members.put("index.json", &serde_json::to_vec(&index).unwrap());
        for blob in [&manifest, &self.config()].into_iter().chain(self.layers.iter().map(|l| &l.0))
        {
            members.put(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
        }
        members
    }

    /// The members of what `docker save` wrote before it wrote OCI layouts.
    pub(crate) fn docker(&self) -> Members {
        let config = self.config();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let files: Vec<_> = (0..self.layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
        let tags: Vec<_> = self.name.into_iter().collect();
        let listed =
            serde_json::json!([{ "Config": config_name, "RepoTags": tags, "Layers": files }]);
        let mut members = Members::default();
        members.put(&config_name, &config);
        for (file, (blob, _)) in files.iter().zip(&self.layers) {
            members.put(file, blob);
        }
        members.put("manifest.json", &serde_json::to_vec(&listed).unwrap());
        members
    }
}

pub(crate) fn descriptor(kind: &str, blob: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "mediaType": kind, "digest": Digest::of(blob).to_string(), "size": blob.len()
    })
}

/// Files of an archive by name.
#[derive(Clone, Default)]
pub(crate) struct Members(pub(crate) Vec<(String, Vec<u8>)>);

impl Members {
    pub(crate) fn put(&mut self, name: &str, content: &[u8]) {
        self.0.push((name.to_owned(), content.to_vec()));
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let add = |tar: Tar, (name, content): &(String, Vec<u8>)| tar.file(name, content);
        self.0.iter().fold(Tar::default(), add).end()
    }

    pub(crate) fn write_to(&self, directory: &std::path::Path) {
        for (name, content) in &self.0 {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The line that a person is shown.
pub(crate) fn line(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", line(source)),
        None => error.to_string(),
    }
}
