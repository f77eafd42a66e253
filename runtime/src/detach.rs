//! A supervisor in the background: this program again, in a session of its own, handed its wishes on
//! standard input and answering on standard output once its container runs or has failed to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::run;
use crate::settings::Settings;
use crate::state::record::{Id, Record};
use crate::timeline::Timeline;
use crate::vm::THIS_PROGRAM;
use crate::wishes::Wishes;

/// The hidden verb behind which this program is a supervisor in the background.
pub(crate) const VERB: &str = "supervise";

/// What the supervisor is handed.
#[derive(Serialize, Deserialize)]
struct Order {
    settings: Settings,
    wishes: Wishes,
    again: Option<Record>,
}

/// What the supervisor answers, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Started(Id),
    Failed(Failure),
}

/// Why a supervisor was not heard of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetachError {
    /// No process for it.
    #[error("process of the supervisor")]
    Process(#[source] io::Error),
    /// It went away without a word.
    #[error("the supervisor in the background ended without a word")]
    Silent,
}

/// Starts a supervisor in the background; gives back its container's id once that runs. With `again` it is the
/// one that this was written about.
pub(crate) fn start(
    settings: Settings,
    wishes: Wishes,
    again: Option<Record>,
) -> Result<Id, Failure> {
    let order = serde_json::to_vec(&Order { settings, wishes, again })?;
    let mut child = Command::new(THIS_PROGRAM)
        .arg0("microvm")
        .arg(VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(DetachError::Process)?;
    // A supervisor that does not read has ended, and its silence says so.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&order));
    let mut answer = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut answer).map_err(DetachError::Process)?;
    }
    match serde_json::from_slice(&answer) {
        Ok(Answer::Started(id)) => Ok(id),
        Ok(Answer::Failed(failure)) => Err(failure),
        Err(_) => Err(DetachError::Silent.into()),
    }
}

/// Is the supervisor: what this program does behind [`VERB`].
pub(crate) fn supervise() -> Result<u8, Failure> {
    let mut order = Vec::new();
    io::stdin().read_to_end(&mut order)?;
    let Order { settings, wishes, again } = serde_json::from_slice(&order)?;
    // Whoever started us may end, with its terminal and all of its session.
    rustix::process::setsid()?;
    let timeline = Timeline::new(settings.timeline.is_some());
    let mut answered = false;
    let end = run::run(&settings, &wishes, again, &timeline, |id| {
        answered = true;
        answer(&Answer::Started(id.clone()));
    });
    if let Some(path) = &settings.timeline {
        timeline.write(path)?;
    }
    match end {
        Ok(code) => Ok(code),
        Err(error) => {
            let failure = Failure::from(error);
            let code = failure.code;
            if !answered {
                answer(&Answer::Failed(failure));
            }
            Ok(code)
        }
    }
}

/// Answers and closes standard output, which is how the answer's end is seen.
fn answer(answer: &Answer) {
    // Whoever asked may be gone, and then there is nobody to hear of an error either.
    let _ = say(answer);
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(&serde_json::to_vec(answer)?)?;
    stdout.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}
