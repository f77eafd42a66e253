//! One command from spawn to wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

use crate::figures::Outcome;

/// Where the programs of the race look for others. The environment is otherwise empty, so that the
/// place it was started from does not count.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that can be run again and again.
pub(crate) struct Contender {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

/// Both ends of a run, `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) struct Lap {
    pub(crate) began_ns: u64,
    pub(crate) ended_ns: u64,
}

impl Contender {
    pub(crate) fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        Self { program: program.into(), args: args.iter().map(|&arg| arg.to_owned()).collect() }
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
        let stderr = File::create(&words).with_context(|| words.display().to_string())?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let began_ns = monotonic_ns();
        let status = command.status().with_context(|| self.program.display().to_string())?;
        let ended_ns = monotonic_ns();
        if !status.success() {
            let said = fs::read_to_string(&words).unwrap_or_default();
            bail!("{} {}: {status}: {}", self.program.display(), self.args.join(" "), said.trim());
        }
        Ok(Lap { began_ns, ended_ns })
    }

    /// The first line it prints on standard output.
    pub(crate) fn first_line(&self) -> Result<String> {
        let output = self.command().output().with_context(|| self.program.display().to_string())?;
        if !output.status.success() {
            bail!("{} {}: {}", self.program.display(), self.args.join(" "), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().env("PATH", PATH).env("HOME", "/root");
        command
    }
}

fn monotonic_ns() -> u64 {
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
