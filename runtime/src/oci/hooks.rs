//! Programs of others that are run on the way (runtime specification, "POSIX-platform Hooks").

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use proto::spec::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::state::State;

/// The most that is told of what a failed hook said.
const MAX_WORDS: usize = 4096;

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It cannot be run or waited for.
    #[error("hook {}", path.display())]
    Io {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended badly.
    #[error("hook {}: {status}{}", path.display(), if words.is_empty() { String::new() } else { format!(": {words}") })]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said on standard error.
        words: String,
    },
    /// It took too long, and was killed.
    #[error("hook {} took longer than {seconds} seconds", path.display())]
    Slow {
        /// The program.
        path: PathBuf,
        /// What it had.
        seconds: u32,
    },
}

/// Runs `hooks` in order, each with `state` on standard input, up to the first that fails.
pub(crate) fn run(hooks: &[Hook], state: &State) -> Result<(), HookError> {
    for hook in hooks {
        run_one(hook, state)?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &State) -> Result<(), HookError> {
    let io = |source| HookError::Io { path: hook.path.clone(), source };
    let json = serde_json::to_vec(state).map_err(|error| io(error.into()))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    // One that says nothing of its environment has ours, as from runc.
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().filter_map(|variable| variable.split_once('=')));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io)?;
    // A hook that does not want to know its container's state need not read it.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&json));
    // Read beside: what it says must not hold it up, and a child of its own may keep this open.
    let stderr = child.stderr.take();
    let words = thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stderr.map(|stderr| stderr.take(MAX_WORDS as u64).read_to_end(&mut said));
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    if !ends_in_time(&child, hook.timeout).map_err(io)? {
        let _ = child.kill().and_then(|()| child.wait());
        let seconds = hook.timeout.unwrap_or(0);
        return Err(HookError::Slow { path: hook.path.clone(), seconds });
    }
    let status = child.wait().map_err(io)?;
    if status.success() {
        return Ok(());
    }
    let words = words.join().unwrap_or_default();
    Err(HookError::Failed { path: hook.path.clone(), status, words })
}

fn ends_in_time(child: &Child, seconds: Option<u32>) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return Ok(true) };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let time = seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], time.as_ref())? > 0;
    if !ended {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::state::record::{Id, Oci, Record, Status};

    fn said(env: Option<&[&str]>) -> String {
        let name = "box".parse().unwrap();
        let record = Record::new(Id::from_bits([7; 32]), name, "i".into(), Default::default());
        let state = State::new(&record, &Oci::of_image(Path::new("/d")), Status::Created);
        let hook = Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", "echo $WORD ${CARGO_PKG_NAME-none} >&2; exit 3"]
                .map(Into::into)
                .into(),
            env: env.map(|env| env.iter().map(|word| (*word).to_owned()).collect()),
            timeout: None,
            state: String::new(),
        };
        run(&[hook], &state).unwrap_err().to_string()
    }

    #[test]
    fn a_hook_has_its_own_environment_or_the_callers() {
        let with = |words: &str| format!("hook /bin/sh: exit status: 3: {words}");
        assert_eq!(said(Some(&["WORD=own"])), with("own none"));
        assert_eq!(said(Some(&[])), with("none"));
        // Cargo has put this into the environment of tests.
        assert_eq!(said(None), with("runtime"));
    }
}
