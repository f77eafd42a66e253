//! Cases in the emulated host, one at a time.
//!
//! What other runtimes say depends on the host's image and on the suites alone, and is kept: the next run
//! asks ours only.

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

/// For a case. The longest that can pass take half of it, with a VM for every container.
const SECONDS: &str = "120";

/// A host that is ready for the suites.
pub(super) struct Trial<'a> {
    up: &'a Up,
    /// Every case's output is kept below, for those who want to know why.
    output: PathBuf,
    /// Whether others are asked although it is known what they say.
    again: bool,
}

impl<'a> Trial<'a> {
    /// Copies `programs` into the host unless it has them.
    pub(super) fn prepare(up: &'a Up, programs: &Path, again: bool) -> Result<Self> {
        let mut answers = Key::new().part("case", ALONE).part("image", image_name(up));
        let mut copies = answers.clone();
        for suite in SUITES {
            answers = answers.part(suite.name, suite.commit);
            for name in suite.programs {
                let path = programs.join(suite.name).join(name);
                let seen = fs::metadata(&path).with_context(|| path.display().to_string())?;
                copies = copies.part(name, format!("{} {}", seen.len(), seen.mtime()));
            }
        }
        up.once("suites", &copies.short(), || {
            let script = "rm -rf \"$0\" && cp -r \"$1\" \"$0\" && echo \"$2\" > \"$3\"";
            let words = ["sh", "-c", script, PROGRAMS].map(OsStr::new).into_iter();
            let words = words.chain([programs.as_os_str()]);
            let words: Vec<_> = words.chain([ALONE, ALONE_PATH].map(OsStr::new)).collect();
            step::quiet("copying the suites into the emulated host", &mut up.command(&words))
        })?;
        let output = format!("conformance/output-{}", answers.short());
        let output = paths::target().join(output);
        Ok(Self { up, output, again })
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
        let directory = self.output.join(runtime).join(suite.name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let file = directory.join(case);
        let is_ours = runtime == RUNTIMES[super::OURS];
        let kept = if is_ours || self.again { None } else { fs::read_to_string(&file).ok() };
        if let Some((code, text)) = kept.as_deref().and_then(|kept| kept.split_once('\n'))
            && let Ok(code) = code.parse()
        {
            return Ok(suite.read(case, text, code));
        }
        let place = format!("{PROGRAMS}/{}", suite.name);
        let words = ["sh", ALONE_PATH, SECONDS, &place].map(str::to_owned).into_iter();
        let words: Vec<_> = words.chain(suite.command(case, runtime, &path(runtime))).collect();
        let ended = self.up.command(&words).output().context("ssh")?;
        let code = ended.status.code().context("ssh ended by a signal")?;
        let text = String::from_utf8_lossy(&ended.stdout);
        fs::write(&file, format!("{code}\n{text}")).with_context(|| file.display().to_string())?;
        Ok(suite.read(case, &text, code))
    }
}

fn image_name(up: &Up) -> &[u8] {
    up.image().as_os_str().as_encoded_bytes()
}

/// Where a runtime is in the emulated host.
fn path(runtime: &str) -> String {
    let directory = if runtime == RUNTIMES[super::OURS] { Up::OUTPUTS } else { "/usr/bin" };
    format!("{directory}/{runtime}")
}
