use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn entry(name: &str, body: Body) -> Entry {
    let name = name.as_bytes().to_vec();
    Entry { name, body, mode: 0o640, uid: 1, gid: 2, mtime: Time::default(), xattrs: Xattrs::new() }
}

fn file(name: &str) -> Entry {
    entry(name, Body::File { bytes: 0, pieces: Vec::new() })
}

fn directory(name: &str) -> Entry {
    entry(name, Body::Directory)
}

fn symlink(name: &str, target: &str) -> Entry {
    entry(name, Body::Symlink(target.into()))
}

fn hard_link(name: &str, target: &str) -> Entry {
    entry(name, Body::HardLink(target.into()))
}

/// The tree that layers make; a file's data is the number of its entry, from 1.
fn merge(layers: Vec<Vec<Entry>>) -> Result<Tree, MergeError> {
    let mut merge = Merge::new(&Limits::default());
    let mut number = 0;
    for layer in layers {
        merge.begin_layer();
        for entry in layer {
            number += 1;
            merge.put(entry, Data { offset: number, bytes: 0 })?;
        }
    }
    Ok(merge.into_tree())
}

/// Every path, with what is there: `/` for a directory, `-> target`, or a file's number.
fn listing(tree: &Tree) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![(String::new(), ROOT)];
    while let Some((path, node)) = pending.pop() {
        for (name, child) in &tree.directory(node).unwrap().children {
            let path = format!("{path}{}", String::from_utf8_lossy(name));
            let what = match &tree.node(child.node).kind {
                Kind::Directory(_) => {
                    pending.push((format!("{path}/"), child.node));
                    "/".to_owned()
                }
                Kind::File(data) => data.offset.to_string(),
                Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                other => format!("{other:?}"),
            };
            all.insert(path, what);
        }
    }
    all
}

fn listed(layers: Vec<Vec<Entry>>) -> Vec<String> {
    let all = listing(&merge(layers).unwrap());
    all.into_iter().map(|(path, what)| format!("{path} {what}")).collect()
}

fn refusal(layer: Vec<Entry>) -> String {
    merge(vec![layer]).unwrap_err().to_string()
}

#[test]
fn the_upper_layer_and_the_later_entry_win() {
    let layers = vec![vec![file("a"), file("b")], vec![file("b"), file("c"), file("c")]];
    assert_eq!(listed(layers), ["a 1", "b 3", "c 5"]);
}

#[test]
fn a_directory_keeps_what_it_holds_and_takes_its_new_owner() {
    let mut again = directory("d/");
    again.uid = 7;
    let tree = merge(vec![vec![directory("d"), file("d/f")], vec![again]]).unwrap();
    assert_eq!(listing(&tree).len(), 2);
    let d = tree.directory(ROOT).unwrap().children[&b"d"[..]].node;
    assert_eq!(tree.node(d).meta.uid, 7);
}

#[test]
fn a_file_replaces_a_directory_and_the_other_way_round() {
    let lower = vec![directory("d"), file("d/f"), file("x"), symlink("l", "d")];
    let upper = vec![file("d"), directory("x"), file("x/y"), directory("l")];
    assert_eq!(listed(vec![lower, upper]), ["d 5", "l /", "x /", "x/y 7"]);
}

#[test]
fn a_whiteout_takes_away_what_lies_below_and_nothing_of_its_own_layer() {
    let lower = vec![file("d/old"), file("d/both"), file("gone")];
    let upper = vec![
        file("d/new"),
        file(".wh.gone"),
        file(".wh.d"),
        file("d/both"),
        file("d/.wh.both"),
        file(".wh.never"),
        file("nowhere/.wh.x"),
    ];
    assert_eq!(listed(vec![lower, upper]), ["d /", "d/both 7", "d/new 4"]);
}

#[test]
fn an_opaque_directory_hides_all_that_lies_below_wherever_in_the_layer_it_is_said() {
    let lower = || vec![file("d/a/old"), file("d/b/old"), file("e")];
    for at in 0..3 {
        let mut upper = vec![file("d/a/new"), file("d/c")];
        upper.insert(at, file("d/.wh..wh..opq"));
        let names: Vec<_> = listing(&merge(vec![lower(), upper]).unwrap()).into_keys().collect();
        assert_eq!(names, ["d", "d/a", "d/a/new", "d/c", "e"]);
    }
}

#[test]
fn a_million_whiteouts_of_a_full_directory_are_no_trouble() {
    // Each would look at every name again: 10¹⁰ steps for these, hours for what an archive may hold.
    let mut layer: Vec<_> = (0..100_000).map(|n| file(&format!("d/{n}"))).collect();
    layer.extend((0..100_000).map(|_| file("d/.wh..wh..opq")));
    assert_eq!(listing(&merge(vec![layer]).unwrap()).len(), 100_001);
}

#[test]
fn notes_that_aufs_kept_for_itself_are_left_out() {
    assert_eq!(listed(vec![vec![file(".wh..wh.plnk"), file("a")]]), ["a 2"]);
}

#[test]
fn names_are_resolved_inside_the_root_through_the_image_s_own_links() {
    let layer = vec![
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        file("lib/a"),
        symlink("abs", "/usr/../usr/lib"),
        file("abs/b"),
        symlink("out", "../../../../etc"),
        file("out/passwd"),
    ];
    assert_eq!(
        listed(vec![layer]),
        [
            "abs -> /usr/../usr/lib",
            "etc /",
            "etc/passwd 7",
            "lib -> usr/lib",
            "out -> ../../../../etc",
            "usr /",
            "usr/lib /",
            "usr/lib/a 3",
            "usr/lib/b 5",
        ]
    );
}

#[test]
fn a_hard_link_shares_the_file_across_layers() {
    let tree = merge(vec![vec![file("a")], vec![hard_link("d/b", "a"), file(".wh.a")]]).unwrap();
    assert_eq!(listing(&tree).into_values().collect::<Vec<_>>(), ["/", "1"]);
}

#[test]
fn an_entry_that_leaves_the_root_or_makes_no_sense_is_refused_by_name() {
    let long = "n".repeat(256);
    let deep = "n/".repeat(2048);
    for (layer, why) in [
        (vec![file("../x")], "entry \"../x\" has a .. in its path"),
        (vec![file("a/../../x")], "entry \"a/../../x\" has a .. in its path"),
        (vec![file("/etc/x")], "entry \"/etc/x\" is an absolute path"),
        (vec![file("..")], "entry \"..\" has a .. in its path"),
        (vec![file("a\0b")], "entry \"a\\0b\" has a zero byte in its name"),
        (vec![file("./")], "entry \"./\" is the image's root and not a directory"),
        (vec![file("a"), file("a/b")], "entry \"a/b\" is in \"a\", which is no directory"),
        (
            vec![hard_link("l", "../x")],
            "entry \"l\" is a hard link to \"../x\", which leaves the root",
        ),
        (vec![hard_link("l", "/x")], "entry \"l\" is a hard link to \"/x\", which leaves the root"),
        (vec![hard_link("l", "x")], "entry \"l\" is a hard link to \"x\", which is not there"),
        (
            vec![directory("d"), hard_link("l", "d")],
            "entry \"l\" is a hard link to \"d\", which is a directory",
        ),
        (vec![file(".wh...")], "entry \".wh...\" is a whiteout of nothing that can be"),
        (vec![file("../.wh.x")], "entry \"../.wh.x\" has a .. in its path"),
        (
            vec![symlink("a", "b"), symlink("b", "a"), file("a/x")],
            "entry \"a/x\" leads through more than 40 symbolic links or 4096 names",
        ),
        (
            vec![entry("d", Body::Block(Device { major: 0x1000, minor: 0 }))],
            "entry \"d\" is device 4096:0, over the highest there is",
        ),
    ] {
        assert_eq!(refusal(layer), why);
    }
    assert!(refusal(vec![file(&long)]).ends_with("has a name of over 255 bytes in its path"));
    assert!(refusal(vec![file(&deep)]).ends_with("has a path of over 4095 bytes"));
    assert!(refusal(vec![symlink("l", "")]).ends_with("a path of over 4095 bytes"));
}

#[test]
fn three_hundred_directories_in_one_another_are_no_trouble() {
    let path = "d/".repeat(300) + "f";
    assert_eq!(listed(vec![vec![file(&path)]]).len(), 301);
}

#[test]
fn attributes_that_an_overlay_would_believe_are_left_out() {
    let mut f = file("f");
    for name in ["user.a", "trusted.overlay.redirect", "security.capability", "com.apple.x"] {
        f.xattrs.insert(name.into(), b"v".to_vec());
    }
    let tree = merge(vec![vec![f]]).unwrap();
    let node = tree.directory(ROOT).unwrap().children[&b"f"[..]].node;
    let names: Vec<_> = tree.node(node).meta.xattrs.keys().cloned().collect();
    assert_eq!(names, [b"security.capability".to_vec(), b"user.a".to_vec()]);

    let mut f = file("f");
    f.xattrs.insert(b"user.a".to_vec(), vec![0; 1 << 16]);
    assert!(refusal(vec![f]).contains("\"user.a\""));
}

#[test]
fn more_entries_or_names_than_the_limit_are_refused() {
    let few = Limits { entries: 3, ..Limits::default() };
    let mut merge = Merge::new(&few);
    merge.begin_layer();
    let error = merge.put(file("a/b/c/d"), Data { offset: 0, bytes: 0 }).unwrap_err();
    assert_eq!(error.why, Why::TooManyEntries(3));

    let small = Limits { metadata_bytes: 10, ..Limits::default() };
    let mut merge = Merge::new(&small);
    merge.begin_layer();
    let error = merge.put(file("aaaa/bbbb/cccc"), Data { offset: 0, bytes: 0 }).unwrap_err();
    assert_eq!(error.why, Why::TooMuchMetadata(10));
}

/// An entry of a layer in the model: capital letters are directories, small ones are files.
fn any_entry() -> impl Strategy<Value = (Vec<&'static str>, &'static str, Form)> {
    let directories = proptest::collection::vec(prop_oneof!["A", "B"].prop_map(letter), 0..3);
    let forms = prop_oneof![
        4 => Just(Form::Put),
        1 => Just(Form::Whiteout),
        1 => Just(Form::Opaque),
    ];
    (directories, prop_oneof!["A", "B", "f", "g"].prop_map(letter), forms)
}

fn letter(letter: String) -> &'static str {
    ["A", "B", "f", "g"].into_iter().find(|known| *known == letter).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Put,
    Whiteout,
    Opaque,
}

/// As the specification tells it, in two steps a layer: first everything its whiteouts name is taken
/// from what lies below, then everything else is put on top.
fn model(layers: &[Vec<(Vec<&'static str>, &'static str, Form)>]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut number = 0;
    for layer in layers {
        for (parents, name, form) in layer {
            let parent: String = parents.iter().map(|parent| format!("{parent}/")).collect();
            let path = format!("{parent}{name}");
            match form {
                Form::Put => {}
                Form::Opaque => all.retain(|path: &String, _| !path.starts_with(&parent)),
                Form::Whiteout => all.retain(|known: &String, _| {
                    *known != path && !known.starts_with(&format!("{path}/"))
                }),
            }
        }
        for (parents, name, form) in layer {
            number += 1;
            if *form != Form::Put {
                continue;
            }
            for end in 1..=parents.len() {
                all.insert(parents[..end].join("/"), "/".to_owned());
            }
            let path = [&parents[..], &[name]].concat().join("/");
            let is_directory = name.chars().all(char::is_uppercase);
            all.insert(path, if is_directory { "/".to_owned() } else { number.to_string() });
        }
    }
    all
}

proptest! {
    #[test]
    fn layers_merge_as_the_specification_tells_it(
        layers in proptest::collection::vec(proptest::collection::vec(any_entry(), 0..12), 1..4)
    ) {
        let entries = layers.iter().map(|layer| {
            layer.iter().map(|(parents, name, form)| {
                let parent: String = parents.iter().map(|parent| format!("{parent}/")).collect();
                match form {
                    Form::Whiteout => file(&format!("{parent}.wh.{name}")),
                    Form::Opaque => file(&format!("{parent}.wh..wh..opq")),
                    Form::Put if name.chars().all(char::is_uppercase) => {
                        directory(&format!("{parent}{name}"))
                    }
                    Form::Put => file(&format!("{parent}{name}")),
                }
            }).collect()
        }).collect();
        prop_assert_eq!(listing(&merge(entries).unwrap()), model(&layers));
    }
}
