//! Why a call did not go well, in the words of the protocol.

use proto::message::{Fault, FaultKind, ProcessId};
use rustix::io::Errno;

use crate::words::{Refused, words};

/// A fault, in one word less.
pub(crate) fn fault(kind: FaultKind, message: String) -> Fault {
    Fault { kind, message }
}

/// Nobody has ever heard of it.
pub(crate) fn no_such(id: &ProcessId) -> Fault {
    fault(FaultKind::NoSuchProcess, format!("{} does not exist", named(id)))
}

/// It is known, and `state` is why it cannot be done.
pub(crate) fn wrong_state(id: &ProcessId, state: &str) -> Fault {
    fault(FaultKind::NoSuchProcess, format!("{} {state}", named(id)))
}

/// The process in words.
pub(crate) fn named(id: &ProcessId) -> String {
    match &id.exec {
        None => format!("container {}", id.container),
        Some(exec) => format!("exec {exec} in container {}", id.container),
    }
}

/// The guest's kernel refused, with the step it refused at.
pub(crate) fn refused(step: &str) -> impl Fn(Errno) -> Fault {
    move |errno| fault(FaultKind::System, format!("{step}: {}", words(errno)))
}

/// The guest's kernel refused, and the step is known already.
#[allow(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
pub(crate) fn system(error: Refused) -> Fault {
    fault(FaultKind::System, error.to_string())
}
