//! Plays the beginning of a container once in a template's VM, to learn which pages every beginning writes to.
//!
//! What is played is nobody's: a disk with an empty file, which is its program. So the list says nothing about anybody's
//! container, and nobody's container can make it longer.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::message::{Adoption, FaultKind, ProcessId, Request};
use proto::network::Network;
use proto::spec::Container;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use vmm::spec::Ending;

use super::build::{LAST_WORD, PATIENCE, listen, wait};
use super::key::Key;
use super::{BuildError, Template};
use crate::dial;
use crate::host::{self, HostError};
use crate::labels::Labels;
use crate::plan::{self, PlanError};
use crate::platform::Platform;
use crate::sandbox::connect;
use crate::session::{Session, SessionError};
use crate::timeline::Timeline;
use crate::vm::{Beginning, Parts, StartError, Vm, VmEnded, read_only};
use crate::wishes::Wishes;

/// A file that can be executed but for its being empty: what is behind a program's start is its own affair.
const PROGRAM: &str = "/program";

/// What the container is called in its guest.
const NAME: &str = "rehearsal";

/// Why nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub(super) enum RehearsalError {
    /// A file for it.
    #[error("files for a rehearsal")]
    Io(#[from] io::Error),
    /// The disk.
    #[error("disk for a rehearsal")]
    Disk(#[from] image::PackError),
    /// What this machine is.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The container.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The VM was not started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its agent does not do its part.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Its agent does not take the streams.
    #[error(transparent)]
    Dial(#[from] dial::DialError),
    /// The VM did not say what was written.
    #[error(transparent)]
    NotRecorded(VmEnded),
    /// It does not end.
    #[error(transparent)]
    Wait(#[from] BuildError),
}

/// Writes what a container's beginning writes to into `record`; other files are in `directory` for a moment.
pub(super) fn rehearse(
    key: &Key,
    platform: &Platform,
    template: Template,
    record: File,
    directory: &Path,
) -> Result<(), RehearsalError> {
    let wishes = Wishes {
        image_and_command: [NAME, PROGRAM].map(str::to_owned).into(),
        network: Some("none".to_owned()),
        ..Wishes::default()
    };
    let plan = plan::container(&image::Config::default(), &wishes, &host::facts(&[])?)?;
    let (listener, socket) = listen(directory)?;
    let (ours, agent) = UnixStream::pair()?;
    let mut session = Session::greet(ours)?;
    let mut vm = Vm::start(Parts {
        platform: platform.try_clone()?,
        beginning: Beginning::Rehearsal { template, record },
        disk: Some(disk(directory)?),
        storage: None,
        files: None,
        cards: vec![],
        listener,
        agent,
        vcpus: key.vcpus,
        ram_bytes: key.ram_bytes,
        debug: false,
        labels: Labels::default(),
    })?;
    let end = |vm: &mut Vm, deadline| {
        wait(&[PollFd::new(&vm.end(), PollFlags::IN)], deadline)?;
        vm.take_reports(&Timeline::new(false));
        Ok::<_, BuildError>(vm.ended())
    };
    if let Err(error) = play(&mut session, &vm, plan.container, &socket.path()) {
        // If the VM has ended too, its reason is the better one.
        let ended = end(&mut vm, Instant::now() + LAST_WORD);
        return Err(ended.map_or(error, RehearsalError::NotRecorded));
    }
    vm.record()?;
    match end(&mut vm, Instant::now() + PATIENCE)? {
        VmEnded { ending: Some(Ending::Recorded), .. } => Ok(()),
        ended => Err(RehearsalError::NotRecorded(ended)),
    }
}

/// All of a container's beginning but its program.
fn play(
    session: &mut Session,
    vm: &Vm,
    container: Container,
    socket: &Path,
) -> Result<(), RehearsalError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    session.ask(Request::Adopt(Adoption {
        seed: host::random()?,
        wall_clock_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        disk_sectors: vm.disk_sectors().to_vec(),
        network: Network::default(),
    }))?;
    let process = ProcessId { container: NAME.to_owned(), exec: None };
    let (name, streams) = (NAME.to_owned(), container.process.streams());
    let spec = Box::new(container);
    let created = session.call(Request::Create { container: name.clone(), spec })?;
    let _streams = connect(socket, &process, &streams)?;
    session.answer_to(created)?;
    match session.ask(Request::Start { container: name }) {
        Err(SessionError::Refused(fault)) if fault.kind == FaultKind::ProgramNotExecutable => {
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(reply) => Err(SessionError::WrongReply { reply }.into()),
    }
}

/// A disk of a root with the program and nothing else.
fn disk(scratch: &Path) -> Result<File, RehearsalError> {
    let root = scratch.join("root");
    DirBuilder::new().mode(0o755).create(&root)?;
    let program = root.join(PROGRAM.trim_start_matches('/'));
    File::options().create_new(true).write(true).mode(0o755).open(program)?;
    let disk = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    image::pack_directory(&root, &disk, scratch, &image::Limits::default())?;
    fs::remove_dir_all(&root)?;
    Ok(read_only(&disk)?)
}
