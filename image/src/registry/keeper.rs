//! Programs that keep passwords: `docker-credential-NAME get` reads a registry's name on standard input
//! and answers with JSON on standard output.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Deserialize;

use super::credentials::{Credential, CredentialError};

/// A person may have to unlock something, and a program without a person must not hang for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What all such programs answer when they know nothing; it is no error.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What the program called `name` in `file` knows of `registry`.
pub(super) fn ask(
    file: &Path,
    name: &str,
    registry: &str,
) -> Result<Option<Credential>, CredentialError> {
    // The name comes out of a file and becomes part of a program's.
    if name.is_empty() || name.contains('/') || name.starts_with('-') {
        let (path, name) = (file.to_owned(), name.to_owned());
        return Err(CredentialError::HelperName { path, name });
    }
    let program = format!("docker-credential-{name}");
    let wrong = |why: String| CredentialError::Helper { program: program.clone(), why };
    let (answer, well) = run(&program, registry).map_err(|error| wrong(error.to_string()))?;
    if !well {
        let words = String::from_utf8_lossy(&answer);
        let words = words.lines().next().unwrap_or_default();
        return match words.contains(NOT_FOUND) {
            true => Ok(None),
            false => Err(wrong(format!("{registry}: {words}"))),
        };
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| wrong(format!("{registry}: its answer holds no Username and Secret")))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::Identity { token: answer.secret },
        _ => Credential::Password { name: answer.username, password: answer.secret },
    }))
}

/// All it printed, and whether it ended well.
fn run(program: &str, registry: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = converse(&mut child, registry);
    if answer.is_err() {
        // It may have ended meanwhile, which is as well.
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok((answer?, status.success()))
}

fn converse(child: &mut Child, registry: &str) -> io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(registry.as_bytes()) {
            // It may know the answer without reading the question.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let Some(mut stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
        let mut wanted = [PollFd::new(&stdout, PollFlags::IN)];
        match rustix::event::poll(&mut wanted, Some(&left)) {
            Ok(0) => {
                return Err(io::Error::other(format!("no answer in {} s", PATIENCE.as_secs())));
            }
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        match stdout.read(&mut buffer)? {
            0 => return Ok(answer),
            count => answer.extend(&buffer[..count]),
        }
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("its answer does not end"));
        }
    }
}
