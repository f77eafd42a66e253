//! `run`: from wishes to an exit code. The one road for the foreground and the background.

use std::fs::File;
use std::io;

use crate::attend::AttendError;
use crate::host::{self, HostError};
use crate::kvm::KvmError;
use crate::network::NetworkError;
use crate::network::own::{self, Registry};
use crate::plan::{self, PlanError};
use crate::platform::{self, Platform, PlatformError};
use crate::sandbox::{BootError, Disk, Planned};
use crate::settings::Settings;
use crate::shares::{Share, ShareError};
use crate::signals::Signals;
use crate::state::record::Id;
use crate::state::{Root, StateError};
use crate::template::{self, TemplateError};
use crate::terminal::{self, Raw};
use crate::timeline::Timeline;
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
    /// A directory or file of the host.
    #[error("share")]
    Share(#[from] ShareError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The machine's facts.
    #[error(transparent)]
    Host(#[from] HostError),
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

/// Runs a container and gives back its exit code. `started` hears its id when it runs.
pub(crate) fn run(
    settings: &Settings,
    wishes: &Wishes,
    timeline: &Timeline,
    started: impl FnOnce(&Id),
) -> Result<u8, RunError> {
    let (image, _) = plan::source_and_command(wishes)?;
    let host = host::facts(&wishes.process.env)?;
    let (config, disk) = match &wishes.rootfs {
        Some(_) => (image::Config::default(), None),
        None => {
            let found = image::Store::open(&settings.store)?.find(image)?;
            let (ours, theirs) = (image::Platform::here(), found.platform);
            if !ours.takes(&theirs) {
                let (theirs, ours) = (theirs.to_string(), ours.to_string());
                return Err(RunError::Foreign { image: image.to_owned(), theirs, ours });
            }
            (found.config, Some((found.disk, found.id)))
        }
    };
    timeline.mark("image found");
    let plan = plan::container(&config, wishes, &host)?;
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
    let shares = plan.shares.iter().map(Share::open).collect::<Result<_, _>>()?;
    timeline.mark("root opened");
    // From here on a signal is an end to be reported and not to be suffered: there will be traces.
    let signals = Signals::catch().map_err(RunError::Signals)?;
    let (id, name, newcomer) = (plan.id.clone(), plan.name.to_string(), plan.network.clone());
    let planned = Planned {
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
    if let Some(newcomer) = &newcomer {
        let (wiring, files) = own::join(Registry::of_this_machine(), newcomer)?;
        claimed.connect(wiring, None);
        claimed.add_mounts(files);
        timeline.mark("network ready");
    }
    let running = claimed.boot(timeline)?;
    let front = running.front(wishes.process.interactive)?;
    let _raw = raw_terminal(wishes)?;
    let end = running.attend(front, &signals, timeline, || started(&id));
    match end {
        Ok(status) => Ok(status.shell_code()),
        Err(source) => {
            platform::doubt(&source, &root)?;
            Err(RunError::Attend { name, source })
        }
    }
}

/// A person at a terminal who talks to one inside does not talk to ours.
fn raw_terminal(wishes: &Wishes) -> Result<Option<Raw>, RunError> {
    let talks = wishes.process.tty && wishes.process.interactive && !wishes.detach;
    if talks && terminal::on_stdin() {
        return Ok(Some(Raw::enter().map_err(RunError::Terminal)?));
    }
    Ok(None)
}
