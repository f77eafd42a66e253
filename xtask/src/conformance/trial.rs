//! Cases in the emulated host, one at a time.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::RUNTIMES;
use super::outcome::Answers;
use super::suites::{SUITES, Suite};
use crate::cache::Key;
use crate::host::Up;
use crate::{paths, step};

/// In the emulated host, a copy of the suites' programs.
const PROGRAMS: &str = "/opt/suites";

/// What runs a case by itself, and its name in the emulated host.
const ALONE: &str = include_str!("../../host/case");
const ALONE_PATH: &str = "/opt/suites/case";

/// For a case. On a VM for every container the longest takes a third of it.
const SECONDS: &str = "180";

/// A host that is ready for the suites.
pub(super) struct Trial<'a> {
    up: &'a Up,
    /// Every case's output is kept below, for those who want to know why.
    output: PathBuf,
}

impl<'a> Trial<'a> {
    /// Copies `programs` into the host unless it has them.
    pub(super) fn prepare(up: &'a Up, programs: &Path) -> Result<Self> {
        let mut key = Key::new().part("case", ALONE);
        for suite in SUITES {
            let commit = programs.join(suite.name).join("commit");
            let seen = fs::metadata(&commit).with_context(|| commit.display().to_string())?;
            key = key.part(suite.name, format!("{} {}", suite.commit, seen.mtime()));
        }
        up.once("suites", &key.short(), || {
            let script = "rm -rf \"$0\" && cp -r \"$1\" \"$0\" && echo \"$2\" > \"$3\"";
            let words = ["sh", "-c", script, PROGRAMS].map(OsStr::new).into_iter();
            let words = words.chain([programs.as_os_str()]);
            let words: Vec<_> = words.chain([ALONE, ALONE_PATH].map(OsStr::new)).collect();
            step::quiet("copying the suites into the emulated host", &mut up.command(&words))
        })?;
        Ok(Self { up, output: paths::target().join("conformance/output") })
    }

    /// What a command at the place of a suite's programs prints.
    pub(super) fn read(&self, suite: &Suite, words: &[&str]) -> Result<String> {
        let script = "cd \"$0\" && exec \"$@\"";
        let place = format!("{PROGRAMS}/{}", suite.name);
        let words: Vec<_> =
            ["sh", "-c", script, &place].into_iter().chain(words.iter().copied()).collect();
        step::read("listing cases", &mut self.up.command(&words))
    }

    /// The first line of each runtime's `--version`.
    pub(super) fn versions(&self) -> Result<[String; RUNTIMES.len()]> {
        let mut versions = RUNTIMES.map(str::to_owned);
        for version in &mut versions {
            let words = [path(version), "--version".into()];
            let text = step::read("asking for versions", &mut self.up.command(&words))?;
            *version = text.lines().next().unwrap_or_default().to_owned();
        }
        Ok(versions)
    }

    /// Runs a case on a runtime.
    pub(super) fn run(&self, suite: &Suite, case: &str, runtime: &str) -> Result<Answers> {
        let place = format!("{PROGRAMS}/{}", suite.name);
        let words = ["sh", ALONE_PATH, SECONDS, &place].map(str::to_owned).into_iter();
        let words: Vec<_> = words.chain(suite.command(case, runtime, &path(runtime))).collect();
        let ended = self.up.command(&words).output().context("ssh")?;
        let code = ended.status.code().unwrap_or(-1);
        let directory = self.output.join(runtime).join(suite.name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let file = directory.join(case);
        fs::write(&file, &ended.stdout).with_context(|| file.display().to_string())?;
        Ok(suite.read(case, &String::from_utf8_lossy(&ended.stdout), code))
    }
}

/// Where a runtime is in the emulated host.
fn path(runtime: &str) -> String {
    let directory = if runtime == RUNTIMES[super::OURS] { Up::OUTPUTS } else { "/usr/bin" };
    format!("{directory}/{runtime}")
}
