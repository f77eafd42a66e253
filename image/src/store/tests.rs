use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::testing::{HERE, Members, Recipe, Tar, descriptor, gzip, line, zstd};

pub(super) struct Place {
    directory: tempfile::TempDir,
    pub(super) store: Store,
}

impl Place {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn archive(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("archive.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub(super) fn load(&self, bytes: &[u8]) -> Result<Vec<Image>, LoadError> {
        self.store.load(&self.archive(bytes), None)
    }

    /// The line a refused archive gets, what the archive is called left out; and nothing is left.
    fn refusal(&self, bytes: &[u8]) -> String {
        let before = self.files();
        let line = line(&self.load(bytes).unwrap_err());
        assert_eq!(self.files(), before);
        let start = format!("archive {}: ", self.directory.path().join("archive.tar").display());
        line.strip_prefix(&start).map(str::to_owned).unwrap_or(line)
    }

    /// Every file in the store.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut pending = vec![self.root()];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            files.push(path);
        }
        files.sort();
        files
    }
}

pub(super) fn layer() -> Vec<u8> {
    Tar::default().directory("bin").file("bin/sh", b"#!").end()
}

pub(super) fn demo() -> Recipe {
    Recipe::of([layer(), Tar::default().file("etc/x", b"x").end()])
}

#[test]
fn the_same_image_comes_out_of_every_kind_of_archive() {
    let recipe = demo();
    let mut compressed = demo();
    for (pack, layer) in [gzip, zstd].into_iter().zip(&mut compressed.layers) {
        layer.0 = pack(&layer.1);
    }
    let mut new_docker = recipe.oci();
    new_docker.put("manifest.json", b"[]");
    let mut disks = Vec::new();
    for archive in [
        recipe.oci().tar(),
        gzip(&recipe.oci().tar()),
        zstd(&recipe.oci().tar()),
        compressed.oci().tar(),
        recipe.docker().tar(),
        compressed.docker().tar(),
        new_docker.tar(),
    ] {
        let place = Place::new();
        let [image] = &place.load(&archive).unwrap()[..] else { panic!("not one image") };
        assert_eq!(image.names, ["example.org/demo:1"]);
        assert_eq!(image.id, Digest::of(&recipe.config()));
        assert_eq!(image.config.command, ["sh"]);
        assert_eq!(image.created.as_deref(), Some("2024-01-02T03:04:05Z"));
        disks.push(fs::read(&image.disk).unwrap());
    }
    assert!(disks.iter().all(|disk| *disk == disks[0]));

    let place = Place::new();
    let layout = place.directory.path().join("layout");
    recipe.oci().write_to(&layout);
    let image = &place.store.load(&layout, Some("other")).unwrap()[0];
    assert_eq!(image.names, ["other:latest"]);
    assert_eq!(fs::read(&image.disk).unwrap(), disks[0]);
}

#[test]
fn an_image_is_found_by_its_names_and_by_the_start_of_its_id() {
    let place = Place::new();
    let id = place.load(&demo().oci().tar()).unwrap()[0].id;
    place.store.load(&place.directory.path().join("archive.tar"), Some("demo")).unwrap();
    for reference in ["demo", "demo:latest", "docker.io/library/demo", "example.org/demo:1"] {
        assert_eq!(place.store.find(reference).unwrap().id, id, "{reference}");
    }
    for reference in [&id.to_string(), &id.hex(), &id.hex()[..12], &id.to_string()[..11]] {
        assert_eq!(place.store.find(reference).unwrap().id, id, "{reference}");
    }
    let not_found = |reference: &str| line(&place.store.find(reference).unwrap_err());
    assert_eq!(not_found("demo:2"), "no image demo:2 in the store");
    assert_eq!(not_found("ffffffff"), "no image ffffffff in the store");
    assert!(not_found("De mo").starts_with("image reference \"De mo\": "));
    assert_eq!(place.store.images().unwrap(), [place.store.find("demo").unwrap()]);
    assert_eq!(place.store.find("demo").unwrap().names, ["demo:latest", "example.org/demo:1"]);
}

#[test]
fn a_name_moves_to_the_newer_image_and_the_older_one_stays() {
    let place = Place::new();
    let old = place.load(&demo().oci().tar()).unwrap()[0].id;
    let new = place.load(&Recipe::of([layer()]).oci().tar()).unwrap()[0].id;
    assert_eq!(place.store.find("example.org/demo:1").unwrap().id, new);
    assert_eq!(place.store.find(&old.hex()).unwrap().names, Vec::<String>::new());
    assert_eq!(place.store.images().unwrap().len(), 2);
}

#[test]
fn a_removed_image_is_gone_but_for_those_who_have_it_open() {
    let place = Place::new();
    let empty = place.files();
    let archive = place.archive(&demo().oci().tar());
    let image = place.store.load(&archive, None).unwrap().remove(0);
    place.store.load(&archive, Some("second")).unwrap();
    let disk = File::open(&image.disk).unwrap();

    let removed = place.store.remove("example.org/demo:1").unwrap();
    assert_eq!(removed, Removed { names: vec!["example.org/demo:1".to_owned()], image: None });
    let removed = place.store.remove("second").unwrap();
    let wanted = Removed { names: vec!["second:latest".to_owned()], image: Some(image.id) };
    assert_eq!(removed, wanted);
    assert!(matches!(place.store.find("second"), Err(FindError::Unknown { .. })));
    assert!(matches!(place.store.remove("second"), Err(RemoveError::Find(_))));
    let mut magic = [0; 4];
    disk.read_exact_at(&mut magic, 1024).unwrap();
    assert_eq!(u32::from_le_bytes(magic), 0xe0f5_e1e2);
    let left: Vec<_> = place.files().into_iter().filter(|path| !empty.contains(path)).collect();
    assert_eq!(left, [place.store.names_file()]);

    place.store.load(&archive, None).unwrap();
    let removed = place.store.remove(&image.id.hex()).unwrap();
    assert_eq!((removed.names.len(), removed.image), (1, Some(image.id)));
}

#[test]
fn an_archive_that_lies_is_refused_by_the_digest_that_is_wrong() {
    let place = Place::new();
    let recipe = demo();
    let (first, second) = (&recipe.layers[0].0, &recipe.layers[1].0);

    let mut other = recipe.oci();
    let at = other.0.iter().position(|(_, content)| content == second).unwrap();
    other.0[at].1[600] ^= 1;
    let found = Digest::of(&other.0[at].1);
    let said = Digest::of(second);
    assert_eq!(
        place.refusal(&other.tar()),
        format!("layer {said}: its content has the digest {found}")
    );
    other.0[at].1.truncate(100);
    assert_eq!(
        place.refusal(&other.tar()),
        format!("layer {said}: it has 100 bytes, its descriptor says {}", second.len())
    );
    other.0.remove(at);
    assert_eq!(place.refusal(&other.tar()), format!("layer {said}: it is not in the archive"));

    let mut wrong = recipe.manifest();
    wrong["config"]["size"] = 7.into();
    let config = Digest::of(&recipe.config());
    let length = recipe.config().len();
    assert_eq!(
        place.refusal(&recipe.oci_with(&wrong).tar()),
        format!("{config} has {length} bytes, its descriptor says 7")
    );
    let mut wrong = recipe.manifest();
    wrong["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
    assert!(
        place
            .refusal(&recipe.oci_with(&wrong).tar())
            .ends_with("only sha256 digests are supported")
    );

    let mut wrong = Recipe::of([first.clone()]);
    wrong.layers[0].1 = second.clone();
    assert_eq!(
        place.refusal(&wrong.oci().tar()),
        format!(
            "layer {}: it unpacks to {}, the image's configuration says {}",
            Digest::of(first),
            Digest::of(first),
            Digest::of(second)
        )
    );
    let mut wrong = recipe.docker();
    wrong.0[0].1.push(b' ');
    let found = Digest::of(&wrong.0[0].1);
    assert_eq!(place.refusal(&wrong.tar()), format!("{} has the digest {found}", wrong.0[0].0));
}

#[test]
fn what_is_no_image_archive_is_refused_by_what_is_missing() {
    let place = Place::new();
    assert_eq!(place.refusal(b"hello"), "it is no tar archive");
    assert_eq!(place.refusal(&[b'a'; 4096]), "it is no tar archive");
    assert_eq!(place.refusal(b""), "it holds no index.json and no manifest.json");
    assert_eq!(place.refusal(&layer()), "it holds no index.json and no manifest.json");
    assert_eq!(place.refusal(b"BZh9rest"), "compressed with bzip2, use gzip, zstd or none");
    let mut members = Members::default();
    members.put("index.json", b"{\"schemaVersion\": 2}");
    let refused = place.refusal(&members.tar());
    assert_eq!(refused, "index.json: missing field `manifests` at line 1 column 20");
    let mut members = Members::default();
    members.put("index.json", &vec![b' '; 5 << 20]);
    assert_eq!(
        place.refusal(&members.tar()),
        "index.json has 5242880 bytes, over the limit of 4194304"
    );
    let whole = demo().oci().tar();
    let refused = place.refusal(&whole[..whole.len() / 2]);
    assert!(refused.contains("ends in the middle of an entry, at byte"), "{refused}");

    let missing = place.directory.path().join("missing");
    let refused = line(&place.store.load(&missing, None).unwrap_err());
    assert!(refused.ends_with("missing: No such file or directory (os error 2)"), "{refused}");
    let fifo = place.directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let refused = line(&place.store.load(&fifo, None).unwrap_err());
    assert!(refused.ends_with("is no file and no directory"), "{refused}");
}

#[test]
fn an_image_for_another_machine_is_passed_over_in_an_index_and_refused_alone() {
    let place = Place::new();
    let other = Recipe { architecture: "s390x", ..demo() };
    let refused = place.refusal(&other.oci().tar());
    let wanted = format!("the image is for linux/s390x, not for linux/{HERE}");
    assert!(refused.ends_with(&wanted), "{refused}");

    let ours = demo();
    let mut members = ours.oci();
    let list = |recipe: &Recipe, members: &mut Members| {
        let manifest = serde_json::to_vec(&recipe.manifest()).unwrap();
        members.put(&format!("blobs/sha256/{}", Digest::of(&manifest).hex()), &manifest);
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] =
            serde_json::json!({ "os": "linux", "architecture": recipe.architecture });
        entry
    };
    let manifests = [list(&other, &mut members), list(&ours, &mut members)];
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    let index = serde_json::to_vec(&index).unwrap();
    members.put(&format!("blobs/sha256/{}", Digest::of(&index).hex()), &index);
    let entry = descriptor("application/vnd.oci.image.index.v1+json", &index);
    let top = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    members.put("index.json", &serde_json::to_vec(&top).unwrap());
    let images = place.load(&members.tar()).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id, Digest::of(&ours.config()));
    assert_eq!(images[0].names, Vec::<String>::new());

    let index =
        serde_json::json!({ "schemaVersion": 2, "manifests": [list(&other, &mut members)] });
    members.put("index.json", &serde_json::to_vec(&index).unwrap());
    assert_eq!(place.refusal(&members.tar()), format!("it holds no image for linux/{HERE}"));
}

#[test]
fn a_bomb_is_refused_and_leaves_nothing_behind() {
    let limits =
        Limits { unpacked_bytes: 4 << 20, unsuspicious_bytes: 1 << 20, ..Limits::default() };
    let mut place = Place::new();
    place.store = place.store.with_limits(limits);
    let zeros = Tar::default().file("zeros", &vec![0; 3 << 20]).end();
    let mut bomb = Recipe::of([zeros.clone()]);
    bomb.layers[0].0 = gzip(&zeros);
    let refused = place.refusal(&bomb.oci().tar());
    assert!(refused.contains("unpacked, it is over 100 times its"), "{refused}");
    assert!(refused.starts_with(&format!("layer {}", Digest::of(&bomb.layers[0].0))), "{refused}");

    let large = Recipe::of([zeros.clone(), zeros]);
    let refused = place.refusal(&large.oci().tar());
    assert!(refused.ends_with("unpacked, it is over the limit of 4194304 bytes"), "{refused}");

    let sparse = Tar::default()
        .pax(&[("GNU.sparse.size", b"10000000000"), ("GNU.sparse.map", b"")])
        .file("sparse", b"")
        .end();
    let refused = place.refusal(&Recipe::of([sparse]).oci().tar());
    assert!(refused.ends_with("unpacked, it is over the limit of 4194304 bytes"), "{refused}");

    let outer = gzip(&Recipe::of([vec![0; 3 << 20]]).oci().tar());
    let refused = place.refusal(&outer);
    assert!(refused.contains("unpacked, it is over 100 times its"), "{refused}");
}

#[test]
fn one_name_is_not_given_to_several_images() {
    let place = Place::new();
    let (one, two) = (demo(), Recipe::of([layer()]));
    let mut members = one.oci();
    members.0.extend(two.oci().0);
    let entries = [&one, &two].map(|recipe| {
        let manifest = serde_json::to_vec(&recipe.manifest()).unwrap();
        descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)
    });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries });
    members.put("index.json", &serde_json::to_vec(&index).unwrap());
    let archive = place.archive(&members.tar());
    let refused = line(&place.store.load(&archive, Some("demo")).unwrap_err());
    assert!(refused.ends_with("holds 2 images, which cannot all be demo:latest"), "{refused}");
    assert_eq!(place.store.load(&archive, None).unwrap().len(), 2);
}

#[test]
fn what_a_killed_load_left_is_swept_unless_another_is_at_work() {
    let place = Place::new();
    let root = place.directory.path().join("store");
    fs::create_dir(root.join("tmp/left")).unwrap();
    fs::write(root.join("tmp/left/disk.erofs"), b"half").unwrap();
    let lock = place.store.lock().unwrap_or_else(|_| panic!("no lock"));
    Store::open(&root).unwrap();
    assert!(root.join("tmp/left").exists());
    drop(lock);
    Store::open(&root).unwrap();
    assert!(!root.join("tmp/left").exists());
}

#[test]
fn an_image_that_was_damaged_is_named_and_mended_by_loading_it_again() {
    let place = Place::new();
    let archive = place.archive(&demo().oci().tar());
    let image = place.store.load(&archive, None).unwrap().remove(0);
    let found = || line(&place.store.find("example.org/demo:1").unwrap_err());
    File::options().write(true).open(&image.disk).unwrap().set_len(100).unwrap();
    assert!(found().ends_with("disk.erofs: it is no file of whole blocks"), "{}", found());
    fs::write(image.disk.with_file_name("config.json"), b"{}").unwrap();
    assert!(found().ends_with("config.json: its digest is not the image's id"), "{}", found());
    assert_eq!(place.store.load(&archive, None).unwrap(), [image]);

    fs::write(place.store.names_file(), b"[").unwrap();
    assert!(found().ends_with("names.json: it is no JSON object of names and ids"), "{}", found());
}

#[test]
fn a_store_of_another_version_and_a_directory_of_another_use_are_left_alone() {
    let place = Place::new();
    fs::write(place.root().join("version"), "2\n").unwrap();
    let refused = line(&Store::open(&place.root()).unwrap_err());
    assert!(refused.ends_with("has layout version \"2\\n\", this program knows version 1"));

    let home = place.directory.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "dear").unwrap();
    let refused = line(&Store::open(&home).unwrap_err());
    assert!(refused.ends_with("home is not empty and is no store"), "{refused}");
    fs::remove_file(home.join("letter")).unwrap();
    Store::open(&home).unwrap();
}

#[test]
fn loads_at_the_same_time_are_each_done_whole() {
    let place = Place::new();
    let recipes = [demo(), Recipe::of([layer()])];
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (recipe, directory) = (&recipes[n % 2], place.directory.path());
            scope.spawn(move || {
                let archive = directory.join(format!("{n}.tar"));
                fs::write(&archive, recipe.oci().tar()).unwrap();
                let store = Store::open(&directory.join("store")).unwrap();
                store.load(&archive, Some(&format!("demo:{n}"))).unwrap();
            });
        }
    });
    let images = place.store.images().unwrap();
    let names: usize = images.iter().map(|image| image.names.len()).sum();
    assert_eq!((images.len(), names), (2, 6));
    assert_eq!(fs::read_dir(place.store.tmp()).unwrap().count(), 0);
}
