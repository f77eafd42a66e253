//! What the documents owe the reader: to be there, and to speak of what is there.

use super::{File, Finding, Tree};

const MUST_BE_THERE: &[&str] =
    &["CHANGELOG.md", "LICENSE", "README.md", "docs/architecture.md", "docs/walk.md"];

const DECISION_HEADINGS: &[&str] = &["Context", "Choice", "Price", "When to revisit"];

/// Endings that make a word without a slash the name of a file.
const FILE_ENDINGS: &[&str] = &["md", "rs", "sh", "toml"];

/// Where builds write, and what no tree has.
const BUILT: &str = "target/";

pub(super) fn what_must_be_there(tree: &Tree) -> Vec<Finding> {
    MUST_BE_THERE
        .iter()
        .filter(|path| tree.file(path).is_none_or(|file| file.text.trim().is_empty()))
        .map(|path| Finding { path: (*path).to_owned(), line: 1, what: "is not there".into() })
        .collect()
}

/// A document that names a file which has moved misleads. Judged are links and backticked paths
/// outside of code blocks.
pub(super) fn named_files_exist(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for document in documents(tree) {
        let directory = document.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let mut in_block = false;
        for (number, line) in document.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            }
            if in_block {
                continue;
            }
            for target in links(line) {
                if resolve(directory, target).is_none_or(|path| !stands(tree, &path)) {
                    findings
                        .push(document.finding(number, format!("links to {target}, not there")));
                }
            }
            for word in backticked(line).filter(|word| !named_file_exists(tree, directory, word)) {
                findings.push(document.finding(number, format!("names {word}, not there")));
            }
        }
    }
    findings
}

/// Each decision in `docs/adr` has the same four parts.
pub(super) fn decisions_say_their_price(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for decision in documents(tree).filter(|file| file.path.starts_with("docs/adr/")) {
        for heading in DECISION_HEADINGS {
            let has = |(_, line): (usize, &str)| line.strip_prefix("## ") == Some(*heading);
            if !decision.lines().any(has) {
                findings.push(decision.finding(1, format!("no heading \"## {heading}\"")));
            }
        }
    }
    findings
}

/// All but the change log, which speaks of what was.
fn documents(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.with_extension("md").filter(|file| file.path != "CHANGELOG.md")
}

/// Targets of `[…](target)` in the tree, without the part behind `#`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        let path = target.split('#').next()?;
        (!path.is_empty() && !path.contains("://") && !path.starts_with("mailto:")).then_some(path)
    })
}

fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether `word`, if it is a path of the tree at all, leads somewhere.
fn named_file_exists(tree: &Tree, directory: &str, word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if !word.chars().all(plain) || word.starts_with('/') || word.starts_with(BUILT) {
        return true;
    }
    let is_file = word
        .rsplit_once('.')
        .is_some_and(|(name, ending)| !name.is_empty() && FILE_ENDINGS.contains(&ending));
    // A file may be named by the end of its path, as in a story that plays in one crate.
    if is_file && tree.files.iter().any(|file| file.path.ends_with(&format!("/{word}"))) {
        return true;
    }
    let ours = word
        .split_once('/')
        .is_some_and(|(first, _)| first.starts_with('.') || stands(tree, first));
    if !is_file && !ours {
        return true;
    }
    stands(tree, word.trim_end_matches('/'))
        || resolve(directory, word).is_some_and(|path| stands(tree, &path))
}

/// `path` as seen from `directory`; `None` if it leaves the tree.
fn resolve(directory: &str, path: &str) -> Option<String> {
    let mut parts: Vec<_> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether `path` is a file of the tree or a directory with one in it.
fn stands(tree: &Tree, path: &str) -> bool {
    let within = |file: &File| {
        file.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    path.is_empty() || tree.files.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines_of;

    #[test]
    fn a_missing_document_is_found() {
        let tree = Tree::of(&[("LICENSE", "x"), ("README.md", "x"), ("CHANGELOG.md", "\n")]);
        assert_eq!(
            lines_of(&what_must_be_there(&tree)),
            [
                "CHANGELOG.md:1: is not there",
                "docs/architecture.md:1: is not there",
                "docs/walk.md:1: is not there",
            ]
        );
    }

    #[test]
    fn names_of_files_that_moved_are_found() {
        let readme = "[a](docs/a.md#top) [b](docs/b.md) [c](https://example.org/c.md)\n\
                      `vmm/src/bus.rs` `vmm/src/gone.rs` `bus.rs` `src/bus.rs` `us.rs` `vmm/` `a/b`\n\
                      `/dev/kvm` `target/x.rs` `docs/*.md` `src/gone.rs` `.rs`\n\
                      ```\n`gone.rs`\n```\n";
        let tree = Tree::of(&[
            ("README.md", readme),
            ("docs/a.md", "`../LICENSE`"),
            ("vmm/src/bus.rs", ""),
        ]);
        assert_eq!(
            lines_of(&named_files_exist(&tree)),
            [
                "README.md:1: links to docs/b.md, not there",
                "README.md:2: names vmm/src/gone.rs, not there",
                "README.md:2: names us.rs, not there",
                "README.md:3: names src/gone.rs, not there",
                "docs/a.md:1: names ../LICENSE, not there",
            ]
        );
    }

    #[test]
    fn links_are_seen_from_where_they_stand() {
        let tree = Tree::of(&[
            ("docs/adr/1.md", "[up](../walk.md) [out](../../../x.md)"),
            ("docs/walk.md", "[down](adr/)"),
        ]);
        assert_eq!(
            lines_of(&named_files_exist(&tree)),
            ["docs/adr/1.md:1: links to ../../../x.md, not there"]
        );
    }

    #[test]
    fn a_decision_without_its_price_is_found() {
        let text = "# X\n## Context\n## Choice\n## Prices\n## When to revisit\n";
        let tree = Tree::of(&[("docs/adr/1.md", text)]);
        assert_eq!(
            lines_of(&decisions_say_their_price(&tree)),
            ["docs/adr/1.md:1: no heading \"## Price\""]
        );
    }
}
