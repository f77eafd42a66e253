//! Resource limits of a process.

use proto::spec::Rlimit;
use rustix::process::{Resource, setrlimit};

use crate::words::words;

/// Every name of the OCI specification.
const NAMES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// A limit that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RlimitError {
    #[error("process.rlimits: \"{name}\" is no resource limit")]
    Unknown { name: String },
    #[error("process.rlimits: {name} soft {soft} hard {hard}: {}", words(*.errno))]
    Refused { name: String, soft: u64, hard: u64, errno: rustix::io::Errno },
}

/// Sets the limits of the calling process, in order.
pub(crate) fn apply(limits: &[Rlimit]) -> Result<(), RlimitError> {
    for Rlimit { kind, soft, hard } in limits {
        let Some((_, resource)) = NAMES.iter().find(|(name, _)| name == kind) else {
            return Err(RlimitError::Unknown { name: kind.clone() });
        };
        let limit = rustix::process::Rlimit { current: finite(*soft), maximum: finite(*hard) };
        setrlimit(*resource, limit).map_err(|errno| RlimitError::Refused {
            name: kind.clone(),
            soft: *soft,
            hard: *hard,
            errno,
        })?;
    }
    Ok(())
}

/// `RLIM_INFINITY` is how a specification says "no limit".
fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_does_not_exist_is_named() {
        let limits = [Rlimit { kind: "RLIMIT_JOY".into(), soft: 1, hard: 1 }];
        let error = apply(&limits).unwrap_err();
        assert_eq!(error.to_string(), "process.rlimits: \"RLIMIT_JOY\" is no resource limit");
    }

    #[test]
    fn a_soft_limit_over_the_hard_one_is_told_with_both() {
        let limits = [Rlimit { kind: "RLIMIT_CORE".into(), soft: 2, hard: 1 }];
        let error = apply(&limits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "process.rlimits: RLIMIT_CORE soft 2 hard 1: invalid argument"
        );
    }
}
