//! How a command ends that did not go well: one message, one exit code, both decided here.

use std::error::Error;
use std::fmt::Write;

use proto::message::FaultKind;
use serde::{Deserialize, Serialize};

use crate::attend::AttendError;
use crate::session::SessionError;

/// Something of ours went wrong.
pub(crate) const OURS: u8 = 125;
/// The program is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The program is not there.
const NOT_FOUND: u8 = 127;

/// What is said and given back when a command fails.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// For standard error; empty when there is nothing to say.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl Failure {
    /// What `error` and everything beneath it come to.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let chain = || std::iter::successors(Some(error), |error| (**error).source());
        let attended = chain().find_map(|error| error.downcast_ref::<AttendError>());
        let code = attended.map_or(OURS, code_of);
        if let Some(AttendError::Interrupted { .. }) = attended {
            return Self { message: String::new(), code };
        }
        let mut message = String::new();
        for error in chain() {
            let words = error.to_string();
            // Some errors repeat their source's words.
            if !message.ends_with(&words) {
                let colon = if message.is_empty() { "" } else { ": " };
                let _ = write!(message, "{colon}{words}");
            }
        }
        if let Some(AttendError::Vm(ended)) = attended {
            for line in ended.last_words() {
                let _ = write!(message, "\n  | {line}");
            }
        }
        Self { message, code }
    }
}

/// Tells whoever reads standard error of what went wrong and is no failure of what was asked for.
pub(crate) fn warn(error: &(dyn Error + 'static)) {
    eprintln!("microvm: warning: {}", Failure::of(error).message);
}

fn code_of(error: &AttendError) -> u8 {
    match error {
        AttendError::Interrupted { signal } => {
            u8::try_from(*signal).map_or(OURS, |signal| signal.saturating_add(128))
        }
        AttendError::Session(SessionError::Refused(fault)) => match fault.kind {
            FaultKind::ProgramNotFound => NOT_FOUND,
            FaultKind::ProgramNotExecutable => NOT_EXECUTABLE,
            FaultKind::NoSuchProcess
            | FaultKind::AlreadyExists
            | FaultKind::InvalidSpec
            | FaultKind::System => OURS,
        },
        AttendError::Session(_)
        | AttendError::Dial(_)
        | AttendError::Relay(_)
        | AttendError::Watch(_)
        | AttendError::NotReady { .. }
        | AttendError::Host(_)
        | AttendError::State(_)
        | AttendError::Network(_)
        | AttendError::Plug(_)
        | AttendError::Unwanted
        | AttendError::Vm(_) => OURS,
    }
}

#[cfg(test)]
mod tests {
    use proto::message::Fault;

    use super::*;
    use crate::state::StateError;

    fn refused(kind: FaultKind) -> Failure {
        let fault = Fault { kind, message: "sh: no such file or directory".to_owned() };
        AttendError::Session(SessionError::Refused(fault)).into()
    }

    #[test]
    fn exit_codes_are_the_ones_people_know() {
        assert_eq!(refused(FaultKind::ProgramNotFound).code, 127);
        assert_eq!(refused(FaultKind::ProgramNotExecutable).code, 126);
        assert_eq!(refused(FaultKind::InvalidSpec).code, 125);
        assert_eq!(Failure::from(AttendError::Interrupted { signal: 2 }).code, 130);
        assert_eq!(Failure::from(StateError::NotFound { word: "x".to_owned() }).code, 125);
    }

    #[test]
    fn a_message_is_one_line_with_every_cause_in_it_once() {
        assert_eq!(refused(FaultKind::ProgramNotFound).message, "sh: no such file or directory");
        let source = std::io::Error::from_raw_os_error(28);
        let failure = Failure::from(StateError::Io { path: "/run/x".into(), source });
        assert_eq!(failure.message, "state /run/x: No space left on device (os error 28)");
    }
}
