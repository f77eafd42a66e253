//! `run`: from wishes to an exit code. The one road for the foreground and the background, and for those who
//! only want to see the files of a container that has ended.

use std::fs::File;
use std::io;

use crate::attend::AttendError;
use crate::exit::Failure;
use crate::host::{self, HostError};
use crate::kvm::KvmError;
use crate::network::{self, NetworkError, own};
use crate::plan::{self, Holds, Plan, PlanError, Shared};
use crate::platform::{self, Platform, PlatformError};
use crate::sandbox::{Again, BootError, Claimed, Disk, Planned, Purpose, Storage};
use crate::settings::Settings;
use crate::shares::{Share, ShareError};
use crate::signals::Signals;
use crate::state::record::{Id, Record};
use crate::state::{Root, StateError};
use crate::storage;
use crate::template::{self, TemplateError};
use crate::terminal::{self, Raw};
use crate::timeline::Timeline;
use crate::visit::Visited;
use crate::volumes::{Anonymous, Turn, VolumeError, Volumes};
use crate::wishes::Wishes;

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The image store.
    #[error(transparent)]
    Store(#[from] image::OpenStoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] image::FindError),
    /// Its programs are another machine's.
    #[error("image {image} is for {theirs}, this machine is {ours}")]
    Foreign {
        /// The image.
        image: String,
        /// What it is for.
        theirs: String,
        /// What this machine is.
        ours: String,
    },
    /// The image's disk.
    #[error("disk of image {image}")]
    Disk {
        /// The image.
        image: String,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A directory or file of the host.
    #[error("share")]
    Share(#[from] ShareError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The machine's facts.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It has ended and left no files.
    #[error(
        "container {name} has ended, and what it wrote was in its memory: with --storage size=… it would be there"
    )]
    Forgotten {
        /// The container.
        name: String,
    },
    /// The wishes.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What VMs are made from.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The machine that VMs go on from.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// KVM, which ended a VM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Signals cannot be caught.
    #[error("signals")]
    Signals(#[source] io::Error),
    /// The terminal cannot be put in raw mode.
    #[error("terminal")]
    Terminal(#[source] io::Error),
    /// The VM was not started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The container was not seen to its end.
    #[error("container {name}")]
    Attend {
        /// The container.
        name: String,
        /// Why not.
        source: AttendError,
    },
}

/// A container that only its VM is missing.
struct Ready {
    root: Root,
    claimed: Claimed,
    signals: Signals,
    name: String,
    // Taken away with what was made for it, unless it has them by then.
    _own: Option<Anonymous>,
}

/// Runs a container and gives back its exit code. `started` hears its id when it runs. With `again` it is the one
/// that this was written about, which has ended: what runs in it, and as whom, stands there.
pub(crate) fn run(
    settings: &Settings,
    wishes: &Wishes,
    again: Option<Record>,
    timeline: &Timeline,
    started: impl FnOnce(&Id),
) -> Result<u8, RunError> {
    let again = again.map(|before| Again { before, purpose: Purpose::Start });
    let ready = prepare(settings, wishes, again, timeline, Signals::catch)?;
    let id = ready.claimed.record().id.clone();
    let running = ready.claimed.boot(timeline)?;
    let front = running.front(wishes.process.interactive)?;
    let _raw = raw_terminal(wishes)?;
    match running.attend(front, &ready.signals, timeline, || started(&id)) {
        Ok(status) => Ok(status.shell_code()),
        Err(source) => {
            platform::doubt(&source, &ready.root)?;
            Err(RunError::Attend { name: ready.name, source })
        }
    }
}

/// Shows `what` the container called `name`, to have files carried. One that has ended is given a VM for that, in
/// which nothing of it runs.
pub(crate) fn visit<T>(
    settings: &Settings,
    name: &str,
    what: impl FnOnce(&Visited) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let entry = Root::open(&settings.root)?.find(name)?;
    if entry.alive || entry.record.as_ref().is_ok_and(|record| record.wishes.is_none()) {
        return what(&Visited::new(entry)?);
    }
    let before = entry.record?;
    let name = before.name.to_string();
    let wishes = match before.wishes.clone() {
        Some(wishes) if before.storage.is_some() || wishes.rootfs.is_some() => wishes,
        _ => return Err(RunError::Forgotten { name }.into()),
    };
    let wishes = Wishes { detach: true, network: Some(own::NONE.to_owned()), ..wishes };
    let timeline = Timeline::new(false);
    let again = Some(Again { before, purpose: Purpose::Visit });
    let ready = prepare(settings, &wishes, again, &timeline, Signals::left_alone)?;
    let running = ready.claimed.boot(&timeline).map_err(RunError::from)?;
    let seen = running.show(&ready.signals, &timeline, what);
    seen.map_err(|source| RunError::Attend { name, source })?
}

/// Decides on a container and claims it.
fn prepare(
    settings: &Settings,
    wishes: &Wishes,
    again: Option<Again>,
    timeline: &Timeline,
    signals: impl FnOnce() -> io::Result<Signals>,
) -> Result<Ready, RunError> {
    let before = again.as_ref().map(|again| &again.before);
    let (image, _) = plan::source_and_command(wishes)?;
    let mut host = host::facts(&wishes.process.env)?;
    if let Some(before) = before {
        host.id = before.id.clone();
    }
    let (config, disk) = match &wishes.rootfs {
        Some(_) => (image::Config::default(), None),
        None => {
            // Its name may be another's by now.
            let known = before.and_then(|before| before.image_id.as_deref());
            let found = image::Store::open(&settings.store)?.find(known.unwrap_or(image))?;
            let (ours, theirs) = (image::Platform::here(), found.platform);
            if !ours.takes(&theirs) {
                let (theirs, ours) = (theirs.to_string(), ours.to_string());
                return Err(RunError::Foreign { image: image.to_owned(), theirs, ours });
            }
            (found.config, Some((found.disk, found.id)))
        }
    };
    timeline.mark("image found");
    let mut plan = plan::container(&config, wishes, &host)?;
    if let Some(before) = before {
        plan.name = before.name.clone();
        plan.container.process = before.process.clone();
    }
    timeline.mark("planned");
    let root = Root::open(&settings.root)?;
    let platform = Platform::open(settings, &root)?;
    timeline.mark("kvm ready");
    let size = (plan.vcpus, plan.ram_bytes);
    let template = match template::ready(settings, &root, &platform, size, timeline) {
        Err(TemplateError::Guest(source)) => {
            platform::doubt(&source, &root)?;
            return Err(RunError::Attend { name: plan.name.to_string(), source });
        }
        template => template?,
    };
    let disk = disk
        .map(|(path, image)| Ok(Disk { file: File::open(path)?, image }))
        .transpose()
        .map_err(|source| RunError::Disk { image: image.to_owned(), source })?;
    // Given out and written down in one turn: nobody removes a volume in between.
    let (volumes, own) = provide(settings, &root, &plan)?;
    let shared = plan.shares.iter().chain(volumes.iter().flat_map(|(shared, _)| shared));
    let shares = shared.map(Share::open).collect::<Result<_, _>>()?;
    timeline.mark("root opened");
    // From here on a signal is an end to be reported and not to be suffered: there will be traces.
    let signals = signals().map_err(RunError::Signals)?;
    let (name, newcomer) = (plan.name.to_string(), plan.network.clone());
    let storage = plan.storage.map(|storage| Storage {
        path: before
            .and_then(|before| before.storage.clone())
            .unwrap_or_else(|| storage::path(&settings.store, &settings.root, &plan.id)),
        bytes: storage.bytes,
        limits: storage.limits,
    });
    let planned = Planned {
        storage,
        again,
        wishes: Some(wishes.clone()),
        plan,
        image: image.to_owned(),
        platform,
        template,
        disk,
        shares,
        remove: wishes.rm,
        detached: wishes.detach,
        debug: settings.debug,
        oci: None,
    };
    let mut claimed = planned.claim(&root)?;
    drop(volumes);
    if let Some(newcomer) = &newcomer {
        let (wiring, files) = network::join(newcomer, claimed.vcpus(), claimed.place())?;
        claimed.connect(wiring, None);
        claimed.add_files(files);
        timeline.mark("network ready");
    }
    Ok(Ready { root, claimed, signals, name, _own: own })
}

/// What of the volumes is shared, and the right to give it out.
type Provided = Option<(Vec<Shared>, Turn)>;

/// Makes the volumes that are not there yet. Those that nobody named go with the container, or before it
/// if it is not to be.
fn provide(
    settings: &Settings,
    root: &Root,
    plan: &Plan,
) -> Result<(Provided, Option<Anonymous>), RunError> {
    if plan.volumes.is_empty() {
        return Ok((None, None));
    }
    let volumes = Volumes::open(&settings.store)?;
    let turn = volumes.turn()?;
    let own = plan.volumes.iter().filter(|volume| volume.anonymous);
    let own = own.map(|volume| volume.name.clone()).collect();
    let own = Anonymous { volumes: volumes.clone(), root: root.clone(), names: own };
    let mut shared = Vec::new();
    for volume in &plan.volumes {
        let plan::Volume { share, name, anonymous, labels, read_only } = volume;
        volumes.provide(name, labels, *anonymous, &turn)?;
        shared.push(Shared {
            name: share.clone(),
            path: volumes.data(name),
            holds: Holds::read_only_if(*read_only),
            recursive: true,
        });
    }
    Ok((Some((shared, turn)), Some(own)))
}

/// A person at a terminal who talks to one inside does not talk to ours.
fn raw_terminal(wishes: &Wishes) -> Result<Option<Raw>, RunError> {
    let talks = wishes.process.tty && wishes.process.interactive && !wishes.detach;
    if talks && terminal::on_stdin() {
        return Ok(Some(Raw::enter().map_err(RunError::Terminal)?));
    }
    Ok(None)
}
