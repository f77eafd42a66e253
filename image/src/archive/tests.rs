use super::*;
use crate::testing::{Members, Tar, gzip};

fn tar(bytes: &[u8]) -> Result<Archive, ArchiveError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive");
    std::fs::write(&path, bytes).unwrap();
    Archive::open(&path, directory.path(), &Limits::default())
}

fn content(archive: &Archive, name: &str) -> Option<Vec<u8>> {
    archive.read(name, 1000).unwrap()
}

#[test]
fn members_are_found_by_their_plain_names_and_through_links_between_them() {
    let bytes = Tar::default()
        .directory("one/")
        .file("./one//layer.tar", b"first")
        .entry(b'2', b"two/layer.tar", b"../one/layer.tar", b"")
        .entry(b'1', b"three", b"./two/layer.tar", b"")
        .file("twice", b"old")
        .file("twice", b"new")
        .end();
    for archive in [tar(&bytes).unwrap(), tar(&gzip(&bytes)).unwrap()] {
        for name in ["one/layer.tar", "./one/layer.tar", "two/layer.tar", "three"] {
            assert_eq!(content(&archive, name).as_deref(), Some(&b"first"[..]), "{name}");
        }
        assert_eq!(content(&archive, "twice").as_deref(), Some(&b"new"[..]));
        assert_eq!(content(&archive, "one"), None);
        assert_eq!(content(&archive, "four"), None);
    }
}

#[test]
fn a_link_that_leads_out_or_in_a_circle_leads_to_nothing() {
    let archive = tar(&Tar::default()
        .entry(b'2', b"circle", b"circle", b"")
        .entry(b'2', b"out", b"../../etc/passwd", b"")
        .entry(b'2', b"root", b"/etc/passwd", b"")
        .entry(b'1', b"hard", b"../etc/passwd", b"")
        .file("../climbing", b"x")
        .file("/etc/passwd", b"x")
        .end())
    .unwrap();
    for name in ["circle", "out", "root", "hard", "../climbing", "/etc/passwd", "etc/passwd"] {
        assert_eq!(content(&archive, name), None, "{name}");
    }
}

#[test]
fn a_directory_gives_its_files_and_nothing_above_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "x").unwrap();
    let layout = directory.path().join("layout");
    let mut members = Members::default();
    members.put("index.json", b"{}");
    members.write_to(&layout);
    let archive = Archive::open(&layout, directory.path(), &Limits::default()).unwrap();
    assert_eq!(content(&archive, "index.json").as_deref(), Some(&b"{}"[..]));
    let absolute = directory.path().join("secret");
    for name in ["../secret", absolute.to_str().unwrap(), "missing"] {
        assert_eq!(content(&archive, name), None, "{name}");
    }
    assert!(matches!(archive.read("", 1000), Ok(None)));
    std::fs::create_dir(layout.join("blobs")).unwrap();
    assert!(matches!(archive.read("blobs", 1000), Err(ArchiveError::Special { .. })));
}

#[test]
fn a_member_with_holes_or_without_its_end_is_refused() {
    let sparse = Tar::default()
        .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", b"10,3")])
        .file("blob", b"abc")
        .end();
    assert!(matches!(tar(&sparse), Err(ArchiveError::Sparse { .. })));
    let whole = Tar::default().file("blob", &[1; 5000]).end();
    for end in [513, 600, 5000] {
        let refused = tar(&whole[..end]).err().unwrap();
        assert!(matches!(refused, ArchiveError::Tar(TarError::Truncated { .. })), "{end}");
    }
}
