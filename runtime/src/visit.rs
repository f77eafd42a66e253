//! Coming to a running container from outside: its supervisor is another process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::files::Work;
use proto::message::{ExitStatus, ProcessId, Reply, Request};
use proto::spec::Process;
use proto::stream::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::pidfd_send_signal;

use crate::attend::{AttendError, Attendance, Wish};
use crate::dial::{self, DialError, Dialling};
use crate::relay::Front;
use crate::sandbox::connect;
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::state::record::{Record, Status};
use crate::state::{Dir, Entry, StateError};
use crate::timeline::Timeline;

/// How long the guest may take to let go of a killed container before its VM is ended with it.
const KILLED: Duration = Duration::from_secs(5);

/// And how long, if it has a disk that what it wrote last has to be written to.
const WRITTEN_BACK: Duration = Duration::from_secs(120);

/// A container whose supervisor was alive when it was looked at.
#[derive(Debug)]
pub(crate) struct Visited {
    dir: Dir,
    /// What is written about it.
    pub(crate) record: Record,
    /// Whether a paused one is waited for, until it goes on.
    waits: bool,
}

/// Why a running container could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    /// It is not running.
    #[error("container {name} is not running")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// It is not at a point where its guest could hear anything.
    #[error("container {name} is {status}")]
    Deaf {
        /// Its name.
        name: String,
        /// How far it is.
        status: Status,
    },
    /// Its record is not believed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its guest cannot be reached.
    #[error("container {name}")]
    Dial {
        /// Its name.
        name: String,
        /// Why not.
        source: DialError,
    },
    /// Its guest's agent does not do it.
    #[error("container {name}")]
    Session {
        /// Its name.
        name: String,
        /// Why not.
        source: SessionError,
    },
    /// A process in it was not seen to its end.
    #[error("container {name}")]
    Attend {
        /// Its name.
        name: String,
        /// Why not.
        source: AttendError,
    },
    /// Its supervisor cannot be waited for or ended.
    #[error("supervisor of container {name}")]
    Supervisor {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// A process in the guest that carries files. It ends when this is dropped.
pub(crate) struct Carrier {
    /// What it says.
    pub(crate) output: UnixStream,
    /// What it hears, if it is to hear something.
    pub(crate) input: Option<UnixStream>,
    // With it the agent forgets the process.
    _session: Session,
}

impl Visited {
    /// The container in `entry`, if it is running.
    pub(crate) fn new(entry: Entry) -> Result<Self, VisitError> {
        if !entry.alive {
            return Err(VisitError::NotRunning { name: entry.dir.name().to_string() });
        }
        Ok(Self { record: entry.record?, dir: entry.dir, waits: false })
    }

    /// A container of which all is known already.
    pub(crate) fn of(dir: Dir, record: Record) -> Self {
        Self { dir, record, waits: false }
    }

    /// The same, to be waited for while it is paused if `waits`.
    pub(crate) fn waiting(self, waits: bool) -> Self {
        Self { waits, ..self }
    }

    /// Runs a process more in it, with what `front` has, and gives back its exit code.
    pub(crate) fn exec(
        self,
        process: Process,
        exec: &str,
        front: Front,
        signals: &Signals,
        started: impl FnOnce(),
    ) -> Result<u8, VisitError> {
        let name = self.name();
        let id = ProcessId { container: name.clone(), exec: Some(exec.to_owned()) };
        let attendance = Attendance {
            process: id.clone(),
            session: self.session()?,
            vm: None,
            adopt: None,
            signals,
            front,
            held: None,
            network: None,
            timeline: &Timeline::new(false),
        };
        let wish = Wish::Exec(Box::new(process));
        match attendance.see_through(
            wish,
            |streams| connect(&self.dir.socket_path(), &id, streams),
            started,
        ) {
            Ok(status) => Ok(status.shell_code()),
            // The container has ended and its VM with it: that was a kill for everything in there.
            Err(AttendError::Session(SessionError::HungUp)) if self.is_gone_soon()? => {
                Ok(ExitStatus::Signal(Signal::SIGKILL as u8).shell_code())
            }
            Err(source) => Err(VisitError::Attend { name, source }),
        }
    }

    /// Sends a signal to its first process, or to all.
    pub(crate) fn signal(&self, signal: i32, all: bool) -> Result<(), VisitError> {
        let process = ProcessId { container: self.name(), exec: None };
        self.ask(Request::Signal { process, signal, all }).map(drop)
    }

    /// Asks its guest's agent for something.
    pub(crate) fn ask(&self, request: Request) -> Result<Reply, VisitError> {
        let answer = self.session()?.ask(request);
        answer.map_err(|source| VisitError::Session { name: self.name(), source })
    }

    /// Has files of its carried. What comes is a stranger's, and [`proto::files`].
    pub(crate) fn carry(&self, work: Work) -> Result<Carrier, VisitError> {
        let name = self.name();
        // Unique in the container: several may be under way.
        let exec = format!("files-{}-{}", std::process::id(), crate::state::record::now());
        let process = ProcessId { container: name.clone(), exec: Some(exec) };
        let wanted: &[Stream] = match work {
            Work::Write { .. } => &[Stream::Stdout, Stream::Stdin],
            _ => &[Stream::Stdout],
        };
        let mut session = self.session()?;
        let streams = connect(&self.dir.socket_path(), &process, wanted)
            .map_err(|source| VisitError::Dial { name: name.clone(), source })?;
        let reply = session.ask(Request::Carry { process, work });
        let reply = reply.map_err(|source| VisitError::Session { name: name.clone(), source })?;
        let mut streams = streams.into_iter().map(|(_, stream)| stream);
        match (reply, streams.next()) {
            (Reply::Created { .. }, Some(output)) => {
                Ok(Carrier { output, input: streams.next(), _session: session })
            }
            (reply, _) => {
                let source = SessionError::WrongReply { reply };
                Err(VisitError::Session { name, source })
            }
        }
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Ends it: asks with its stop signal if it is given time, then kills it, then its VM.
    pub(crate) fn end(&self, grace: Option<Duration>) -> Result<(), VisitError> {
        let Some(supervisor) = self.dir.supervisor() else { return Ok(()) };
        let asked = grace.map(|grace| (self.record.stop_signal, grace));
        let killed = if self.record.storage.is_some() { WRITTEN_BACK } else { KILLED };
        let killed = (Signal::SIGKILL as i32, killed);
        for (signal, time) in asked.into_iter().chain([killed]) {
            // A guest that cannot be told anything is not waited for.
            if self.signal(signal, false).is_ok() && self.has_ended(&supervisor, Some(time))? {
                return Ok(());
            }
        }
        let kill = pidfd_send_signal(&supervisor, rustix::process::Signal::KILL);
        kill.map_err(|error| self.supervisor_error(error.into()))?;
        self.has_ended(&supervisor, None)?;
        Ok(())
    }

    /// Whether it has ended, or does so in the time that a killed one may take.
    pub(crate) fn is_gone_soon(&self) -> Result<bool, VisitError> {
        match self.dir.supervisor() {
            Some(supervisor) => self.has_ended(&supervisor, Some(KILLED)),
            // Its VM is gone, and its supervisor is about to say so.
            None => Ok(self.dir.wait().map(|_| true)?),
        }
    }

    fn has_ended(&self, supervisor: &OwnedFd, time: Option<Duration>) -> Result<bool, VisitError> {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(supervisor, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(self.supervisor_error(error.into())),
        }
    }

    fn supervisor_error(&self, source: io::Error) -> VisitError {
        VisitError::Supervisor { name: self.name(), source }
    }

    fn session(&self) -> Result<Session, VisitError> {
        let status = self.record.oci.as_ref().map(|oci| oci.status);
        let waits = self.waits && status == Some(Status::Paused);
        if let Some(status @ (Status::Creating | Status::Paused)) = status
            && !waits
        {
            return Err(VisitError::Deaf { name: self.name(), status });
        }
        let dialling = dial::dial(&self.dir.socket_path(), proto::SESSION_PORT, b"");
        let dialling = if waits { dialling.and_then(Dialling::without_haste) } else { dialling };
        let stream = dialling
            .and_then(Dialling::connected)
            .map_err(|source| VisitError::Dial { name: self.name(), source })?;
        Session::greet(stream).map_err(|source| VisitError::Session { name: self.name(), source })
    }

    fn name(&self) -> String {
        self.dir.name().to_string()
    }
}
