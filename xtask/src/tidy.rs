//! The rules of the house that no compiler knows.
//!
//! A rule is a function from the [`Tree`] to the places that break it: it reads nothing else, so a
//! test breaks it with a tree of its own. Each file below holds the rules about one thing.

mod code;
mod crates;
mod documents;
mod floors;
mod text;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, step};

const RULES: &[fn(&Tree) -> Vec<Finding>] = &[
    crates::arrows_point_one_way,
    crates::versions_stand_in_one_list,
    crates::lints_are_inherited,
    crates::no_features,
    crates::no_build_scripts,
    crates::no_async_runtime,
    floors::only_those_below_are_used,
    floors::vmm_has_never_heard_of_containers,
    text::nothing_unfinished,
    text::names_say_something,
    text::files_are_short,
    text::lines_end,
    text::no_package_hosts,
    text::no_place_of_this_machine,
    documents::what_must_be_there,
    documents::named_files_exist,
    documents::decisions_say_their_price,
];

/// Checks them all and names each place that breaks one.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::read(paths::checkout())?;
    let mut findings: Vec<_> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("1 place breaks a rule of the house"),
        many => bail!("{many} places break a rule of the house"),
    }
}

/// Everything git has, or would have after `git add`.
struct Tree {
    /// Where it stands on this machine.
    root: String,
    files: Vec<File>,
}

struct File {
    /// From the root of the tree, with `/` between its parts.
    path: String,
    text: String,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let list = step::read("listing the tree", git.current_dir(root))?;
        let mut files = Vec::new();
        for path in list.split_terminator('\0') {
            match fs::read(root.join(path)) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    files.push(File { path: path.to_owned(), text });
                }
                // Deleted, and git has not been told yet.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(path.to_owned()),
            }
        }
        Ok(Self { root: root.display().to_string(), files })
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| {
            file.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
        })
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Self { root: "/home/somebody/microvm".into(), files: files.iter().map(file).collect() }
    }
}

impl File {
    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into() }
    }

    /// Lines with their numbers, counted from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.text)
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// What a rule's tests look at.
#[cfg(test)]
fn lines_of(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}
