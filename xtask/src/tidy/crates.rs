//! What the crates' manifests say: who depends on whom, and what no crate of ours has.

use super::{File, Finding, Tree, numbered};

/// Which of our crates a crate may use. Arrows go one way only; `docs/architecture.md` says why.
const ARROWS: &[(&str, &[&str])] = &[
    ("agent", &["proto", "transfer", "netlink"]),
    ("benches", &[]),
    ("fuzz", &["image", "vmm"]),
    ("image", &[]),
    ("netlink", &[]),
    ("proto", &[]),
    ("runtime", &["proto", "transfer", "netlink", "image", "vmm"]),
    ("tests", &[]),
    ("transfer", &["proto"]),
    ("vmm", &[]),
    ("xtask", &[]),
];

/// All that `proto` may use outside of its tests: it turns values into bytes, and does nothing with
/// them.
const PROTO_USES: &[&str] = &["serde", "serde_json", "thiserror"];

/// Threads and epoll do here what these would.
const ASYNC_RUNTIMES: &[&str] = &["async-std", "smol", "tokio"];

pub(super) fn arrows_point_one_way(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, manifest) in crates(tree) {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            findings.push(manifest.finding(1, format!("no arrow of the house begins at {name}")));
            continue;
        };
        for line in dependencies(manifest) {
            let (number, used) = (line.number, line.name());
            let ours = ARROWS.iter().any(|(known, _)| *known == used);
            if ours && !allowed.contains(&used) {
                findings.push(manifest.finding(number, format!("{name} must not know {used}")));
            }
            let shipped = line.section == "dependencies";
            if name == "proto" && shipped && !PROTO_USES.contains(&used) {
                findings.push(manifest.finding(number, format!("proto does not need {used}")));
            }
        }
    }
    findings
}

pub(super) fn versions_stand_in_one_list(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, manifest) in inside(tree) {
        for line in dependencies(manifest) {
            let inherits =
                line.key.ends_with(".workspace") || line.value.contains("workspace = true");
            if !inherits || line.section.contains("dependencies.") {
                let what = format!("{} is not `{0}.workspace = true`", line.name());
                findings.push(manifest.finding(line.number, what));
            }
        }
    }
    findings
}

pub(super) fn lints_are_inherited(tree: &Tree) -> Vec<Finding> {
    let inherits = |manifest: &File| {
        lines(&manifest.text)
            .any(|line| (line.section, line.key, line.value) == ("lints", "workspace", "true"))
    };
    inside(tree)
        .filter(|(_, manifest)| !inherits(manifest))
        .map(|(_, manifest)| manifest.finding(1, "no `[lints] workspace = true`"))
        .collect()
}

/// Variants of behaviour are types or flags, which every build compiles and tests.
pub(super) fn no_features(tree: &Tree) -> Vec<Finding> {
    crates(tree)
        .flat_map(|(_, manifest)| {
            manifest
                .lines()
                .filter(|(_, line)| line.trim() == "[features]")
                .map(|(number, _)| manifest.finding(number, "crates of ours have no features"))
        })
        .collect()
}

/// What has to be made before a crate is compiled is made by `cargo xtask`.
pub(super) fn no_build_scripts(tree: &Tree) -> Vec<Finding> {
    let asks = crates(tree).flat_map(|(_, manifest)| {
        lines(&manifest.text)
            .filter(|line| line.section == "package" && line.key == "build")
            .map(|line| manifest.finding(line.number, "no build script: xtask builds"))
    });
    let scripts = tree.files.iter().filter(|file| file.path.ends_with("build.rs"));
    let scripts = scripts
        .filter(|file| file.path.matches('/').count() == 1)
        .map(|file| file.finding(1, "no build script: xtask builds"));
    asks.chain(scripts).collect()
}

pub(super) fn no_async_runtime(tree: &Tree) -> Vec<Finding> {
    let Some(lock) = tree.file("Cargo.lock") else { return Vec::new() };
    lines(&lock.text)
        .filter(|line| line.section == "[package]" && line.key == "name")
        .filter(|line| ASYNC_RUNTIMES.contains(&line.value.trim_matches('"')))
        .map(|line| lock.finding(line.number, format!("{} is an async runtime", line.value)))
        .collect()
}

/// Our crates: the name of each one's directory, and its manifest.
fn crates(tree: &Tree) -> impl Iterator<Item = (&str, &File)> {
    tree.files.iter().filter_map(|file| {
        let directory = file.path.strip_suffix("/Cargo.toml")?;
        Some((directory, file))
    })
}

/// Those of the workspace. One that is a workspace by itself, because a compiler of its own builds it, has
/// nothing to inherit.
fn inside(tree: &Tree) -> impl Iterator<Item = (&str, &File)> {
    crates(tree).filter(|(_, manifest)| !manifest.lines().any(|(_, line)| line == "[workspace]"))
}

/// What a manifest asks for, for whatever purpose and target.
fn dependencies(manifest: &File) -> impl Iterator<Item = Line<'_>> {
    lines(&manifest.text).filter(|line| line.section.contains("dependencies"))
}

/// `key = value` in a manifest.
struct Line<'a> {
    number: usize,
    /// What stands between the brackets above it.
    section: &'a str,
    key: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    /// The dependency this line speaks of.
    fn name(&self) -> &'a str {
        match self.section.rsplit_once("dependencies.") {
            Some((_, name)) => name,
            None => self.key.trim_end_matches(".workspace"),
        }
    }
}

fn lines(toml: &str) -> impl Iterator<Item = Line<'_>> {
    let mut section = "";
    numbered(toml).filter_map(move |(number, line)| {
        if let Some(inside) = line.trim().strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
            section = inside;
        }
        let (key, value) = line.split_once('=')?;
        Some(Line { number, section, key: key.trim(), value: value.trim() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines_of;

    fn manifest(of: &str, text: &str) -> Tree {
        Tree::of(&[(&format!("{of}/Cargo.toml"), text)])
    }

    #[test]
    fn vmm_must_not_know_proto_not_even_in_its_tests() {
        let tree =
            manifest("vmm", "[dev-dependencies]\nlibc.workspace = true\nproto.workspace = true\n");
        assert_eq!(
            lines_of(&arrows_point_one_way(&tree)),
            ["vmm/Cargo.toml:3: vmm must not know proto"]
        );
        let tree = manifest("runtime", "[dependencies]\nvmm.workspace = true\n");
        assert_eq!(arrows_point_one_way(&tree), []);
        let tree = manifest(
            "proto",
            "[dependencies]\nserde.workspace = true\nlibc.workspace = true\n[dev-dependencies]\nproptest.workspace = true\n",
        );
        assert_eq!(
            lines_of(&arrows_point_one_way(&tree)),
            ["proto/Cargo.toml:3: proto does not need libc"]
        );
        let tree = manifest("shed", "[dependencies]\n");
        assert_eq!(arrows_point_one_way(&tree).len(), 1);
    }

    #[test]
    fn a_version_of_its_own_is_found_in_each_form() {
        let of = |text| lines_of(&versions_stand_in_one_list(&manifest("vmm", text)));
        assert_eq!(of("[dependencies]\na.workspace = true\nb = { workspace = true }\n").len(), 0);
        assert_eq!(
            of("[target.'cfg(unix)'.dependencies]\na = \"1\"\n"),
            ["vmm/Cargo.toml:2: a is not `a.workspace = true`"]
        );
        assert_eq!(
            of("[dependencies.a]\nversion = \"1\"\n"),
            ["vmm/Cargo.toml:2: a is not `a.workspace = true`"]
        );
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        assert_eq!(lints_are_inherited(&manifest("vmm", "[lints]\nworkspace = true\n")), []);
        assert_eq!(lints_are_inherited(&manifest("vmm", "[package]\nworkspace = true\n")).len(), 1);
    }

    #[test]
    fn a_workspace_by_itself_has_arrows_and_nothing_to_inherit() {
        let text = "[workspace]\n[dependencies]\na = \"1\"\nruntime = { path = \"../runtime\" }\n";
        let tree = manifest("fuzz", text);
        assert_eq!(versions_stand_in_one_list(&tree), []);
        assert_eq!(lints_are_inherited(&tree), []);
        assert_eq!(
            lines_of(&arrows_point_one_way(&tree)),
            ["fuzz/Cargo.toml:4: fuzz must not know runtime"]
        );
    }

    #[test]
    fn features_and_build_scripts_are_found() {
        assert_eq!(no_features(&manifest("vmm", "[features]\n")).len(), 1);
        assert_eq!(no_build_scripts(&manifest("vmm", "[package]\nbuild = \"x.rs\"\n")).len(), 1);
        assert_eq!(no_build_scripts(&Tree::of(&[("vmm/build.rs", "")])).len(), 1);
        assert_eq!(no_build_scripts(&Tree::of(&[("xtask/src/build.rs", "")])), []);
    }

    #[test]
    fn an_async_runtime_is_found_wherever_it_comes_from() {
        let lock = "[[package]]\nname = \"tokio\"\n\n[[package]]\nname = \"tokio-nothing\"\n";
        let findings = no_async_runtime(&Tree::of(&[("Cargo.lock", lock)]));
        assert_eq!(lines_of(&findings), ["Cargo.lock:2: \"tokio\" is an async runtime"]);
    }
}
