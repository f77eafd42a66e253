//! A container's VM from plan to end: each state owns what is alive in it.
//!
//! ```text
//!   Planned ──boot──► Running ──attend──► gone, or kept as a record
//! ```

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use proto::message::{ExitStatus, ProcessId};
use proto::stream::{Attach, Stream};

use crate::attend::{AttendError, Attendance, Wish};
use crate::dial::{self, DialError};
use crate::exit::Failure;
use crate::plan::Plan;
use crate::relay::Front;
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::state::record::{self, Outcome, Record};
use crate::state::{Claim, Dir, Root, StateError};
use crate::timeline::Timeline;
use crate::undo::Undo;
use crate::vm::{Parts, StartError, Vm};

/// A container that is decided, with everything it needs opened; nothing is made yet.
pub(crate) struct Planned {
    /// What was decided.
    pub(crate) plan: Plan,
    /// What its root is made from, in the caller's words.
    pub(crate) image: String,
    /// `/dev/kvm`.
    pub(crate) kvm: File,
    /// The guest's kernel.
    pub(crate) kernel: File,
    /// The guest's initramfs.
    pub(crate) initramfs: File,
    /// The root's disk.
    pub(crate) disk: File,
    /// Keep nothing when it has ended.
    pub(crate) remove: bool,
    /// Nobody sits in front of it: its output goes to its log.
    pub(crate) detached: bool,
    /// Show the guest's serial port.
    pub(crate) debug: bool,
}

/// A container whose VM runs. Dropping it ends the VM and removes all trace of the container.
pub(crate) struct Running {
    // Dropped in this order: the VM, its traces, and last the lock that says it is alive.
    session: Session,
    vm: Vm,
    traces: Undo,
    record: Record,
    plan: Plan,
    claim: Claim,
}

/// Why a container's VM was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// Its state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its socket.
    #[error("socket {}", path.display())]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// Its log.
    #[error("log {}", path.display())]
    Log {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// Its process.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first words to its agent.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Planned {
    /// Makes the container's directory and starts its VM.
    pub(crate) fn boot(self, root: &Root, timeline: &Timeline) -> Result<Running, BootError> {
        let Plan { id, name, container, .. } = &self.plan;
        let mut record =
            Record::new(id.clone(), name.clone(), self.image, container.process.clone());
        record.remove = self.remove;
        record.detached = self.detached;
        record.stop_signal = self.plan.stop_signal;
        let claim = root.claim(&record)?;
        let mut traces = Undo::default();
        let path = claim.dir.path().to_owned();
        traces.push(move || {
            let _ = crate::state::remove_dir(&path);
        });
        let listener = UnixListener::bind(claim.dir.socket_path()).map_err(|source| {
            BootError::Socket { path: claim.dir.path().join("vsock.sock"), source }
        })?;
        // Said before there is a VM, the greeting is the first thing its agent finds.
        let (ours, agent) = UnixStream::pair().map_err(StartError::Process)?;
        let session = Session::greet(ours)?;
        timeline.mark("state made");
        let vm = Vm::start(Parts {
            kvm: self.kvm,
            kernel: self.kernel,
            initramfs: self.initramfs,
            disk: self.disk,
            listener,
            agent,
            vcpus: self.plan.vcpus,
            ram_bytes: self.plan.ram_bytes,
            debug: self.debug,
        })?;
        timeline.mark("vmm started");
        Ok(Running { session, vm, traces, record, plan: self.plan, claim })
    }
}

impl Running {
    /// Where its output goes.
    pub(crate) fn front(&self, interactive: bool) -> Result<Front, BootError> {
        if !self.record.detached {
            return Ok(Front::Caller { interactive });
        }
        let path = self.claim.dir.log_path();
        let open = File::options().create(true).append(true).open(&path);
        Ok(Front::Log(open.map_err(|source| BootError::Log { path, source })?))
    }

    /// Looks after the container until it has ended, and after what is left of it.
    pub(crate) fn attend(
        mut self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        started: impl FnOnce(),
    ) -> Result<ExitStatus, AttendError> {
        let process = ProcessId { container: self.plan.name.to_string(), exec: None };
        let mut has_started = false;
        let end = Attendance {
            process: process.clone(),
            session: self.session,
            vm: Some(&mut self.vm),
            signals,
            front,
            timeline,
        }
        .see_through(
            Wish::Container(Box::new(self.plan.container)),
            |streams| connect(&self.claim.dir, &process, streams),
            || {
                has_started = true;
                started();
            },
        );
        drop(self.vm);
        timeline.mark("vm gone");
        let outcome = outcome(&end);
        self.claim.leave(outcome.exit_code);
        let wanted = has_started && !self.record.remove;
        if wanted && keep(&self.claim.dir, self.record, outcome).is_ok() {
            self.traces.keep();
        }
        end
    }
}

/// Connects `streams` of `process`, all on their way before the first is waited for.
pub(crate) fn connect(
    dir: &Dir,
    process: &ProcessId,
    streams: &[Stream],
) -> Result<Vec<(Stream, UnixStream)>, DialError> {
    let mut dialled = Vec::with_capacity(streams.len());
    for &stream in streams {
        let attach = Attach { version: proto::VERSION, process: process.clone(), stream };
        dialled.push((stream, dial::dial(dir, proto::STDIO_PORT, &dial::attach(&attach))?));
    }
    dialled.into_iter().map(|(stream, dialling)| Ok((stream, dialling.connected()?))).collect()
}

fn outcome(end: &Result<ExitStatus, AttendError>) -> Outcome {
    let (exit_code, error) = match end {
        Ok(status) => (status.shell_code(), None),
        Err(error) => {
            let failure = Failure::of(error);
            (failure.code, Some(failure.message))
        }
    };
    Outcome { exit_code, finished: record::now(), error }
}

/// Writes down how a container ended, and takes its VM's socket away.
fn keep(dir: &Dir, mut record: Record, outcome: Outcome) -> Result<(), StateError> {
    record.outcome = Some(outcome);
    dir.write(&record)?;
    dir.remove_socket()
}
