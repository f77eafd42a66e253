//! Where strangers' bytes come in, each as one function from bytes to nothing: for fuzzers, who look for
//! panics, endless loops and memory without bounds. Nothing else calls them.

use oci_spec::image::{ImageIndex, ImageManifest};

use crate::config::Description;
use crate::layer::unpack_entries;
use crate::limits::Budget;
use crate::merge::Merge;
use crate::spool::Spool;
use crate::{Limits, Platform, Reference, manifest as documents};

/// A name of an image or of a platform. What is read as a name is read back as the same name.
pub fn reference(bytes: &[u8]) {
    let Ok(word) = std::str::from_utf8(bytes) else { return };
    let _ = word.parse::<Platform>();
    if let Ok(reference) = word.parse::<Reference>() {
        assert_eq!(reference.canonical().parse().as_ref(), Ok(&reference));
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
    }
}

/// An index or a manifest, and behind a byte of zero a configuration.
pub fn manifest(bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (json, config) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let platform = Platform::here();
    let _ = documents::kind("", json);
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(json) {
        let _ = documents::choose(index.manifests(), &platform);
        let _ = documents::platforms(index.manifests());
    }
    if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(json) {
        let _ = documents::oci_image(json.to_vec(), &manifest, config.to_vec(), &platform);
    }
    let _ = Description::parse(config);
}

/// A layer, packed or not.
pub fn layer(bytes: &[u8]) {
    let limits = Limits {
        unpacked_bytes: 1 << 22,
        unsuspicious_bytes: 1 << 20,
        ratio: 100,
        entries: 1000,
        metadata_bytes: 1 << 20,
    };
    let Ok(mut spool) = Spool::new(&std::env::temp_dir()) else { return };
    let (mut merge, mut budget) = (Merge::new(&limits), Budget::new(&limits));
    budget.add_packed(bytes.len() as u64);
    merge.begin_layer();
    let _ = unpack_entries(&mut &*bytes, &mut merge, &mut spool, &mut budget);
}

#[cfg(test)]
mod tests;
