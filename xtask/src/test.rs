//! `cargo xtask test`: unit tests here, then the stories where KVM is real.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::{self, Outputs};
use crate::host::{Instance, Up};
use crate::toolchain::{self, TRIPLE};
use crate::{packages, run, step};

/// Which tests.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Let the stories that repeat themselves do so as often as is promised, which takes an hour more
    #[arg(long)]
    soak: bool,
}

/// The exit code of a test program of which some tests failed.
const SOME_FAILED: u8 = 101;

/// Runs them. The last line says how many passed, failed and could not run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut count = Count::default();
    let unit = unit_tests(args, &mut count)?;
    let outputs = build::everything()?;
    let stories = stories(&outputs, args, &mut count)?;
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(if unit && stories { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the test programs said of themselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What tests are held against: others' registry, and others' readers of disks and archives.
const ORACLES: &[&str] = &["docker-registry", "erofs-utils", "openssl", "skopeo"];

/// Everything but the stories. Says whether all was well.
fn unit_tests(args: &Args, count: &mut Count) -> Result<bool> {
    if let Err(error) = packages::install(ORACLES) {
        step::say(&format!("tests that need them will not run: {error:#}"));
    }
    step::say("unit tests");
    let mut cargo = step::cargo();
    cargo.args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]);
    cargo.args(&args.filter);
    let mut tests = cargo.stdout(Stdio::piped()).spawn().context("cargo test")?;
    listen(tests.stdout.take(), count)?;
    Ok(tests.wait().context("cargo test")?.success())
}

/// The whole-house tests. Says whether all was well.
fn stories(outputs: &Outputs, args: &Args, count: &mut Count) -> Result<bool> {
    let program = build_stories()?;
    let words = |directory: &Path| {
        let mut words = vec![
            OsString::from("env"),
            variable("MICROVM", &directory.join("microvm")),
            variable("MICROVM_DEMO", &directory.join("demo.tar")),
        ];
        words.extend(args.soak.then(|| "MICROVM_SOAK=1".into()));
        words.push(program.into());
        words.extend(args.filter.iter().map(OsString::from));
        words
    };
    if run::kvm_is_real(outputs)? {
        let words = words(&outputs.directory);
        let mut tests = Command::new(&words[0]);
        let mut tests = tests.args(&words[1..]).stdout(Stdio::piped()).spawn().context("env")?;
        listen(tests.stdout.take(), count)?;
        Ok(tests.wait().context("the stories")?.success())
    } else {
        let up = Instance::of_checkout()?.up()?;
        let words = words(Up::OUTPUTS.as_ref());
        let mut session = up.session(&words, Stdio::null(), Stdio::piped())?;
        listen(session.stdout(), count)?;
        let code = session.finish()?;
        if ![0, SOME_FAILED].contains(&code) {
            step::say(&format!(
                "the stories broke off with code {code}; the emulated host's logs:"
            ));
            up.show_logs();
        }
        Ok(code == 0)
    }
}

/// As `env` takes it.
fn variable(name: &str, value: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// Static as the rest: it runs in the emulated host, and plays the guest in some stories.
fn build_stories() -> Result<PathBuf> {
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

/// Shows what test programs print, and counts.
fn listen(stdout: Option<impl Read>, count: &mut Count) -> Result<()> {
    let Some(stdout) = stdout else { return Ok(()) };
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading the output of tests")?;
        println!("{line}");
        if let Some(more) = result(&line) {
            *count += more;
        }
    }
    Ok(())
}

/// What a line such as `test result: ok. 5 passed; 0 failed; 1 ignored; …` adds.
fn result(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let mut parts = numbers.split("; ").filter_map(|part| part.split_once(' '));
        parts.find(|&(_, what)| what == word)?.0.parse().ok()
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_could_not_run_are_counted() {
        let output = "\
running 3 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s

test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s
";
        let mut count = Count::default();
        listen(Some(output.as_bytes()), &mut count).unwrap();
        assert_eq!(count, Count { passed: 12, failed: 3, skipped: 1 });
    }
}
