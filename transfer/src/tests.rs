use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proto::files::{Bytes, Entry, Kind};

use super::*;

const STRANGER: Rules = Rules { owners: false, powers: false };

fn entry(path: &str, kind: Kind) -> Entry {
    let (mode, mtime) = (0o644, (86_400, 5));
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: vec![],
        covers: false,
    }
}

fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    (entry(path, Kind::File { bytes: content.len() as u64 }), content.to_vec())
}

fn directory(path: &str) -> (Entry, Vec<u8>) {
    (Entry { mode: 0o755, ..entry(path, Kind::Directory { opaque: false }) }, vec![])
}

fn link(path: &str, to: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::Symlink { to: to.as_bytes().into() }), vec![])
}

fn hard_link(path: &str, to: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::HardLink { to: to.as_bytes().into() }), vec![])
}

fn said(items: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sender = Sender::new(&mut bytes);
    for (entry, content) in items {
        sender.entry(entry.clone()).unwrap();
        sender.data(content).unwrap();
    }
    sender.end().unwrap();
    bytes
}

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// Puts a stranger's tree into `place`.
fn put(place: &Path, name: Option<&str>, bytes: &[u8]) -> Result<(), PutError> {
    let name = name.map(|name| name.as_bytes().to_vec());
    Put::new(open(place), name, STRANGER)?.all(&mut Receiver::new(bytes, 1000))
}

/// A place for trees, and beside it what must never be touched.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        fs::create_dir(world.place()).unwrap();
        fs::write(world.0.path().join("secret"), "secret").unwrap();
        world
    }

    fn place(&self) -> std::path::PathBuf {
        self.0.path().join("place")
    }

    #[track_caller]
    fn expect_refused(&self, items: &[(Entry, Vec<u8>)], why: &str) {
        let error = put(&self.place(), None, &said(items)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(fs::read_to_string(self.0.path().join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_tree_arrives_as_it_was() {
    let world = World::new();
    let from = world.0.path().join("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/file"), vec![7; 200_000]).unwrap();
    fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("a/other")).unwrap();
    symlink("/secret", from.join("a/link")).unwrap();
    fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o555)).unwrap();
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1000, 5);
    open_for_times(&from.join("a/b")).set_modified(then).unwrap();
    let mut bytes = Vec::new();
    let mut sender = Sender::new(&mut bytes);
    walk(open(world.0.path()), b"from", None, &mut sender).unwrap();
    sender.end().unwrap();
    put(&world.place(), Some("to"), &bytes).unwrap();
    let to = world.place().join("to");
    assert_eq!(fs::read(to.join("a/b/file")).unwrap(), vec![7; 200_000]);
    // A stranger's file is not run as anybody else.
    assert_eq!(fs::metadata(to.join("a/b/file")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(fs::metadata(to.join("a/other")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("/secret"));
    let directory = fs::metadata(to.join("a/b")).unwrap();
    assert_eq!((directory.mode() & 0o777, directory.mtime()), (0o555, 1000));
}

fn open_for_times(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

#[test]
fn no_name_leads_out_of_the_place() {
    for name in ["../secret", "/secret", "a/../../secret", "..", "."] {
        World::new().expect_refused(&[file(name, b"x")], "is no name in a tree");
        World::new().expect_refused(&[hard_link("a", name)], "is no name in a tree");
    }
    for name in ["", "..", ".", "a/b", "/a"] {
        let world = World::new();
        let put = Put::new(open(&world.place()), Some(name.into()), STRANGER);
        assert!(put.is_err(), "{name:?}");
    }
}

#[test]
fn no_link_is_followed_whoever_made_it() {
    for to in ["..", "../../..", "/", "/tmp"] {
        let world = World::new();
        world.expect_refused(
            &[link("a", to), file("a/secret", b"x")],
            "a link or file stands there",
        );
        world.expect_refused(&[link("b", to), directory("b")], "a link or file stands there");
        world.expect_refused(&[link("c", to), hard_link("d", "c/secret")], "a link or file stands");
    }
    // One that was there before, and a file through it or in its place.
    let world = World::new();
    symlink("../secret", world.place().join("a")).unwrap();
    put(&world.place(), None, &said(&[file("a", b"mine")])).unwrap();
    assert_eq!(fs::read_to_string(world.place().join("a")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(world.0.path().join("secret")).unwrap(), "secret");
    // A second name of a file is not a way to write into the first.
    put(&world.place(), None, &said(&[hard_link("b", "a"), file("b", b"other")])).unwrap();
    assert_eq!(fs::read_to_string(world.place().join("a")).unwrap(), "mine");
}

#[test]
fn a_directory_and_a_file_do_not_take_each_others_place() {
    let world = World::new();
    fs::create_dir(world.place().join("dir")).unwrap();
    fs::write(world.place().join("file"), "").unwrap();
    world.expect_refused(&[file("dir", b"")], "is a directory here");
    world.expect_refused(&[directory("file")], "a link or file stands there");
    world.expect_refused(&[file("", b"")], "is a directory here");
}

#[test]
fn a_stranger_gives_nobody_devices_or_attributes() {
    for kind in [Kind::Character { major: 1, minor: 3 }, Kind::Block { major: 8, minor: 0 }] {
        World::new()
            .expect_refused(&[(entry("a", kind), vec![])], "is a device, which is not made");
    }
    World::new().expect_refused(&[(entry("a", Kind::Gone), vec![])], "is what is gone");
    let world = World::new();
    let (mut entry, content) = file("a", b"x");
    entry.xattrs = vec![(Bytes::from(&b"user.x"[..]), Bytes(vec![1]))];
    put(&world.place(), None, &said(&[(entry, content)])).unwrap();
    let mut names = [0; 64];
    let length = rustix::fs::listxattr(world.place().join("a"), &mut names).unwrap();
    assert!(!names[..length].starts_with(b"user."));
}

#[test]
fn a_stream_without_end_is_ended_and_one_that_breaks_off_is_not_whole() {
    let world = World::new();
    let many: Vec<_> = (0..1001).map(|number| file(&format!("f{number}"), b"")).collect();
    world.expect_refused(&many, "over the limit of 1000 files");
    let whole = said(&[file("a", b"content")]);
    for end in 0..whole.len() {
        let error = put(&world.place(), None, &whole[..end]).unwrap_err();
        assert!(matches!(error, PutError::Receive(ReceiveError::Early)), "{end}: {error}");
    }
    let deep = "d/".repeat(300) + "x";
    world.expect_refused(&[file(&deep, b"")], "directories deep");
}

#[test]
fn nonsense_and_lies_about_lengths_are_not_believed() {
    let world = World::new();
    let long = (2u32 << 20).to_le_bytes();
    let error = put(&world.place(), None, &long).unwrap_err();
    assert!(matches!(error, PutError::Receive(ReceiveError::Nonsense(_))), "{error}");
    // It says more bytes than come: what would be the next frame is taken for content, and then it ends.
    let (mut entry, content) = file("a", b"x");
    entry.kind = Kind::File { bytes: u64::MAX };
    let error = put(&world.place(), None, &said(&[(entry, content)])).unwrap_err();
    assert!(matches!(error, PutError::Receive(ReceiveError::Early)), "{error}");
    let mut bytes = Vec::new();
    Sender::new(&mut bytes).failed("no\x1b[2J").unwrap();
    let error = put(&world.place(), None, &bytes).unwrap_err().to_string();
    assert_eq!(error, "no?[2J");
}

#[test]
fn what_an_upper_layer_changes_is_told() {
    let world = World::new();
    let (lower, upper) = (world.place().join("lower"), world.place().join("upper"));
    for path in [lower.join("kept"), upper.join("kept"), upper.join("new")] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(lower.join("kept/file"), "old").unwrap();
    fs::write(upper.join("kept/file"), "newer").unwrap();
    fs::write(upper.join("new/file"), "new").unwrap();
    let (lower, root) = (open(&lower), open(&upper));
    let layer = Layer { lower: lower.as_fd(), root: root.as_fd(), names_only: true };
    let mut bytes = Vec::new();
    let mut sender = Sender::new(&mut bytes);
    walk(open(&upper), b".", Some(&layer), &mut sender).unwrap();
    sender.end().unwrap();
    let mut receiver = Receiver::new(&bytes[..], 10);
    let mut told = Vec::new();
    while let Some(entry) = receiver.entry().unwrap() {
        if let Kind::File { bytes } = entry.kind {
            assert_eq!(bytes, 0);
        }
        told.push((String::from_utf8(entry.path.0).unwrap(), entry.covers));
    }
    let told: Vec<_> = told.iter().map(|(path, covers)| (path.as_str(), *covers)).collect();
    let wanted =
        [("", true), ("kept", true), ("kept/file", true), ("new", false), ("new/file", false)];
    assert_eq!(told, wanted);
}
