//! A program that serves others, as long as it is wanted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long one may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends when it is dropped.
pub(crate) struct Daemon {
    process: Child,
    /// The line it said when it was ready.
    pub(crate) ready: String,
}

impl Daemon {
    /// Starts `command`, and waits until it says `ready` on standard error.
    pub(crate) fn start(mut command: Command, ready: &str) -> Result<Self> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| name.clone())?;
        let log = process.stderr.take().with_context(|| format!("{name}: no standard error"))?;
        let mut daemon = Self { process, ready: String::new() };
        let (says, hears) = mpsc::channel();
        // It is read to its end, since a daemon that nobody listens to stops; heard, until it is ready.
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = says.send(line);
            }
        });
        let mut last = String::new();
        daemon.ready = loop {
            let heard = hears.recv_timeout(PATIENCE);
            let line = heard.with_context(|| format!("{name} did not say {ready:?}: {last}"))?;
            if line.contains(ready) {
                break line;
            }
            last = line;
        };
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn it_is_there_when_it_said_so() {
        let daemon = Daemon::start(script("echo one >&2; echo up at 1:2 >&2; cat"), "up at ");
        assert_eq!(daemon.unwrap().ready, "up at 1:2");
    }

    #[test]
    fn one_that_ends_before_is_quoted() {
        let error = Daemon::start(script("echo no room >&2"), "up").err().unwrap();
        assert!(
            format!("{error:#}").starts_with("/bin/sh did not say \"up\": no room"),
            "{error:#}"
        );
    }
}
