//! A container's VM from plan to end: each state owns what is alive in it.
//!
//! ```text
//!   Planned ──claim──► Claimed ──boot──► Running ──attend──► gone, or kept as a record
//! ```

mod running;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use image::Digest;
use proto::message::ProcessId;
use proto::spec::Mount;
use proto::stream::{Attach, Stream};
use vmm::spec::Limits;

use self::running::Running;
use crate::dial::{self, DialError};
use crate::network::{Trace, Wiring};
use crate::plan::{self, Plan};
use crate::platform::Platform;
use crate::session::{Session, SessionError};
use crate::shares::{self, Share, ShareError};
use crate::state::record::{Oci, Record};
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
    /// What it was, if it has ended once and has the directory, the name and the disk that it had.
    pub(crate) again: Option<Again>,
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

/// A container that has ended.
pub(crate) struct Again {
    /// What is written about it.
    pub(crate) before: Record,
    /// Why it has a VM again.
    pub(crate) purpose: Purpose,
}

/// Why a container that has ended has a VM again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It starts again, and ends again.
    Start,
    /// Its files are wanted. Whoever asks about it hears how it ended, then and afterwards.
    Visit,
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
    cgroup: Option<OwnedFd>,
    // Last, because it is the lock that says it is alive.
    claim: Claim,
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
            Some(Again { before, purpose }) => {
                match purpose {
                    Purpose::Start => record.created.clone_from(&before.created),
                    Purpose::Visit => record = before.of_supervisor(record.supervisor),
                }
                let claim = root.reclaim(&record)?;
                // For those who wait, should the visitor be killed.
                record.outcome.iter().for_each(|outcome| claim.leave(outcome.exit_code));
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
        let wiring = Wiring::default();
        Ok(Claimed { traces, record, planned: self, wiring, cgroup: None, claim })
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

    /// Has the processes of its VM begin in the cgroup with this directory.
    pub(crate) fn begin_in(&mut self, cgroup: OwnedFd) {
        self.cgroup = Some(cgroup);
    }

    /// Starts its VM.
    pub(crate) fn boot(self, timeline: &Timeline) -> Result<Running, BootError> {
        let Self { mut traces, record, mut planned, wiring, cgroup, claim } = self;
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
                let (server, socket) =
                    shares::Server::start(shares, cgroup.as_ref().map(AsFd::as_fd))?;
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
            cgroup,
            labels: planned.plan.labels.clone(),
        })?;
        timeline.mark("vmm started");
        let plan = planned.plan;
        Ok(Running { session, vm, files, held, traces, record, plan, network, claim })
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
