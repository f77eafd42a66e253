//! The inside of `vmm`: which module may use which, and words that must not be heard there.

use super::code::{before_tests, code, words};
use super::{File, Finding, Tree};

/// The modules of `vmm/src`, from the ground up. Each uses its own floor and those below it.
const FLOORS: &[&[&str]] = &[
    &["bpf", "kvm", "memory", "section", "spec", "sync"],
    &["bus", "ending", "event_loop", "irq"],
    &["arch", "boot", "virtio"],
    &["devices"],
    &["vcpu"],
    &["machine", "snapshot"],
    &["control", "entrances", "entry", "inherit", "jail", "launch", "probe"],
];

/// Words of the rooms above. `image` is none of them: a disk has one, whoever made it.
const UNHEARD: &[&str] =
    &["agent", "bundle", "container", "docker", "oci", "pod", "podman", "runc"];

pub(super) fn only_those_below_are_used(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, module) in modules(tree) {
        let Some(own) = floor(module) else {
            findings.push(file.finding(1, format!("{module} stands on no floor of vmm")));
            continue;
        };
        let code = code(&file.text);
        for (line, used) in used(before_tests(&code)) {
            match floor(used) {
                Some(other) if other <= own => {}
                Some(_) => findings
                    .push(file.finding(line, format!("{used} is on a floor above {module}"))),
                None => findings.push(file.finding(line, format!("{used} is on no floor of vmm"))),
            }
        }
    }
    findings
}

pub(super) fn vmm_has_never_heard_of_containers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.with_extension("rs").filter(|file| file.path.starts_with("vmm/src/")) {
        for (line, word) in words(&code(&file.text)) {
            if let Some(part) = parts(word).into_iter().find(|part| UNHEARD.contains(&&**part)) {
                findings.push(file.finding(line, format!("{word}: vmm has never heard of {part}")));
            }
        }
    }
    findings
}

/// The files of `vmm/src` with the module of the first level each belongs to. What stands on top of
/// all floors is left out.
fn modules(tree: &Tree) -> impl Iterator<Item = (&File, &str)> {
    tree.with_extension("rs").filter_map(|file| {
        let path = file.path.strip_prefix("vmm/src/")?;
        let module = path.split(['/', '.']).next()?;
        (!["lib", "main"].contains(&module)).then_some((file, module))
    })
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The modules behind every `crate::` in `code`, also behind `crate::{…}`. Macros and types that
/// stand in the root of the crate are none.
fn used(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = at + path.len();
        let starts = match code[rest..].strip_prefix('{') {
            Some(group) => branches(group).into_iter().map(|start| rest + 1 + start).collect(),
            None => vec![rest],
        };
        for start in starts {
            let name = code[start..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
            let line = code[..start].matches('\n').count() + 1;
            found.extend(name.filter(|name| !name.is_empty()).map(|name| (line, name)));
        }
    }
    found
}

/// Where the paths of a `{…}` begin, given what follows the brace.
fn branches(group: &str) -> Vec<usize> {
    let (mut depth, mut starts, mut fresh) = (1, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if fresh && !c.is_whitespace() => {
                starts.push(at);
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    starts
}

/// `OciSpec`, `oci_spec` and `OCI_SPEC` are all `oci` and `spec`.
fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = ' ';
    for c in word.chars() {
        if c == '_' || (c.is_uppercase() && before.is_lowercase()) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut().filter(|_| c != '_') {
            part.extend(c.to_lowercase());
        }
        before = c;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines_of;

    #[test]
    fn a_module_that_looks_up_the_stairs_is_found() {
        let tree = Tree::of(&[(
            "vmm/src/virtio/queue.rs",
            "use crate::memory::Ram;\nuse crate::{bus, devices::{block, rng}};\nuse mycrate::jail;\n",
        )]);
        assert_eq!(
            lines_of(&only_those_below_are_used(&tree)),
            ["vmm/src/virtio/queue.rs:2: devices is on a floor above virtio"]
        );
    }

    #[test]
    fn tests_may_look_up_and_the_roof_sees_all() {
        let tree = Tree::of(&[
            ("vmm/src/bus.rs", "#[cfg(test)]\nmod tests {\n use crate::devices::X;\n}\n"),
            ("vmm/src/lib.rs", "use crate::jail;"),
        ]);
        assert_eq!(only_those_below_are_used(&tree), []);
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        let tree = Tree::of(&[("vmm/src/attic.rs", ""), ("vmm/src/vcpu.rs", "crate::attic::f()")]);
        assert_eq!(
            lines_of(&only_those_below_are_used(&tree)),
            [
                "vmm/src/attic.rs:1: attic stands on no floor of vmm",
                "vmm/src/vcpu.rs:1: attic is on no floor of vmm",
            ]
        );
    }

    #[test]
    fn vmm_code_that_speaks_of_containers_is_found_and_its_comments_are_not() {
        let code =
            "//! Knows no container.\nlet a = AgentPort;\nlet agents = OCI_DIR;\nlet social = 1;";
        let tree = Tree::of(&[("vmm/src/bus.rs", code), ("runtime/src/x.rs", "let oci = 1;")]);
        assert_eq!(
            lines_of(&vmm_has_never_heard_of_containers(&tree)),
            [
                "vmm/src/bus.rs:2: AgentPort: vmm has never heard of agent",
                "vmm/src/bus.rs:3: OCI_DIR: vmm has never heard of oci",
            ]
        );
    }
}
