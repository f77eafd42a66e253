//! A container's VM from plan to end: each state owns what is alive in it.
//!
//! ```text
//!   Planned ──claim──► Claimed ──boot──► Running ──attend──► gone, or kept as a record
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use image::Digest;
use proto::message::{ExitStatus, ProcessId};
use proto::network::Network;
use proto::spec::Mount;
use proto::stream::{Attach, Stream};
use vmm::spec::Limits;

use crate::attend::{AttendError, Attendance, Belongings, Held, Reached, Wish};
use crate::dial::{self, DialError};
use crate::exit::Failure;
use crate::network::{self, Trace, Wiring};
use crate::orders::Orders;
use crate::plan::{self, Plan};
use crate::platform::Platform;
use crate::relay::Front;
use crate::session::{Session, SessionError};
use crate::shares::{self, Share, ShareError};
use crate::signals::Signals;
use crate::state::record::{self, Oci, Outcome, Record};
use crate::state::{Claim, Dir, Root, StateError};
use crate::storage::{self, StorageError};
use crate::template::Template;
use crate::timeline::Timeline;
use crate::undo::Undo;
use crate::vm::{self, Beginning, Parts, StartError, Vm};
use crate::wishes::Wishes;

/// A container that is decided, with everything it needs opened; nothing is made yet.
pub(crate) struct Planned {
    /// What was decided.
    pub(crate) plan: Plan,
    /// What its root is made from, in the caller's words.
    pub(crate) image: String,
    /// What every VM is made from.
    pub(crate) platform: Platform,
    /// What its VM goes on from, if it does not boot.
    pub(crate) template: Option<Template>,
    /// The root's disk, unless it is lent.
    pub(crate) disk: Option<Disk>,
    /// The disk it writes to, unless that is its memory.
    pub(crate) storage: Option<Storage>,
    /// What is written about it, if it has ended once and starts again with the directory, the name and the
    /// disk that it had.
    pub(crate) again: Option<Record>,
    /// In what words it was asked for, for the next time that it starts.
    pub(crate) wishes: Option<Wishes>,
    /// What the guest is lent of the host's files.
    pub(crate) shares: Vec<Share>,
    /// Keep nothing when it has ended.
    pub(crate) remove: bool,
    /// Nobody sits in front of it: its output goes to its log.
    pub(crate) detached: bool,
    /// Show the guest's serial port.
    pub(crate) debug: bool,
    /// What is known of its bundle, if it has one.
    pub(crate) oci: Option<Oci>,
}

/// The disk of an image, which nobody removes while it is written down here.
pub(crate) struct Disk {
    /// Opened for reading.
    pub(crate) file: File,
    /// The image's id.
    pub(crate) image: Digest,
}

/// A container's disk, to be made or opened once the container is ours.
pub(crate) struct Storage {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its size, if it is to be made.
    pub(crate) bytes: u64,
    /// How fast it may be.
    pub(crate) limits: Limits,
}

/// A container that has its directory. Dropping it removes all trace of the container.
pub(crate) struct Claimed {
    traces: Undo,
    record: Record,
    planned: Planned,
    wiring: Wiring,
    // Last, because it is the lock that says it is alive.
    claim: Claim,
}

/// A container whose VM runs. Dropping it ends the VM and removes all trace of the container.
pub(crate) struct Running {
    // Dropped in this order: the VM, its traces, and last the lock that says it is alive.
    session: Session,
    vm: Vm,
    files: Option<shares::Server>,
    held: network::Held,
    traces: Undo,
    record: Record,
    plan: Plan,
    network: Network,
    claim: Claim,
}

/// Those who have to do with a container that is held once it is created.
struct Awaited<'a> {
    orders: &'a Orders,
    caller: OwnedFd,
    created: Box<dyn FnOnce() -> bool + 'a>,
}

/// Why a container's VM was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
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
    /// The server of the host's files.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The disk it writes to.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its process.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first words to its agent.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Planned {
    /// Makes the container's directory.
    pub(crate) fn claim(self, root: &Root) -> Result<Claimed, StateError> {
        let Plan { id, name, container, .. } = &self.plan;
        let image = self.image.clone();
        let mut record = Record::new(id.clone(), name.clone(), image, container.process.clone());
        record.remove = self.remove;
        record.detached = self.detached;
        record.stop_signal = self.plan.stop_signal;
        record.oci = self.oci.clone();
        let names = |only_own: bool| {
            let volumes = self.plan.volumes.iter();
            let meant = volumes.filter(move |volume| volume.anonymous || !only_own);
            meant.map(|volume| volume.name.clone()).collect()
        };
        (record.volumes, record.own_volumes) = (names(false), names(true));
        record.image_id = self.disk.as_ref().map(|disk| disk.image.to_string());
        record.wishes.clone_from(&self.wishes);
        if !self.remove {
            record.storage = self.storage.as_ref().map(|storage| storage.path.clone());
        }
        let mut traces = Undo::default();
        let claim = match &self.again {
            Some(before) => {
                record.created.clone_from(&before.created);
                let claim = root.reclaim(&record)?;
                traces.push(claim.give_back(before.clone())?);
                claim
            }
            None => {
                let claim = root.claim(&record)?;
                let (root, name) = (root.clone(), name.clone());
                traces.push(move || {
                    let _ = root.withdraw(&name);
                });
                claim
            }
        };
        Ok(Claimed { traces, record, planned: self, wiring: Wiring::default(), claim })
    }
}

impl Storage {
    /// The disk of `planned`, which is ours by now: the one it had, or a new one.
    fn provide(self, planned: &Planned, traces: &mut Undo) -> Result<File, StorageError> {
        let Self { path, bytes, .. } = self;
        if planned.again.is_some() {
            return storage::open(&path);
        }
        let disk = storage::create(&path, bytes)?;
        if planned.remove {
            // Nobody will ask for it again: so it goes with its VM, whoever is killed.
            storage::remove(&path)?;
        } else {
            traces.push(move || {
                let _ = storage::remove(&path);
            });
        }
        Ok(disk)
    }
}

impl Claimed {
    /// What is written about it.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> io::Result<Dir> {
        self.claim.dir.another()
    }

    /// The memory its VM will have.
    pub(crate) fn ram_bytes(&self) -> u64 {
        self.planned.plan.ram_bytes
    }

    /// The virtual CPUs it will have.
    pub(crate) fn vcpus(&self) -> u8 {
        self.planned.plan.vcpus
    }

    /// Says what hooks in the guest hear of its state.
    pub(crate) fn tell_start_hooks(&mut self, state: &str) {
        for hook in &mut self.planned.plan.container.start_hooks {
            state.clone_into(&mut hook.state);
        }
    }

    /// Remembers how to take back something that was made for it.
    pub(crate) fn undo(&mut self, step: impl FnOnce() + Send + 'static) {
        self.traces.push(step);
    }

    /// Where its directory is.
    pub(crate) fn place(&self) -> &Path {
        self.claim.dir.path()
    }

    /// Adds files that its container finds, but where somebody has brought others.
    pub(crate) fn add_files(&mut self, files: Vec<Mount>) {
        let container = &mut self.planned.plan.container;
        plan::add_files(&mut container.mounts, files, container.readonly);
    }

    /// Puts its VM on a network. If that is in a namespace that others keep, it is written down that something
    /// may be left there.
    pub(crate) fn connect(&mut self, wiring: Wiring, namespace: Option<&Path>) {
        if let (Some(oci), Some(namespace)) = (&mut self.record.oci, namespace) {
            oci.network = Some(Trace::of(&wiring, namespace));
        }
        self.wiring = wiring;
    }

    /// Starts its VM.
    pub(crate) fn boot(self, timeline: &Timeline) -> Result<Running, BootError> {
        let Self { mut traces, record, mut planned, wiring, claim } = self;
        let Wiring { cards, network, held } = wiring;
        let storage = match planned.storage.take() {
            Some(storage) => {
                let limits = storage.limits;
                let file = storage.provide(&planned, &mut traces)?;
                Some(vm::Storage { file, limits })
            }
            None => None,
        };
        let listener = UnixListener::bind(claim.dir.socket_path()).map_err(|source| {
            BootError::Socket { path: claim.dir.path().join("vsock.sock"), source }
        })?;
        // Said before there is a VM, the greeting is the first thing its agent finds.
        let (ours, agent) = UnixStream::pair().map_err(StartError::Process)?;
        let session = Session::greet(ours)?;
        timeline.mark("state made");
        let (files, socket) = match planned.shares.as_slice() {
            [] => (None, None),
            shares => {
                let (server, socket) = shares::Server::start(shares)?;
                timeline.mark("file server ready");
                (Some(server), Some(socket))
            }
        };
        for mount in &mut planned.plan.container.mounts {
            let share =
                planned.shares.iter().find(|share| mount.share.as_ref() == Some(&share.name));
            mount.submounts = share.map(|share| share.submounts.clone()).unwrap_or_default();
        }
        let vm = Vm::start(Parts {
            platform: planned.platform,
            beginning: planned.template.map_or(Beginning::Boot, Beginning::Restore),
            disk: planned.disk.map(|disk| disk.file),
            storage,
            files: socket,
            cards,
            listener,
            agent,
            vcpus: planned.plan.vcpus,
            ram_bytes: planned.plan.ram_bytes,
            debug: planned.debug,
            labels: planned.plan.labels.clone(),
        })?;
        timeline.mark("vmm started");
        let plan = planned.plan;
        Ok(Running { session, vm, files, held, traces, record, plan, network, claim })
    }
}

impl Running {
    /// Where its output goes.
    pub(crate) fn front(&self, interactive: bool) -> Result<Front, BootError> {
        if !self.record.detached {
            return Ok(Front::Caller { interactive, preserved: Vec::new() });
        }
        let path = self.claim.dir.log_path();
        let open = File::options().create(true).append(true).open(&path);
        Ok(Front::Log(open.map_err(|source| BootError::Log { path, source })?))
    }

    /// Looks after the container until it has ended, and after what is left of it.
    pub(crate) fn attend(
        self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        started: impl FnOnce(),
    ) -> Result<ExitStatus, AttendError> {
        self.see_through(front, signals, timeline, None, started)
    }

    /// As [`Self::attend`], but the container is held once it is created, and others say how it goes on.
    /// What is left of it stays, for whoever deletes it.
    ///
    /// `caller` hangs up when nobody waits for the creation any more, and `created` says whether somebody
    /// has heard of it: a container that nobody knows of is ended, and nothing of it stays.
    pub(crate) fn attend_held(
        self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        caller: OwnedFd,
        created: impl FnOnce() -> bool,
    ) -> Result<ExitStatus, AttendError> {
        let orders = Orders::listen(&self.claim.dir).map_err(|source| {
            let path = self.claim.dir.path().join("orders.sock");
            AttendError::State(StateError::Io { path, source })
        })?;
        let awaited = Awaited { orders: &orders, caller, created: Box::new(created) };
        self.see_through(front, signals, timeline, Some(awaited), || ())
    }

    fn see_through(
        mut self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        awaited: Option<Awaited<'_>>,
        started: impl FnOnce(),
    ) -> Result<ExitStatus, AttendError> {
        let process = ProcessId { container: self.plan.name.to_string(), exec: None };
        let mut worth_keeping = false;
        let (dir, record, keep_it) = (&self.claim.dir, &mut self.record, &mut worth_keeping);
        let network = self.held.followed(self.vm.has_free_slots());
        let held = awaited.map(|Awaited { orders, caller, created }| {
            let mut created = Some(created);
            let reached = move |reached| {
                if let Some(oci) = &mut record.oci {
                    match (reached, &mut oci.network) {
                        (Reached::Status(status), _) => oci.status = status,
                        (Reached::Interfaces(names), Some(trace)) => trace.interfaces = names,
                        // In a namespace that goes with its VM nothing is left.
                        (Reached::Interfaces(_), None) => return Ok(()),
                    }
                }
                dir.write(record)?;
                if created.take().is_some_and(|created| !created()) {
                    return Err(AttendError::Unwanted);
                }
                *keep_it = true;
                Ok(())
            };
            Held { orders, caller: Some(caller), reached: Box::new(reached) }
        });
        let mut has_started = false;
        let end = Attendance {
            process: process.clone(),
            session: self.session,
            adopt: Some(Belongings {
                disk_sectors: self.vm.disk_sectors().to_vec(),
                network: self.network,
            }),
            vm: Some(&mut self.vm),
            signals,
            front,
            held,
            network,
            timeline,
        }
        .see_through(
            Wish::Container(Box::new(self.plan.container)),
            |streams| connect(&dir.socket_path(), &process, streams),
            || {
                has_started = true;
                started();
            },
        );
        if let Err(error) = &end {
            self.vm.doubt_template(error);
        }
        drop(self.vm);
        drop(self.files);
        drop(self.held);
        timeline.mark("vm gone");
        let outcome = outcome(&end);
        self.claim.leave(outcome.exit_code);
        let wanted = (has_started || worth_keeping) && !self.record.remove;
        if wanted && keep(&self.claim.dir, self.record, outcome).is_ok() {
            self.traces.keep();
        }
        end
    }
}

/// Connects `streams` of `process` through its VM's socket, all on their way before the first is waited for.
pub(crate) fn connect(
    socket: &Path,
    process: &ProcessId,
    streams: &[Stream],
) -> Result<Vec<(Stream, UnixStream)>, DialError> {
    let mut dialled = Vec::with_capacity(streams.len());
    for &stream in streams {
        let attach = Attach { version: proto::VERSION, process: process.clone(), stream };
        dialled.push((stream, dial::dial(socket, proto::STDIO_PORT, &dial::attach(&attach))?));
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

/// Writes down how a container ended, and takes its sockets away.
fn keep(dir: &Dir, mut record: Record, outcome: Outcome) -> Result<(), StateError> {
    record.outcome = Some(outcome);
    dir.write(&record)?;
    dir.remove_sockets()
}
