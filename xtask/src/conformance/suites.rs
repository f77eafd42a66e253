//! The suites: what they are called, where their programs are, how a case is run.
//!
//! They are other projects' and not part of this one: whoever wants to run them puts the programs, as
//! each project's own instructions build them, below one directory:
//!
//!     runtime-tools/commit                  of the tree they were built from
//!     runtime-tools/runtimetest             static
//!     runtime-tools/rootfs-amd64.tar.gz
//!     runtime-tools/validation/NAME         static, one for each directory of that name
//!     contest/commit
//!     contest/contest
//!     contest/runtimetest                   static
//!     contest/bundle.tar.gz

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::outcome::{self, Answers};
use super::trial::{PATIENT_PATH, Trial, UNHURRIED_PATH};
use crate::{paths, step};

/// A suite and how to speak with it.
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// Where people find it.
    pub(super) home: &'static str,
    /// What `exceptions.rs` was written for.
    pub(super) commit: &'static str,
    /// How the names begin of cases that say nothing here: they read files of version 1 of cgroups,
    /// and fail at once on any runtime where there is version 2 alone.
    pub(super) version_1: &'static str,
    /// What has to be there beside the cases.
    pub(super) programs: &'static [&'static str],
    kind: Kind,
}

enum Kind {
    /// A program for each case, which learns of the runtime from its environment.
    RuntimeTools,
    /// One program that is told the case.
    Contest,
}

pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "runtime-tools",
        home: "https://github.com/opencontainers/runtime-tools",
        commit: "5e639034dcdc2422164e3d7d76a737e2fb451a67",
        version_1: "linux_cgroups_",
        programs: &["runtimetest", "rootfs-amd64.tar.gz", "validation"],
        kind: Kind::RuntimeTools,
    },
    Suite {
        name: "contest",
        home: "https://github.com/youki-dev/youki",
        commit: "bc78720681ad34be682fe1a6daa61cb3bf47762d",
        version_1: "cgroup_v1_",
        programs: &["contest", "runtimetest", "bundle.tar.gz"],
        kind: Kind::Contest,
    },
];

impl Suite {
    /// The names of its cases.
    pub(super) fn cases(&self, trial: &Trial) -> Result<Vec<String>> {
        let listed = match self.kind {
            Kind::RuntimeTools => trial.read(self, &["ls", "validation"])?,
            Kind::Contest => trial.read(self, &["./contest", "list"])?,
        };
        let says = |name: &&str| !name.starts_with(self.version_1);
        Ok(listed.lines().filter(says).map(str::to_owned).collect())
    }

    /// What runs a case on the runtime at `path`, at the place of the suite's programs.
    pub(super) fn command(&self, case: &str, runtime: &str, path: &str) -> Vec<String> {
        let mut words = vec!["env".to_owned()];
        match self.kind {
            Kind::RuntimeTools => {
                words.extend([format!("SLOW_RUNTIME={path}"), format!("RUNTIME={UNHURRIED_PATH}")]);
                words.push(format!("./validation/{case}"));
            }
            Kind::Contest => {
                words.extend([format!("RUNTIME_KIND={runtime}"), format!("RUNTIME={path}")]);
                let run = ["./contest", "run", "--runtime", PATIENT_PATH];
                let run = run.into_iter().chain(["--runtimetest", "./runtimetest", "-t", case]);
                words.extend(run.map(str::to_owned));
            }
        }
        words
    }

    /// What it said.
    pub(super) fn read(&self, case: &str, text: &str, code: i32) -> Answers {
        match self.kind {
            Kind::RuntimeTools => outcome::of_tap(case, text, code),
            Kind::Contest => outcome::of_contest(case, text, code),
        }
    }
}

/// Puts the suites where the emulated host sees them: the answer is the directory.
pub(super) fn install(from: Option<&Path>) -> Result<PathBuf> {
    let from = match from {
        Some(directory) => directory.to_owned(),
        None => paths::cache()?.join("suites"),
    };
    let to = paths::target().join("conformance/suites");
    for suite in SUITES {
        let commit = from.join(suite.name).join("commit");
        let found = fs::read_to_string(&commit).with_context(|| {
            format!(
                "{}: the suite's programs go there, see conformance/suites.rs",
                commit.display()
            )
        })?;
        let found = found.trim();
        ensure!(found == suite.commit, "{}: {found}, not {}", commit.display(), suite.commit);
    }
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--update", "--preserve=timestamps,mode"]);
    copy.args(SUITES.iter().map(|suite| from.join(suite.name))).arg(&to);
    step::quiet("copying the suites' programs", &mut copy)?;
    Ok(to)
}
