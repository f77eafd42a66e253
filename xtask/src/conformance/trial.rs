//! Cases in the emulated host, one at a time.
//!
//! What a runtime says depends on the host's image, on the suites and on the runtime, and is kept: the
//! next run asks only what is not known.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::RUNTIMES;
use super::outcome::Answers;
use super::suites::{SUITES, Suite};
use crate::build::Outputs;
use crate::cache::Key;
use crate::host::Up;
use crate::{paths, step};

/// In the emulated host, a copy of the suites' programs.
const PROGRAMS: &str = "/opt/suites";

/// What runs a case by itself.
const ALONE_PATH: &str = "/opt/suites/case";

/// What stands before a runtime for a suite that is in a hurry: contest, and runtime-tools.
pub(super) const PATIENT_PATH: &str = "/opt/suites/patient";
pub(super) const UNHURRIED_PATH: &str = "/opt/suites/unhurried";

/// Where they are in the emulated host, and what they are.
const SCRIPTS: [(&str, &str); 3] = [
    (ALONE_PATH, include_str!("../../host/case")),
    (PATIENT_PATH, include_str!("../../host/patient")),
    (UNHURRIED_PATH, include_str!("../../host/unhurried")),
];

/// For a case. The longest that can pass take a quarter of it, with a VM for every container, on a machine
/// that does nothing else.
const SECONDS: &str = "600";

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Everyone,
    /// Those of whom it is not known what they say.
    Unknown,
    Nobody,
}

/// A host that is ready for the suites.
pub(super) struct Trial<'a> {
    up: &'a Up,
    /// Every case's output is kept below, for those who want to know why.
    output: PathBuf,
    ask: Ask,
    /// Tells one build of ours from another.
    build: String,
}

impl<'a> Trial<'a> {
    /// Copies `programs` into the host unless it has them.
    pub(super) fn prepare(
        up: &'a Up,
        outputs: &Outputs,
        programs: &Path,
        ask: Ask,
    ) -> Result<Self> {
        let mut answers = Key::new().part("image", image_name(up));
        for (name, script) in SCRIPTS {
            answers = answers.part(name, script);
        }
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
            let script = "to=$0; rm -rf \"$to\" && cp -r \"$1\" \"$to\" || exit; shift; \
                          while [ $# -gt 0 ]; do printf %s \"$2\" > \"$1\" && chmod +x \"$1\" || exit; \
                          shift 2; done";
            let words = ["sh", "-c", script, PROGRAMS].map(OsStr::new).into_iter();
            let words = words.chain([programs.as_os_str()]);
            let scripts = SCRIPTS.iter().flat_map(|(path, text)| [path, text]);
            let words: Vec<_> = words.chain(scripts.map(|&word| OsStr::new(word))).collect();
            step::quiet("copying the suites into the emulated host", &mut up.command(&words))
        })?;
        let output = format!("conformance/output-{}", answers.short());
        let output = paths::cache()?.join(output);
        let mut build = Key::new();
        for name in ["microvm", "vmlinux", "initramfs.cpio"] {
            build = build.file(name, &outputs.directory.join(name))?;
        }
        Ok(Self { up, output, ask, build: build.short() })
    }

    /// What a command at the place of a suite's programs prints.
    pub(super) fn read(&self, suite: &Suite, words: &[&str]) -> Result<String> {
        let script = "cd \"$0\" && exec \"$@\"";
        let place = format!("{PROGRAMS}/{}", suite.name);
        let words: Vec<_> =
            ["sh", "-c", script, &place].into_iter().chain(words.iter().copied()).collect();
        step::read("listing cases", &mut self.up.command(&words))
    }

    /// The first line of each runtime's `--version`, and the commit of ours.
    pub(super) fn versions(&self) -> Result<[String; RUNTIMES.len()]> {
        let mut versions = RUNTIMES.map(str::to_owned);
        for version in &mut versions {
            let words = [path(version), "--version".into()];
            let text = step::read("asking for versions", &mut self.up.command(&words))?;
            *version = text.lines().next().unwrap_or_default().to_owned();
        }
        let mut git = Command::new("git");
        git.current_dir(paths::checkout()).args(["rev-parse", "HEAD"]);
        let commit = step::read("asking for the commit", &mut git)?;
        versions[super::OURS].push_str(&format!(" at `{}`", commit.trim()));
        Ok(versions)
    }

    /// Runs a case on a runtime, or tells what it said before, if that is known.
    pub(super) fn run(&self, suite: &Suite, case: &str, runtime: &str) -> Result<Option<Answers>> {
        let is_ours = runtime == RUNTIMES[super::OURS];
        let whose = if is_ours { format!("{runtime}-{}", self.build) } else { runtime.to_owned() };
        let directory = self.output.join(whose).join(suite.name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let file = directory.join(case);
        let kept = (self.ask != Ask::Everyone).then(|| fs::read_to_string(&file).ok()).flatten();
        if let Some((code, text)) = kept.as_deref().and_then(|kept| kept.split_once('\n'))
            && let Ok(code) = code.parse()
        {
            return Ok(Some(suite.read(case, text, code)));
        }
        if self.ask == Ask::Nobody {
            return Ok(None);
        }
        let place = format!("{PROGRAMS}/{}", suite.name);
        let words = ["sh", ALONE_PATH, SECONDS, &place].map(str::to_owned).into_iter();
        let words: Vec<_> = words.chain(suite.command(case, runtime, &path(runtime))).collect();
        let ended = self.up.command(&words).output().context("ssh")?;
        let code = ended.status.code().context("ssh ended by a signal")?;
        let text = String::from_utf8_lossy(&ended.stdout);
        fs::write(&file, format!("{code}\n{text}")).with_context(|| file.display().to_string())?;
        Ok(Some(suite.read(case, &text, code)))
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
