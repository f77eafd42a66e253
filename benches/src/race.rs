//! A command, or a few, from spawn to wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

use crate::figures::Outcome;

/// Where the programs of the race look for others. The environment is otherwise empty, so that the
/// place it was started from does not count.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Commands of one program that can be run again and again, one after the other.
#[derive(Clone)]
pub(crate) struct Contender {
    pub(crate) program: PathBuf,
    /// What all of them begin with.
    own: Vec<String>,
    commands: Vec<Vec<String>>,
}

/// Both ends of a run, `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) struct Lap {
    pub(crate) began_ns: u64,
    pub(crate) ended_ns: u64,
}

impl Contender {
    /// One command.
    pub(crate) fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        Self::of(program, &[]).then(args)
    }

    /// None yet, of a program that is told `own` in any case.
    pub(crate) fn of(program: impl Into<PathBuf>, own: &[&str]) -> Self {
        Self { program: program.into(), own: strings(own), commands: vec![] }
    }

    /// And another behind those.
    pub(crate) fn then(mut self, args: &[&str]) -> Self {
        self.commands.push([self.own.clone(), strings(args)].concat());
        self
    }

    /// Runs it `warm_ups` times, then `runs` times against the clock. One run that does not exit with
    /// 0 spoils the series.
    pub(crate) fn series(&self, warm_ups: usize, runs: usize, scratch: &Path) -> Outcome {
        let laps = || -> Result<Vec<u64>> {
            for _ in 0..warm_ups {
                self.lap(scratch)?;
            }
            (0..runs).map(|_| self.lap(scratch).map(|lap| lap.ended_ns - lap.began_ns)).collect()
        };
        match laps() {
            Ok(times) => Outcome::ElapsedNs(times),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// Runs it once. What it says on standard error goes through a file in `scratch`: a pipe would
    /// wake this process while it waits.
    pub(crate) fn lap(&self, scratch: &Path) -> Result<Lap> {
        let words = scratch.join("stderr");
        let mut lap = Lap { began_ns: u64::MAX, ended_ns: 0 };
        for args in &self.commands {
            let stderr = File::create(&words).with_context(|| words.display().to_string())?;
            let mut command = self.command(args);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
            lap.began_ns = lap.began_ns.min(monotonic_ns());
            let status = command.status().with_context(|| self.program.display().to_string())?;
            lap.ended_ns = monotonic_ns();
            if !status.success() {
                let said = fs::read_to_string(&words).unwrap_or_default();
                bail!("{} {}: {status}: {}", self.program.display(), args.join(" "), said.trim());
            }
        }
        Ok(lap)
    }

    /// Begins to run its first command, for whoever waits for it.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let mut command = self.command(self.commands.first().context("no command")?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| self.program.display().to_string())
    }

    /// The first line its first command prints on standard output.
    pub(crate) fn first_line(&self) -> Result<String> {
        Ok(self.words()?.lines().next().unwrap_or_default().to_owned())
    }

    /// All that its first command prints there.
    pub(crate) fn words(&self) -> Result<String> {
        let args = self.commands.first().context("no command")?;
        let output =
            self.command(args).output().with_context(|| self.program.display().to_string())?;
        if !output.status.success() {
            bail!("{} {}: {}", self.program.display(), args.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().env("PATH", PATH).env("HOME", "/root");
        command
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// `CLOCK_MONOTONIC` now.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_a_time_for_each_run_and_none_for_its_warm_ups() {
        let scratch = tempfile::tempdir().unwrap();
        let outcome = Contender::new("/bin/true", &[]).series(2, 3, scratch.path());
        let Outcome::ElapsedNs(times) = outcome else { panic!("{outcome:?}") };
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|&ns| ns > 0));
    }

    #[test]
    fn a_run_that_goes_wrong_spoils_its_series_and_says_why() {
        let scratch = tempfile::tempdir().unwrap();
        let script = "echo the reason >&2; exit 3";
        let outcome = Contender::new("/bin/sh", &["-c", script]).series(0, 1, scratch.path());
        let Outcome::Failed(why) = outcome else { panic!("{outcome:?}") };
        assert!(why.ends_with("exit status: 3: the reason"), "{why}");
        let outcome = Contender::new("/not/there", &[]).series(0, 1, scratch.path());
        assert!(matches!(outcome, Outcome::Failed(why) if why.contains("/not/there")));
    }
}
