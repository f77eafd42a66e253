//! One command in the host that is up.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::instance::Up;
use super::ssh;
use crate::paths;

/// Signals that are meant for the command when it has no terminal to hear of them.
const SIGNALS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A command under way, at the root of the checkout and without a terminal.
pub(crate) struct Session<'a> {
    up: &'a Up,
    ssh: Child,
    signals: Signals,
    /// In the host, the file with the command's process id.
    pid_file: String,
}

impl<'a> Session<'a> {
    /// Starts `words`.
    pub(super) fn start<W: AsRef<OsStr>>(
        up: &'a Up,
        words: &[W],
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self> {
        // Before there is anybody to pass them to: from now on they do not end this process.
        let signals = Signals::new(SIGNALS).context("listening for signals")?;
        let pid_file = format!("/run/commands/{}", std::process::id());
        let wrapper = ["sh", "-c", "echo $$ > \"$0\"; exec \"$@\"", &pid_file];
        let words = wrapper.iter().map(OsStr::new).chain(words.iter().map(AsRef::as_ref));
        let mut ssh = ssh::command(up, paths::checkout(), words);
        // Ctrl-C at our terminal is for us to pass on, and would end ssh.
        if !io::stdin().is_terminal() {
            ssh.process_group(0);
        }
        let ssh = ssh.stdin(stdin).stdout(stdout).spawn().context("ssh")?;
        Ok(Self { up, ssh, signals, pid_file })
    }

    /// The reading end of its standard output, if that was asked for, once.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.ssh.stdout.take()
    }

    /// Waits for its end, passing signals on meanwhile. The answer is its exit code.
    pub(crate) fn finish(mut self) -> Result<u8> {
        let (up, pid_file) = (self.up, &self.pid_file);
        let signals = &mut self.signals;
        let handle = signals.handle();
        let status = thread::scope(|scope| {
            scope.spawn(move || {
                for signal in signals.forever() {
                    // Too late for one that has just ended, and then for nothing.
                    let _ = ssh::command(up, paths::checkout(), kill(pid_file, signal)).status();
                }
            });
            let status = self.ssh.wait();
            handle.close();
            status
        })
        .context("ssh")?;
        // ssh itself ends by no signal here; a command's end by one is a code by now.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.with_context(|| format!("ssh to the emulated host: {status}"))
    }
}

fn kill(pid_file: &str, signal: i32) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("kill -{signal} $(cat {pid_file})")]
}
