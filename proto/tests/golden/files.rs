//! Files on their way.

use proto::files::{Bytes, Entry, Item, Kind};

use super::*;

#[test]
fn files_on_their_way_stand() {
    let bytes = |text: &str| Bytes::from(text.as_bytes());
    let entry = |kind| Entry {
        path: bytes("a/b"),
        kind,
        mode: 0o4755,
        uid: 1,
        gid: 2,
        mtime: (3, 4),
        xattrs: vec![],
        covers: false,
    };
    let said = |kind: &str, rest: &str| {
        format!(
            r#"{{"is":"entry","path":"a/b","kind":{kind},"mode":2541,"uid":1,"gid":2,"mtime":[3,4]{rest}}}"#
        )
    };
    let whole = Entry {
        xattrs: vec![(bytes("user.x"), Bytes(vec![0, 255]))],
        covers: true,
        ..entry(Kind::File { bytes: 5 })
    };
    stands(
        Item::Entry(Box::new(whole)),
        &said(
            r#"{"of":"file","bytes":5}"#,
            ",\"xattrs\":[[\"user.x\",\"\\u0000ÿ\"]],\"covers\":true",
        ),
    );
    let kinds = [
        (Kind::Directory { opaque: false }, r#"{"of":"directory"}"#),
        (Kind::Directory { opaque: true }, r#"{"of":"directory","opaque":true}"#),
        (Kind::Symlink { to: bytes("/c") }, r#"{"of":"symlink","to":"/c"}"#),
        (Kind::HardLink { to: bytes("c") }, r#"{"of":"hard_link","to":"c"}"#),
        (Kind::Fifo, r#"{"of":"fifo"}"#),
        (Kind::Character { major: 1, minor: 3 }, r#"{"of":"character","major":1,"minor":3}"#),
        (Kind::Block { major: 8, minor: 0 }, r#"{"of":"block","major":8,"minor":0}"#),
        (Kind::Gone, r#"{"of":"gone"}"#),
    ];
    for (kind, json) in kinds {
        stands(Item::Entry(Box::new(entry(kind))), &said(json, ""));
    }
    stands(Item::End, r#"{"is":"end"}"#);
    stands(Item::Failed { message: "no".into() }, r#"{"is":"failed","message":"no"}"#);
}
