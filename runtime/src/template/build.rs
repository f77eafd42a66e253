//! Makes a template: boots a machine, waits until its agent has settled, and has it saved.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::message::Request;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::spec::Ending;

use super::key::Key;
use crate::attend::AttendError;
use crate::labels::Labels;
use crate::platform::Platform;
use crate::session::{Heard, Session, SessionError};
use crate::timeline::Timeline;
use crate::vm::{Beginning, Parts, StartError, Vm, VmEnded};

/// What booting, settling and saving may take together: as long as a guest may take to be ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Why a template was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// One of its files.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The VM was not started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The guest does not work, and would not without a template.
    #[error(transparent)]
    Guest(#[from] AttendError),
    /// The VM was not saved.
    #[error(transparent)]
    NotSaved(VmEnded),
    /// It could not be told.
    #[error("the VM's process")]
    Control(#[source] io::Error),
}

/// How long a VM may take to say why its agent hung up.
pub(super) const LAST_WORD: Duration = Duration::from_secs(5);

/// Makes the files of a template in `directory`.
pub(super) fn build(key: &Key, platform: &Platform, directory: &Path) -> Result<(), BuildError> {
    let deadline = Instant::now() + PATIENCE;
    let file = |name: &str| {
        let path = directory.join(name);
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        options.map_err(|source| BuildError::Io { path, source })
    };
    // Nobody dials a template: the socket is gone before it has a name that anyone knows.
    let (listener, _) = listen(directory)
        .map_err(|source| BuildError::Io { path: directory.join("vsock.sock"), source })?;
    let (ours, agent) = UnixStream::pair().map_err(StartError::Process)?;
    let mut session = Session::greet(ours).map_err(AttendError::Session)?;
    let settled = session.call(Request::Settle).map_err(AttendError::Session)?;
    let beginning = Beginning::ToBeSaved { state: file("state")?, memory: file("memory")? };
    let mut vm = start(key, platform, beginning, None, listener, agent)?;
    if let Err(error) = wait_for(&mut session, &vm, settled, deadline) {
        // If the VM has ended too, its reason is the better one.
        return Err(ended(&mut vm, Instant::now() + LAST_WORD).map_or(error, not_saved));
    }
    vm.save().map_err(BuildError::Control)?;
    match ended(&mut vm, deadline)? {
        VmEnded { ending: Some(Ending::Captured), .. } => Ok(()),
        ended => Err(not_saved(ended)),
    }
}

/// Starts a VM of `key`'s that is nobody's, and has nothing but a root's disk at most.
pub(super) fn start(
    key: &Key,
    platform: &Platform,
    beginning: Beginning,
    disk: Option<File>,
    listener: UnixListener,
    agent: UnixStream,
) -> Result<Vm, StartError> {
    Vm::start(Parts {
        platform: platform.try_clone()?,
        beginning,
        disk,
        storage: None,
        files: None,
        cards: vec![],
        listener,
        agent,
        vcpus: key.vcpus,
        ram_bytes: key.ram_bytes,
        debug: false,
        cgroup: None,
        labels: Labels::default(),
    })
}

/// How the VM has ended, once it is gone.
pub(super) fn ended(vm: &mut Vm, deadline: Instant) -> Result<VmEnded, BuildError> {
    wait(&[PollFd::new(&vm.end(), PollFlags::IN)], deadline)?;
    vm.take_reports(&Timeline::new(false));
    Ok(vm.ended())
}

/// Why a VM that has ended so is no template.
fn not_saved(ended: VmEnded) -> BuildError {
    match ended.ending {
        Some(Ending::Captured | Ending::Failed { .. }) => BuildError::NotSaved(ended),
        _ => AttendError::Vm(ended).into(),
    }
}

/// Waits for the answer to call `id`.
fn wait_for(session: &mut Session, vm: &Vm, id: u64, deadline: Instant) -> Result<(), BuildError> {
    loop {
        let fds = [session.as_fd(), vm.end()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        wait(&fds, deadline)?;
        // One whose VM is gone has hung up.
        session.read().map_err(AttendError::Session)?;
        while let Some(heard) = session.take().map_err(AttendError::Session)? {
            match heard {
                Heard::Answer(answer) if answer.id == id => {
                    let refused = |fault| AttendError::Session(SessionError::Refused(fault));
                    return answer.result.map(drop).map_err(|fault| refused(fault).into());
                }
                Heard::Answer(_) | Heard::Hello(_) => {}
            }
        }
    }
}

/// Waits until one of `fds` is readable.
fn wait<const N: usize>(fds: &[PollFd<'_>; N], deadline: Instant) -> Result<(), BuildError> {
    let mut fds = fds.clone();
    let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
    loop {
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Err(AttendError::NotReady { after: PATIENCE }.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(BuildError::Control(error.into())),
        }
    }
}

/// The name of a socket, which goes with this.
pub(super) struct SocketName(File);

impl SocketName {
    /// By a path that is short however long the directory's is.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/vsock.sock", self.0.as_raw_fd()).into()
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

/// A socket in `directory`, and its name there.
pub(super) fn listen(directory: &Path) -> io::Result<(UnixListener, SocketName)> {
    let name = SocketName(File::open(directory)?);
    Ok((UnixListener::bind(name.path())?, name))
}
