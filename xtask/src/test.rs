//! `cargo xtask test`: unit tests here, then the stories where KVM is real.

mod stories;

use std::io::{BufRead, BufReader, Read};
use std::ops::AddAssign;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build;
use crate::{packages, step};

/// Which tests.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Let the stories that repeat themselves do so as often as is promised, which takes hours more in an emulated host
    #[arg(long)]
    soak: bool,
}

/// How many of the longest tests are named at the end.
const LONGEST: usize = 10;

/// Runs them. The last line says how many passed, failed and could not run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut count = Count::default();
    let unit = unit_tests(args, &mut count)?;
    let outputs = build::everything()?;
    let stories = stories::tell(&outputs, args, &mut count)?;
    count.longest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    for (name, took) in count.longest.iter().take(LONGEST) {
        step::say(&format!("{:4} s  {name}", took.as_secs()));
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(if unit && stories { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the test programs said of themselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that took a second or more. One that runs beside others is charged what has passed since the
    /// last of them ended; stories are alone.
    longest: Vec<(String, Duration)>,
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

/// Shows what test programs print, and counts.
fn listen(stdout: Option<impl Read>, count: &mut Count) -> Result<()> {
    let Some(stdout) = stdout else { return Ok(()) };
    let mut last = Instant::now();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading the output of tests")?;
        println!("{line}");
        if let Some((name, _)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            let took = last.elapsed();
            last += took;
            if took >= Duration::from_secs(1) {
                count.longest.push((name.trim_end().to_owned(), took));
            }
        }
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
        longest: Vec::new(),
    })
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
        self.longest.extend(more.longest);
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
        assert_eq!(count, Count { passed: 12, failed: 3, skipped: 1, longest: vec![] });
    }
}
