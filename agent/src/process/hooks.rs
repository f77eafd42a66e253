//! Programs that run in a container after `start` was asked and before its own.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use proto::spec::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process_group, waitpid};

use super::program;
use crate::sys::{self, Forked, NewNamespaces};
use crate::words::words;

/// How much of what a hook says is kept: its last words are what matters.
const SAID_BYTES: usize = 1 << 10;

/// A hook that did not go well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("hooks.startContainer {path}: {step}: {}", words(*.errno))]
    Step { path: String, step: &'static str, errno: Errno },
    #[error("hooks.startContainer {path}: took longer than {seconds} s{said}")]
    TookTooLong { path: String, seconds: u32, said: String },
    #[error("hooks.startContainer {path}: exit status {code}{said}")]
    Status { path: String, code: i32, said: String },
    #[error("hooks.startContainer {path}: killed by signal {signal}{said}")]
    Killed { path: String, signal: i32, said: String },
}

/// Runs hooks one after the other, up to the first that does not go well. `env` is for those that say
/// nothing of theirs.
pub(crate) fn run(hooks: &[Hook], env: &[String]) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run_one(hook, env))
}

fn run_one(hook: &Hook, env: &[String]) -> Result<(), HookError> {
    let path = || hook.path.display().to_string();
    let step = |step| move |errno| HookError::Step { path: path(), step, errno };
    let (input, state) = pipe_with(PipeFlags::CLOEXEC).map_err(step("standard input"))?;
    let (words, output) = pipe_with(PipeFlags::CLOEXEC).map_err(step("standard error"))?;
    for ours in [&state, &words] {
        rustix::io::ioctl_fionbio(ours, true).map_err(step("pipe"))?;
    }
    match sys::fork(NewNamespaces::NONE, None).map_err(step("fork"))? {
        Forked::Child => become_hook(hook, env, &input, &output),
        Forked::Parent { pid, pidfd } => {
            drop((input, output));
            let mut said = Vec::new();
            let in_time = attend(hook, &pidfd, state, &words, &mut said);
            if !matches!(in_time, Ok(true)) {
                // Its group, for what it has started; it leads one unless it is gone already.
                let _ = kill_process_group(pid, rustix::process::Signal::KILL);
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            let status = reap(pid).map_err(step("wait"))?;
            let said = last_words(&said);
            match (in_time.map_err(step("poll"))?, status.exit_status()) {
                (true, Some(0)) => Ok(()),
                (true, Some(code)) => Err(HookError::Status { path: path(), code, said }),
                (true, None) => {
                    let signal = status.terminating_signal().unwrap_or_default();
                    Err(HookError::Killed { path: path(), signal, said })
                }
                (false, _) => {
                    let seconds = hook.timeout.unwrap_or_default();
                    Err(HookError::TookTooLong { path: path(), seconds, said })
                }
            }
        }
    }
}

/// The child's half: nothing is mixed into the hook's environment, its output goes to the pipe.
fn become_hook(hook: &Hook, env: &[String], input: &OwnedFd, output: &OwnedFd) -> ! {
    let prepare = || {
        rustix::process::setsid()?;
        sys::place_descriptor(input.as_fd(), 0)?;
        sys::place_descriptor(output.as_fd(), 1)?;
        sys::place_descriptor(output.as_fd(), 2)?;
        sys::restore_signals()
    };
    let errno = prepare().err().unwrap_or_else(|| {
        let path = CString::new(hook.path.as_os_str().as_bytes());
        let args = program::c_strings("hooks", &hook.args);
        let env = program::c_strings("hooks", hook.env.as_deref().unwrap_or(env));
        match (path, args, env) {
            (Ok(path), Ok(args), Ok(env)) if args.is_empty() => {
                sys::execve(&path, std::slice::from_ref(&path), &env)
            }
            (Ok(path), Ok(args), Ok(env)) => sys::execve(&path, &args, &env),
            _ => Errno::INVAL,
        }
    });
    // Its last words go where its program's would have gone.
    let _ = rustix::io::write(output, words(errno).as_bytes());
    sys::exit_now(127)
}

/// Feeds a hook and listens to it until it has ended. Whether it did so in time.
fn attend(
    hook: &Hook,
    pidfd: &OwnedFd,
    state: OwnedFd,
    output: &OwnedFd,
    said: &mut Vec<u8>,
) -> Result<bool, Errno> {
    let limit = hook.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut unread = hook.state.as_bytes();
    let mut state = Some(state);
    let mut is_heard = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = vec![PollFd::new(pidfd, PollFlags::IN)];
        if is_heard {
            watched.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(state) = &state {
            watched.push(PollFd::new(state, PollFlags::OUT));
        }
        match poll(&mut watched, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let has_ended = !watched[0].revents().is_empty();
        if let Some(pipe) = &state {
            match rustix::io::write(pipe, unread) {
                Ok(length) => unread = &unread[length..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                // It does not want to know.
                Err(_) => unread = &[],
            }
            if unread.is_empty() {
                state = None;
            }
        }
        is_heard = is_heard && listen(output, said);
        // What it left running may hold the pipe open: its own end counts.
        if has_ended {
            return Ok(true);
        }
    }
}

/// Takes what was said, keeps the end of it, and tells whether there can be more.
fn listen(output: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut bytes = [0; SAID_BYTES];
    loop {
        match rustix::io::read(output, &mut bytes) {
            Ok(0) => return false,
            Ok(length) => {
                said.extend_from_slice(&bytes[..length]);
                let excess = said.len().saturating_sub(SAID_BYTES);
                said.drain(..excess);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

fn reap(pid: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What stands behind the reason: `: no such user`.
fn last_words(said: &[u8]) -> String {
    match String::from_utf8_lossy(said).trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}
