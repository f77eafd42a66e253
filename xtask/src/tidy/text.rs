//! How every file looks, and what none may say.

use super::code::{code, words};
use super::{Finding, Tree};

const MAX_LINES: usize = 500;

/// Files longer than [`MAX_LINES`] because they are tables.
const FLAT: &[&str] = &[];

/// What is in code only until it is finished, or hides what went wrong.
const UNFINISHED: &[&str] =
    &["todo!(", "dbg!(", "unimplemented!(", "#[ignore", "Other(String)", "thread::sleep"];

/// Endings of names that say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Util", "Utils", "Handler", "Common"];

/// First labels of hosts that packages come from. Where a machine gets them is its own affair, and
/// is gone from the net sooner than a commit is.
const PACKAGE_HOSTS: &[&str] =
    &["crates", "deb", "ftp", "index", "mirror", "mirrors", "pypi", "registry", "static"];

pub(super) fn nothing_unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.with_extension("rs") {
        for (number, line) in super::numbered(&code(&file.text)) {
            for sign in UNFINISHED.iter().filter(|sign| line.contains(**sign)) {
                findings.push(file.finding(number, format!("`{sign}` is not for finished code")));
            }
        }
    }
    findings
}

pub(super) fn names_say_something(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.with_extension("rs") {
        let code = code(&file.text);
        let mut before = "";
        for (number, word) in words(&code) {
            let defines = ["struct", "enum", "trait", "type", "mod"].contains(&before);
            let empty = EMPTY_NAMES
                .iter()
                .find(|empty| word.ends_with(**empty) || word == empty.to_lowercase());
            if let Some(empty) = empty.filter(|_| defines) {
                findings.push(file.finding(number, format!("{word}: `{empty}` says nothing")));
            }
            before = word;
        }
    }
    findings
}

pub(super) fn files_are_short(tree: &Tree) -> Vec<Finding> {
    tree.with_extension("rs")
        .filter(|file| !FLAT.contains(&file.path.as_str()))
        .filter_map(|file| {
            let lines = file.text.lines().count();
            let what = format!("{lines} lines, over {MAX_LINES}, and not listed as a flat table");
            (lines > MAX_LINES).then(|| file.finding(MAX_LINES + 1, what))
        })
        .collect()
}

pub(super) fn lines_end(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let last = file.text.lines().count();
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            findings.push(file.finding(last, "no newline at the end"));
        }
        if file.text.ends_with("\n\n") {
            findings.push(file.finding(last, "empty line at the end"));
        }
        // Not `lines`, which takes a carriage return for part of the end.
        for (index, line) in file.text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(file.finding(index + 1, "white space at the end"));
            }
        }
    }
    findings
}

pub(super) fn no_package_hosts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Cargo writes its own lock file.
    for file in tree.files.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.lines() {
            for (at, scheme) in line.match_indices("://") {
                let host = line[at + scheme.len()..].split(['/', ':', ' ']).next().unwrap_or("");
                let first = host.split('.').next().unwrap_or("");
                // Names in `.example` belong to nobody (RFC 2606).
                let real = host.contains('.') && !host.ends_with(".example");
                if real && PACKAGE_HOSTS.contains(&first) {
                    findings.push(file.finding(number, format!("{host} is a host of packages")));
                }
            }
        }
    }
    findings
}

/// A path of the machine it was written on means nothing on any other.
pub(super) fn no_place_of_this_machine(tree: &Tree) -> Vec<Finding> {
    // A checkout right below `/` has a name that may well stand for something else.
    if tree.root.matches('/').count() < 2 {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for file in &tree.files {
        for (number, _) in file.lines().filter(|(_, line)| line.contains(&tree.root)) {
            findings.push(file.finding(number, "names where this checkout stands"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines_of;

    #[test]
    fn unfinished_code_is_found_and_talk_about_it_is_not() {
        let tree = Tree::of(&[("a.rs", "// todo!()\nlet a = \"dbg!(\";\nfn f() { todo!() }\n")]);
        assert_eq!(
            lines_of(&nothing_unfinished(&tree)),
            ["a.rs:3: `todo!(` is not for finished code"]
        );
    }

    #[test]
    fn names_of_our_own_that_say_nothing_are_found() {
        let tree = Tree::of(&[("a.rs", "use x::EventManager;\nstruct DiskManager;\nmod util;\n")]);
        assert_eq!(
            lines_of(&names_say_something(&tree)),
            ["a.rs:2: DiskManager: `Manager` says nothing", "a.rs:3: util: `Util` says nothing",]
        );
    }

    #[test]
    fn a_file_of_501_lines_is_too_long() {
        assert_eq!(files_are_short(&Tree::of(&[("a.rs", &"\n".repeat(500))])), []);
        assert_eq!(files_are_short(&Tree::of(&[("a.rs", &"\n".repeat(501))])).len(), 1);
    }

    #[test]
    fn bad_line_ends_are_found() {
        let tree =
            Tree::of(&[("a", "x"), ("b", "x\n\n"), ("c", "x \ny\r\n"), ("d", "x\n"), ("e", "")]);
        assert_eq!(
            lines_of(&lines_end(&tree)),
            [
                "a:1: no newline at the end",
                "b:2: empty line at the end",
                "c:1: white space at the end",
                "c:2: white space at the end",
            ]
        );
    }

    #[test]
    fn hosts_of_packages_are_found_and_those_of_specifications_are_not() {
        let bad = format!("curl http:{}mirror.example.org/x", "//");
        let tree = Tree::of(&[("a.sh", &bad), ("b.md", "https://docs.oasis-open.org/virtio/")]);
        assert_eq!(
            lines_of(&no_package_hosts(&tree)),
            ["a.sh:1: mirror.example.org is a host of packages"]
        );
    }

    #[test]
    fn the_place_of_the_checkout_is_found() {
        let tree = Tree::of(&[("a", "x\ncd /home/somebody/microvm\n"), ("b", "/home/somebody\n")]);
        assert_eq!(
            lines_of(&no_place_of_this_machine(&tree)),
            ["a:2: names where this checkout stands"]
        );
    }
}
