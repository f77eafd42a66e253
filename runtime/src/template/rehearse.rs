//! Plays the beginning of a container once in a template's VM, to learn which pages every beginning touches.
//!
//! What is played is nobody's: a disk with an empty file, which is its program. So the list says nothing about anybody's
//! container, and nobody's container can make it longer.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use proto::message::{FaultKind, ProcessId, Request};
use proto::network::Network;
use proto::spec::Container;
use rustix::fs::{MemfdFlags, memfd_create};
use vmm::spec::Ending;

use super::build::{LAST_WORD, PATIENCE, ended, listen, start};
use super::key::Key;
use super::{BuildError, Template};
use crate::attend::Belongings;
use crate::dial;
use crate::host::{self, HostError};
use crate::plan::{self, PlanError};
use crate::platform::Platform;
use crate::sandbox::connect;
use crate::session::{Session, SessionError};
use crate::vm::{Beginning, StartError, Vm, VmEnded, read_only};
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

/// Writes what a container's beginning touches into `record`; other files are in `directory` for a moment.
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
    let beginning = Beginning::Rehearsal { template, record };
    let mut vm = start(key, platform, beginning, Some(disk(directory)?), listener, agent)?;
    if let Err(error) = play(&mut session, &vm, plan.container, &socket.path()) {
        // If the VM has ended too, its reason is the better one.
        let ended = ended(&mut vm, Instant::now() + LAST_WORD);
        return Err(ended.map_or(error, RehearsalError::NotRecorded));
    }
    vm.record()?;
    match ended(&mut vm, Instant::now() + PATIENCE)? {
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
    let belongings =
        Belongings { disk_sectors: vm.disk_sectors().to_vec(), network: Network::default() };
    session.ask(Request::Adopt(belongings.adoption()?))?;
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
