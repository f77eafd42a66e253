//! The whole-house tests: where KVM is real, else in as many emulated hosts as there are processors for.
//!
//! Stories look at the whole machine they are told on, so on one machine there is one at a time. A host
//! that is free takes the next chapter.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Args, Count, listen};
use crate::build::Outputs;
use crate::host::{self, Up};
use crate::toolchain::{self, TRIPLE};
use crate::{run, services, step};

/// The chapter that wants images of services.
const SERVICES: &str = "services";

/// The exit code of a test program of which some tests failed.
const SOME_FAILED: u8 = 101;

/// Tells those that are wanted. Says whether all was well.
pub(super) fn tell(outputs: &Outputs, args: &Args, count: &mut Count) -> Result<bool> {
    let program = build()?;
    let chapters = chapters(&program, args)?;
    let services = match chapters.iter().any(|chapter| chapter == SERVICES) {
        true => Some(services::store(outputs)?),
        false => None,
    };
    let words = |directory: &Path, chapter: Option<&str>| {
        let mut words = vec![
            OsString::from("env"),
            variable("MICROVM", directory.join("microvm")),
            variable("MICROVM_DEMO", directory.join("demo.tar")),
        ];
        words.extend(args.soak.then(|| "MICROVM_SOAK=1".into()));
        words.extend(services.as_ref().map(|store| variable("MICROVM_SERVICES", store)));
        words.extend(chapter.map(|chapter| variable("MICROVM_CHAPTER", chapter)));
        words.push(program.clone().into());
        words.extend(args.filter.iter().map(OsString::from));
        words
    };
    if run::kvm_is_real(outputs)? {
        let words = words(&outputs.directory, None);
        let mut tests = Command::new(&words[0]);
        let mut tests = tests.args(&words[1..]).stdout(Stdio::piped()).spawn().context("env")?;
        listen(tests.stdout.take(), count)?;
        return Ok(tests.wait().context("the stories")?.success());
    }
    let told = host::share(chapters, |up, next| {
        let (mut well, mut count) = (true, Count::default());
        while let Some(chapter) = next() {
            let words = words(Up::OUTPUTS.as_ref(), Some(&chapter));
            well &= read_chapter(up, &words, &mut count)?;
        }
        Ok((well, count))
    })?;
    let mut well = true;
    for (all, more) in told {
        well &= all;
        *count += more;
    }
    Ok(well)
}

/// One after the other, on one host.
fn read_chapter(up: &Up, words: &[OsString], count: &mut Count) -> Result<bool> {
    let mut session = up.session(words, Stdio::null(), Stdio::piped())?;
    listen(session.stdout(), count)?;
    let code = session.finish()?;
    if code != 0 {
        let how = if code == SOME_FAILED { "failed" } else { "broke off" };
        step::say(&format!("stories {how} with code {code}; the emulated host's logs:"));
        up.show_logs();
    }
    Ok(code == 0)
}

/// As `env` takes it.
fn variable(name: &str, value: impl Into<OsString>) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value.into());
    word
}

/// The chapters in which there are stories that are wanted, in the program's order.
fn chapters(program: &Path, args: &Args) -> Result<Vec<String>> {
    let mut list = Command::new(program);
    list.arg("--list").args(&args.filter).env_remove("MICROVM");
    let listed = step::read("listing the stories", &mut list)?;
    let mut chapters: Vec<String> = Vec::new();
    for (chapter, _) in listed.lines().filter_map(|story| story.split_once("::")) {
        if chapters.last().is_none_or(|last| last != chapter) {
            chapters.push(chapter.to_owned());
        }
    }
    Ok(chapters)
}

/// Static as the rest: it runs in the emulated host, and plays the guest in some stories.
fn build() -> Result<PathBuf> {
    toolchain::add_target()?;
    let mut cargo = step::cargo();
    cargo.args(["test", "--package", "tests", "--test", "stories", "--target", TRIPLE]);
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo test")?;
    anyhow::ensure!(output.status.success(), "building the stories: cargo: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "stories").then_some(())?;
        message["executable"].as_str().map(PathBuf::from)
    });
    program.context("cargo does not say where it built the stories")
}
