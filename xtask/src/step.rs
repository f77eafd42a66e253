//! Steps that take time: what is going on is said on standard error, and what a program printed
//! is shown when it went wrong.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::paths;

/// How much of a failed program's output is shown.
const LAST_LINES: usize = 100;

/// One line of progress. Standard output belongs to whatever is run in the end.
pub(crate) fn say(what: &str) {
    // A closed standard error is no reason to stop building.
    let _ = writeln!(std::io::stderr(), "xtask: {what}");
}

/// Runs a program whose output matters only if it goes wrong, and says what it is for and how long
/// it took. The error names `what`, the program and how it ended, after its last lines.
pub(crate) fn quiet(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let began = Instant::now();
    capture(what, command)?;
    let seconds = began.elapsed().as_secs();
    if seconds >= 5 {
        say(&format!("{what}: done in {seconds} s"));
    }
    Ok(())
}

/// Runs a program with this process's standard streams, as cargo wants it.
pub(crate) fn open(what: &str, command: &mut Command) -> Result<()> {
    let program = name(command);
    let status = command.status().with_context(|| format!("{what}: {program}"))?;
    if !status.success() {
        bail!("{what}: {program}: {status}");
    }
    Ok(())
}

/// What a program printed on standard output.
pub(crate) fn read(what: &str, command: &mut Command) -> Result<String> {
    let output = capture(what, command)?;
    String::from_utf8(output.stdout).with_context(|| format!("{what}: {}", name(command)))
}

/// Shows the end of what a program printed.
pub(crate) fn show_last_lines(output: &[u8]) {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        eprintln!("    {line}");
    }
}

/// The cargo that built this program, at the root of the checkout, building into its `target`.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::checkout()).env("CARGO_TARGET_DIR", paths::target());
    cargo
}

fn capture(what: &str, command: &mut Command) -> Result<Output> {
    let program = name(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{what}: {program}"))?;
    if !output.status.success() {
        show_last_lines(&output.stdout);
        show_last_lines(&output.stderr);
        bail!("{what}: {program}: {}", output.status);
    }
    Ok(output)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
