//! Looking after one process of a guest, from the wish for it to its last byte.
//!
//! ```text
//!   greeting ─► creating ─► (held) ─► starting ─► running ─► draining ─► exit status
//!      │ Hello     │ Created   │ order   │ Done      │ Exited    │ streams at their end
//! ```
//!
//! A container of a bundle is held once it is made, until somebody orders its start.
//!
//! One thread waits here for whatever comes first: the agent, the VM, a signal, the end of the
//! output. Nothing polls. The session is any stream, so an agent's double can be at its other end.

mod course;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::message::{Adoption, ExitStatus, ProcessId};
use proto::network::Network;
use proto::spec::{Container, Process};
use proto::stream::Stream;

use self::course::Course;
use crate::dial::DialError;
use crate::host::{self, HostError};
use crate::network::{Followed, NetworkError};
use crate::orders::Orders;
use crate::relay::Front;
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::state::StateError;
use crate::state::record::Status;
use crate::timeline::Timeline;
use crate::visit::VisitError;
use crate::vm::{Vm, VmEnded};

/// What is wished for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A container with its first process.
    Container(Box<Container>),
    /// A process more in a container.
    Exec(Box<Process>),
}

/// A process and those who have to do with it.
pub(crate) struct Attendance<'a> {
    /// What it is called.
    pub(crate) process: ProcessId,
    /// The agent.
    pub(crate) session: Session,
    /// The VM, if we are its owner.
    pub(crate) vm: Option<&'a mut Vm>,
    /// What the guest has of the host's, if it is ours to adopt first.
    pub(crate) adopt: Option<Belongings>,
    /// Signals for the process.
    pub(crate) signals: &'a Signals,
    /// Where its output goes.
    pub(crate) front: Front,
    /// It waits to be told to start, and may be told more later.
    pub(crate) held: Option<Held<'a>>,
    /// What is followed of its VM's network.
    pub(crate) network: Option<Followed<'a>>,
    /// Where the time went.
    pub(crate) timeline: &'a Timeline,
}

/// What a guest is told that it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Belongings {
    /// The sectors of its disks.
    pub(crate) disk_sectors: Vec<u64>,
    /// Its network.
    pub(crate) network: Network,
}

impl Belongings {
    /// What makes a guest that has them ours, now.
    pub(crate) fn adoption(self) -> Result<Adoption, HostError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Adoption {
            seed: host::random()?,
            wall_clock_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            disk_sectors: self.disk_sectors,
            network: self.network,
        })
    }
}

/// Those who give orders about a container, and those who hear how far it is.
pub(crate) struct Held<'a> {
    /// Where orders come in.
    pub(crate) orders: &'a Orders,
    /// Hangs up when nobody waits any more for the container to be created.
    pub(crate) caller: Option<OwnedFd>,
    /// Hears of each state before whoever ordered it does.
    pub(crate) reached: Box<dyn FnMut(Reached) -> Result<(), AttendError> + 'a>,
}

/// What is written down of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// How far it is.
    Status(Status),
    /// The interfaces that its VM has of its network namespace now.
    Interfaces(Vec<String>),
}

/// Why a process was not seen to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttendError {
    /// The session broke, or the agent refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A stream could not be connected.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A stream's thread could not be started.
    #[error("standard streams")]
    Relay(#[source] io::Error),
    /// The kernel would not let us wait.
    #[error("waiting for the guest")]
    Watch(#[source] io::Error),
    /// The guest's agent did not come up.
    #[error("the guest was not ready after {} seconds", after.as_secs())]
    NotReady {
        /// How long it had.
        after: Duration,
    },
    /// There are no random bytes to adopt the guest with.
    #[error(transparent)]
    Host(#[from] HostError),
    /// How far it is could not be written down.
    #[error(transparent)]
    State(#[from] StateError),
    /// What has become of its network cannot be the guest's.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The VM's process does not hear.
    #[error("network of the VM")]
    Plug(#[source] io::Error),
    /// Whoever asked for it is gone, and nobody else knows of it.
    #[error("whoever asked for the container is gone")]
    Unwanted,
    /// The VM ended first.
    #[error(transparent)]
    Vm(#[from] VmEnded),
    /// We were asked to end before there was a process to pass the signal to.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal.
        signal: i32,
    },
}

impl AttendError {
    /// Why something that was asked of its guest meanwhile was not done.
    pub(crate) fn of_visit(error: VisitError) -> Self {
        match error {
            VisitError::Session { source, .. } => source.into(),
            VisitError::Dial { source, .. } => source.into(),
            VisitError::State(source) => source.into(),
            VisitError::Attend { source, .. } => source,
            VisitError::Supervisor { source, .. } => Self::Watch(source),
            VisitError::NotRunning { .. } | VisitError::Deaf { .. } => Self::Unwanted,
        }
    }
}

impl Attendance<'_> {
    /// Gets `wish` done and gives back how the process ended, after everything it wrote has arrived.
    ///
    /// `connect` connects the streams of a process, once the guest can be reached; `started` hears
    /// that the process runs.
    pub(crate) fn see_through<C, S>(
        self,
        wish: Wish,
        connect: C,
        started: S,
    ) -> Result<ExitStatus, AttendError>
    where
        C: FnOnce(&[Stream]) -> Result<Vec<(Stream, UnixStream)>, DialError>,
        S: FnOnce(),
    {
        let process = match &wish {
            Wish::Container(container) => &container.process,
            Wish::Exec(process) => process,
        };
        Course::new(self, process, connect, started).run(wish)
    }
}

#[cfg(test)]
mod tests;
