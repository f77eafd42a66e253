//! How commands get into the host that is up: one ssh connection, made once, carries them all.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::instance::Up;
use crate::step;

/// The name that the host's key is known under.
const NAME: &str = "emulated";

const DESTINATION: &str = "root@127.0.0.1";

/// Makes a key pair in place of the one that may be there; the answer is the public half in base64.
pub(super) fn new_key(path: &Path) -> Result<String> {
    let public = path.with_extension("pub");
    for old in [path, &public] {
        if old.exists() {
            fs::remove_file(old).with_context(|| old.display().to_string())?;
        }
    }
    let mut keygen = Command::new("ssh-keygen");
    step::read(
        "making a key",
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", ""]).arg("-f").arg(path),
    )?;
    let line = fs::read_to_string(&public).with_context(|| public.display().to_string())?;
    let key = line.split_whitespace().nth(1);
    key.map(str::to_owned).with_context(|| format!("{}: not a public key", public.display()))
}

/// Makes the connection, which lasts as long as the host.
pub(super) fn connect(up: &Up, host_key: &str) -> Result<()> {
    let known_hosts = up.file("known_hosts");
    fs::write(&known_hosts, format!("{NAME} {host_key}"))
        .with_context(|| known_hosts.display().to_string())?;
    let status = Command::new("setsid")
        .arg("ssh")
        .args(client(up))
        .args(["-f", "-N", "-M", DESTINATION])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("ssh")?;
    ensure!(status.success(), "connecting to the emulated host: ssh: {status}");
    Ok(())
}

/// `words` as a command in the host, in `directory`, with the outputs first in `PATH` and this
/// process's standard streams unless the caller says otherwise.
pub(super) fn command<W: AsRef<OsStr>>(
    up: &Up,
    directory: &Path,
    words: impl IntoIterator<Item = W>,
) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(client(up)).args(["-T", DESTINATION]).arg(script(
        directory,
        Up::OUTPUTS.as_ref(),
        words,
    ));
    ssh
}

/// The same with a terminal of its own, which is as large as ours and follows it.
pub(super) fn command_in_terminal<W: AsRef<OsStr>>(
    up: &Up,
    directory: &Path,
    words: impl IntoIterator<Item = W>,
) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(client(up)).args(["-tt", "-e", "none", DESTINATION]).arg(script(
        directory,
        Up::OUTPUTS.as_ref(),
        words,
    ));
    ssh
}

/// A line for `sh -c`: `words` in `directory`, programs in `path` before all others. Its last word keeps the shell there, which turns an end by signal 9 into
/// 137 where ssh would have 255.
pub(super) fn script<W: AsRef<OsStr>>(
    directory: &Path,
    path: &Path,
    words: impl IntoIterator<Item = W>,
) -> OsString {
    let mut line = OsString::from("cd ");
    line.push(quoted(directory.as_os_str()));
    line.push(" && export PATH=");
    line.push(quoted(path.as_os_str()));
    line.push(":$PATH && ");
    for word in words {
        line.push(quoted(word.as_ref()));
        line.push(" ");
    }
    line.push("; exit $?");
    line
}

/// One word for a shell, whatever is in it.
pub(super) fn quoted(word: &OsStr) -> OsString {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// What every ssh is told. The user's own configuration has no part in it.
fn client(up: &Up) -> Vec<OsString> {
    let path = |option: &str, name: &str| {
        let mut word = OsString::from(option);
        // In double quotes, or ssh takes a blank for the end of a path.
        word.push("\"");
        word.push(up.file(name));
        word.push("\"");
        word
    };
    let mut words: Vec<OsString> = ["-F", "none", "-p"].map(OsString::from).into();
    words.push(up.ssh_port().to_string().into());
    for option in [
        path("ControlPath=", "ssh.sock"),
        path("IdentityFile=", "key"),
        path("UserKnownHostsFile=", "known_hosts"),
        format!("HostKeyAlias={NAME}").into(),
        "IdentitiesOnly=yes".into(),
        "StrictHostKeyChecking=yes".into(),
        "LogLevel=ERROR".into(),
    ] {
        words.extend(["-o".into(), option]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell makes of the script, as its standard output and exit code.
    fn run(words: &[&str]) -> (String, Option<i32>) {
        let output =
            Command::new("sh").arg("-c").arg(script("/".as_ref(), "/no".as_ref(), words)).output();
        let output = output.unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }

    #[test]
    fn words_arrive_as_they_were_given() {
        let words = ["a b", "", "it's", "$HOME", "`id`", "\\", "\"", "*", "a\nb", "-e", "!x"];
        let mut command = vec!["printf", "<%s>"];
        command.extend(words);
        let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(run(&command), (expected, Some(0)));
    }

    #[test]
    fn codes_come_back_and_a_signal_is_128_and_its_number() {
        assert_eq!(run(&["sh", "-c", "exit 7"]).1, Some(7));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).1, Some(137));
        assert_eq!(run(&["/no/such/program"]).1, Some(127));
    }

    #[test]
    fn a_command_runs_in_its_directory() {
        assert_eq!(run(&["pwd"]), ("/\n".to_owned(), Some(0)));
    }
}
