//! What a fuzzer begins with, fed here whole, cut off at every byte and with every byte changed.

use super::*;
use crate::testing::{Recipe, Tar, descriptor, gzip, zstd};

fn spoil(seed: &[u8], feed: fn(&[u8])) {
    feed(seed);
    let mut bytes = seed.to_vec();
    for at in 0..seed.len() {
        feed(&seed[..at]);
        for change in [0x01, 0x80, 0xff] {
            bytes[at] ^= change;
            feed(&bytes);
            bytes[at] = seed[at];
        }
    }
}

#[test]
fn no_spoiled_name_makes_us_panic_or_forget_what_it_said() {
    let digest = crate::Digest::of(b"");
    for word in ["demo", "localhost:5000/a/b__c:tag", "[::1]:5000/a", "linux/arm/v7"] {
        spoil(word.as_bytes(), reference);
        spoil(format!("{word}@{digest}").as_bytes(), reference);
    }
}

#[test]
fn no_spoiled_document_makes_us_panic() {
    let recipe = Recipe::of([Tar::default().file("a", b"a").end()]);
    let document = recipe.manifest().to_string().into_bytes();
    spoil(&[&document, &b"\0"[..], &recipe.config()].concat(), manifest);
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &document);
    entry["platform"] =
        serde_json::json!({ "os": "linux", "architecture": "arm", "variant": "v7" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    spoil(index.to_string().as_bytes(), manifest);
}

#[test]
fn no_spoiled_layer_makes_us_panic() {
    let plain = Tar::default()
        .directory("bin/")
        .file("bin/sh", b"#!")
        .entry(b'2', b"lib", b"usr/lib", b"")
        .entry(b'1', b"bin/ash", b"bin/sh", b"")
        .pax(&[("path", b"long"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")])
        .file("x", b"y")
        .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", b"10,3")])
        .file("sparse", b"abc")
        .file("bin/.wh.ash", b"")
        .entry(b'L', b"long", b"", b"a/very/long/name")
        .file("short", b"")
        .end();
    // Plain bytes lie far apart: packed, every byte counts.
    for seed in [gzip(&plain), zstd(&plain)] {
        spoil(&seed, layer);
    }
    for at in (0..plain.len()).step_by(7) {
        let mut bytes = plain.clone();
        bytes[at] ^= 0xff;
        layer(&bytes);
        layer(&plain[..at]);
    }
}
