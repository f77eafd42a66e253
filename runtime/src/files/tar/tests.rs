use std::io::{BufReader, Cursor};
use std::os::unix::net::UnixStream;

use super::*;

fn entry(path: &str, kind: Kind) -> Entry {
    let (mode, mtime) = (0o644, (9, 0));
    let path = path.as_bytes().into();
    Entry { path, kind, mode, uid: 1, gid: 2, mtime, xattrs: vec![], covers: false }
}

/// What a container says in these entries, in files of no bytes.
fn heard(entries: &[Entry]) -> Heard {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sender = Sender::new(theirs);
    entries.iter().for_each(|entry| sender.entry(entry.clone()).unwrap());
    sender.end().unwrap();
    transfer::Receiver::new(BufReader::new(ours), 100)
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = TarReader::new(archive).unwrap().unwrap();
    let mut names = Vec::new();
    while let Some(file) = reader.file().unwrap() {
        names.push(String::from_utf8(file.name).unwrap());
    }
    names
}

#[test]
fn what_is_gone_and_what_is_hidden_are_marked_in_a_layer() {
    let empty = Kind::File { bytes: 0 };
    let mut heard = heard(&[
        entry("", Kind::Directory { opaque: false }),
        entry("etc", Kind::Directory { opaque: false }),
        entry("etc/group", Kind::Gone),
        entry("etc/new", empty.clone()),
        entry("old", Kind::Directory { opaque: true }),
        entry("top", Kind::Gone),
    ]);
    let archive = layer(&mut heard, Vec::new()).unwrap();
    let wanted = ["etc", "etc/.wh.group", "etc/new", "old", "old/.wh..wh..opq", ".wh.top"];
    assert_eq!(names(&archive), wanted);
}

#[test]
fn a_container_cannot_take_files_away_by_their_names_alone() {
    for name in [".wh.passwd", "etc/.wh..wh..opq"] {
        let mut heard = heard(&[entry(name, Kind::File { bytes: 0 })]);
        assert!(matches!(layer(&mut heard, Vec::new()), Err(CopyError::Whiteout { .. })), "{name}");
    }
}

#[test]
fn an_archive_is_named_from_where_it_is_to_be_unpacked() {
    let tree = [
        entry("", Kind::Directory { opaque: false }),
        entry("a", Kind::File { bytes: 0 }),
        entry("b", Kind::HardLink { to: b"a"[..].into() }),
    ];
    let archive = tar(None, &mut heard(&tree), &Naming::Top("dir"), Vec::new()).unwrap();
    assert_eq!(names(&archive), ["dir", "dir/a", "dir/b"]);
    let archive = tar(None, &mut heard(&tree), &Naming::Bare, Vec::new()).unwrap();
    assert_eq!(names(&archive), ["a", "b"]);
}

#[test]
fn an_archive_that_leads_out_of_itself_is_refused_before_anybody_hears_of_it() {
    for name in ["../x", "a/../../x", "/.."] {
        let mut archive = TarWriter::new(Vec::new());
        let of = file(&entry("", Kind::Fifo), name.into(), |_| vec![]).unwrap();
        archive.file(of).unwrap();
        let archive = archive.finish().unwrap();
        let mut said = Vec::new();
        let refused = untar(Cursor::new(archive), &mut Sender::new(&mut said));
        assert!(matches!(refused, Err(CopyError::Climbs { .. })), "{name}");
        assert!(said.is_empty());
    }
    for (name, meant) in [("./a//b/", "a/b"), ("/etc/x", "etc/x"), ("./", "")] {
        assert_eq!(inside(name.as_bytes()).unwrap(), meant.as_bytes().into());
    }
}

#[test]
fn what_is_written_as_an_archive_is_said_again_as_it_was() {
    let mut with_content = entry("dir/file", Kind::File { bytes: 5 });
    with_content.xattrs = vec![(b"user.x"[..].into(), b"\0\xff"[..].into())];
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sender = Sender::new(theirs);
    sender.entry(with_content.clone()).unwrap();
    sender.data(b"hello").unwrap();
    sender.end().unwrap();
    let mut heard = transfer::Receiver::new(BufReader::new(ours), 100);
    let archive = tar(None, &mut heard, &Naming::Bare, Vec::new()).unwrap();
    let mut said = Vec::new();
    let mut sender = Sender::new(&mut said);
    untar(&archive[..], &mut sender).unwrap();
    sender.end().unwrap();
    let mut receiver = transfer::Receiver::new(&said[..], 100);
    assert_eq!(receiver.entry().unwrap(), Some(with_content));
    let mut content = [0; 9];
    assert_eq!(receiver.data(&mut content).unwrap(), 5);
    assert_eq!(&content[..5], b"hello");
}
