//! The supervisor of a bundle's container, and of a detached `exec`: this program again, in a session of
//! its own, with the standard streams of whoever started it. Over a socket it gets its order, and tells
//! how far it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::mpsc;

use proto::message::{Reply, Request};
use proto::spec::{Hook, Preserved, Process, Stdio};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::cgroup::{self, Group, Moving};
use super::console;
use super::hooks;
use super::plan;
use super::preserved;
use super::resources::{HOST_OVERHEAD_BYTES, Values};
use super::state::State;
use super::view::View;
use super::{mounts, namespace};
use crate::exit::Failure;
use crate::platform::Platform;
use crate::relay::Front;
use crate::sandbox::Planned;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::state::record::{Name, Oci, Record, Status};
use crate::state::{Dir, Root};
use crate::template::TemplateError;
use crate::timeline::Timeline;
use crate::visit::Visited;
use crate::vm::THIS_PROGRAM;
use crate::{descriptors, host, network, platform, template, threads};

/// The hidden verb behind which this program is such a supervisor.
pub(crate) const VERB: &str = "supervise-bundle";

/// The longest thing said over the socket: an order with a process in it.
const MAX_BYTES: usize = 1 << 20;

/// What a supervisor is there for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// A container, up to the moment where its process is held.
    Create(Creation),
    /// A process more in a container.
    Exec {
        /// Where things are.
        settings: Settings,
        /// The container.
        name: Name,
        /// What it is.
        process: Box<Process>,
        /// What the agent calls it.
        exec: String,
        /// Where its terminal's master goes.
        console_socket: Option<PathBuf>,
        /// Whether a paused container is waited for.
        ignore_paused: bool,
    },
}

/// A container of a bundle that is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Creation {
    /// Where things are.
    pub(crate) settings: Settings,
    /// Its id.
    pub(crate) name: Name,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// Where its terminal's master goes.
    pub(crate) console_socket: Option<PathBuf>,
    /// It may have the caller's terminal instead.
    pub(crate) own_terminal: bool,
    /// So many of its descriptors are sockets that systemd has handed to the caller.
    pub(crate) listened: u32,
}

/// What a supervisor says.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// The environment is there; these are to be run before it goes on, which is said by any packet.
    Hooks { hooks: Vec<Hook>, record: Box<Record> },
    /// What was ordered is done.
    Done,
    /// It is not.
    Failed(Failure),
}

/// Why a supervisor was not heard of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    /// No process or socket for it.
    #[error("process of the supervisor")]
    Process(#[source] io::Error),
    /// It went away without a word.
    #[error("the supervisor ended without a word")]
    Silent,
    /// The container's files cannot be made what others see.
    #[error("mount namespace of the supervisor")]
    View(#[source] io::Error),
    /// The caller is gone, or does not make sense.
    #[error("the supervisor's caller is gone")]
    CallerGone,
}

/// Which standard streams a supervisor has, and with it its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Those of whoever starts it.
    Callers,
    /// None.
    Null,
}

/// Starts a supervisor; gives back its process number once what was ordered is done.
///
/// It has the `preserved` descriptors, which must stand under the numbers that they came with.
pub(crate) fn start(
    order: &Order,
    streams: Streams,
    preserved: &[(Preserved, OwnedFd)],
) -> Result<u32, Failure> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| SuperviseError::Process(error.into()))?;
    for descriptor in preserved.iter().map(|(_, descriptor)| descriptor).chain([&theirs]) {
        descriptors::pass_on(descriptor, true).map_err(SuperviseError::Process)?;
    }
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("microvm").arg(VERB);
    command.arg(theirs.as_raw_fd().to_string()).arg(preserved.len().to_string());
    if streams == Streams::Null {
        let null = process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null());
    }
    let mut child = command.spawn().map_err(SuperviseError::Process)?;
    drop(theirs);
    converse(&ours, order).map(|()| child.id()).inspect_err(|_| {
        // It hears that nobody waits any more, and is gone with all it made when we say so.
        drop(ours);
        let _ = child.wait();
    })
}

/// Gives the order and runs the hooks that are ours to run, until it is done.
fn converse(ours: &OwnedFd, order: &Order) -> Result<(), Failure> {
    say(ours, order)?;
    loop {
        match hear(ours) {
            Ok(Told::Hooks { hooks: list, record }) => {
                let Some(oci) = &record.oci else { return Err(SuperviseError::Silent.into()) };
                hooks::run(&list, &State::new(&record, oci, Status::Creating))?;
                say(ours, &())?;
            }
            Ok(Told::Done) => return Ok(()),
            Ok(Told::Failed(failure)) => return Err(failure),
            Err(_) => return Err(SuperviseError::Silent.into()),
        }
    }
}

/// Waits for a supervisor we started, and gives back its exit code.
pub(crate) fn wait(pid: u32) -> Result<u8, Failure> {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    Ok(match nix::sys::wait::waitpid(pid, None)? {
        nix::sys::wait::WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(u8::MAX),
        _ => 128 + 9,
    })
}

/// Is the supervisor: what this program does behind [`VERB`].
pub(crate) fn main(mut words: impl Iterator<Item = String>) -> Result<u8, Failure> {
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok());
    let (number, count) = number().zip(number()).ok_or(SuperviseError::CallerGone)?;
    let number = number.cast_signed();
    // SAFETY: whoever started us left this descriptor to us, and nobody else here knows of it.
    let caller = unsafe { OwnedFd::from_raw_fd(number) };
    descriptors::pass_on(&caller, false)?;
    descriptors::close_inherited(count, Some(number))?;
    let preserved = preserved::take(count)?;
    let order: Order = hear(&caller)?;
    // Whoever started us may end, with its terminal and all of its session.
    rustix::process::setsid()?;
    let mut caller = Some(caller);
    let end = match order {
        Order::Create(creation) => create(creation, preserved, &mut caller),
        Order::Exec { settings, name, process, exec, console_socket, ignore_paused } => {
            let find = || -> Result<Visited, Failure> {
                let entry = Root::open(&settings.root)?.find(name.as_ref())?;
                Ok(Visited::new(entry)?.waiting(ignore_paused))
            };
            let console_socket = console_socket.as_deref();
            find().and_then(|container| {
                added(container, *process, &exec, console_socket, preserved, &mut caller)
            })
        }
    };
    end.or_else(|failure| {
        let code = failure.code;
        if let Some(caller) = caller {
            let _ = say(&caller, &Told::Failed(failure));
        }
        Ok(code)
    })
}

fn create(
    creation: Creation,
    preserved: Vec<(Preserved, OwnedFd)>,
    caller: &mut Option<OwnedFd>,
) -> Result<u8, Failure> {
    let Creation { settings, name, bundle, console_socket, own_terminal, listened } = creation;
    let (settings, console_socket) = (&settings, console_socket.as_deref());
    let timeline = Timeline::new(settings.timeline.is_some());
    let bundle = Bundle::read(&bundle)?;
    let host = host::facts(&[])?;
    let mut decided = plan::decide(&bundle, name.clone(), &host)?;
    let process = &mut decided.plan.container.process;
    process.preserved = preserved::kinds(&preserved);
    process.env.extend(preserved::told(listened));
    console::judge(&process.stdio, console_socket, own_terminal)?;
    let root = Root::open(&settings.root)?;
    let platform = Platform::open(settings, &root)?;
    // Made before we stand in the container's cgroup: it is not the container's to pay for.
    let size = (decided.plan.vcpus, decided.plan.ram_bytes);
    let template = match template::ready(settings, &root, &platform, size, &timeline) {
        Err(TemplateError::Guest(error)) => {
            platform::doubt(&error, &root)?;
            return Err(error.into());
        }
        template => template?,
    };
    let cgroup = cgroup::decide(decided.cgroups_path.as_deref(), &name, settings.systemd_cgroup)?;
    let oci = Oci {
        status: Status::Creating,
        rootfs: decided.plan.shares[0].path.clone(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        poststart: decided.hooks.poststart.clone(),
        poststop: decided.hooks.poststop.clone(),
        cgroup: Some(cgroup.group.clone()),
        ram_bytes: decided.plan.ram_bytes,
        network: None,
        bundle: bundle.path,
    };
    let shares = mounts::open(&decided.plan.shares)?;
    let view = View::new(&decided.plan.shares, &decided.plan.container.mounts);
    if let Stdio::Terminal { size } = decided.plan.container.process.stdio
        && let Some(socket) = console_socket
    {
        console::take(socket, size)?;
    }
    let planned = Planned {
        image: oci.rootfs.display().to_string(),
        plan: decided.plan,
        platform,
        template,
        disk: None,
        storage: None,
        again: None,
        wishes: None,
        shares,
        remove: false,
        detached: false,
        debug: settings.debug,
        oci: Some(oci),
    };
    let mut claimed = planned.claim(&root)?;
    // A quota is for what the container does: to make a machine for it is neither its work nor its time.
    let (quota, mut values): (Values, Values) =
        decided.limits.host.into_iter().partition(|(name, _)| name.starts_with("cpu.max"));
    if decided.limits.memory_bytes.is_some() {
        let most = claimed.ram_bytes() + HOST_OVERHEAD_BYTES;
        values.push(("memory.max".to_owned(), most.to_string()));
    }
    let (group, home) = (cgroup.group.clone(), Group::of(rustix::process::getpid()));
    let (ground, moving) = (group.clone(), Moving::default());
    let moved = moving.clone();
    claimed.undo(move || {
        // Nobody can take away the ground he stands on.
        let _ = moved.finish();
        let _ = home.enter();
        let _ = ground.remove();
    });
    cgroup.make(&name, &values)?;
    // What is run for the container belongs there too.
    let hooks_first = !decided.hooks.create_container.is_empty();
    let place = if hooks_first { None } else { group.open()? };
    let goes_later = place.is_some();
    match place {
        Some(place) => claimed.begin_in(place),
        None => group.enter()?,
    }
    namespace::enter(&decided.network)?;
    let record = claimed.record().clone();
    if !decided.hooks.create_runtime.is_empty() {
        let asked = caller.as_ref().ok_or(SuperviseError::CallerGone)?;
        let hooks = decided.hooks.create_runtime;
        say(asked, &Told::Hooks { hooks, record: Box::new(record.clone()) })?;
        let () = hear(asked)?;
    }
    // Whoever sets the network up has done so by now, or the container has none.
    let namespace = match &decided.network {
        plan::Network::New => None,
        plan::Network::At(path) => Some(path.as_path()),
    };
    claimed.connect(network::carry(claimed.vcpus())?, namespace);
    if let Some(oci) = record.oci.clone() {
        let state = |status| State::new(claimed.record(), &oci, status);
        hooks::run(&decided.hooks.create_container, &state(Status::Creating))?;
        let created = serde_json::to_string(&state(Status::Created))?;
        claimed.tell_start_hooks(&created);
    }
    let signals = Signals::catch()?;
    let guest = running_as(claimed.record(), claimed.dir()?);
    let running = claimed.boot(&timeline)?;
    if goes_later {
        moving.start(group.clone()).map_err(SuperviseError::Process)?;
    }
    let (tell, told) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let asked = caller.as_ref().ok_or(SuperviseError::CallerGone)?.try_clone()?;
    let timeline_file = settings.timeline.clone();
    let attending = threads::small("attending").spawn(move || {
        // Whoever should hear it waits below, and knows who else has.
        let created = move || tell.send(()).is_ok() && answered.recv().unwrap_or(false);
        let front = Front::Caller { interactive: true, preserved };
        let end = running.attend_held(front, &signals, &timeline, asked, created);
        // The other thread sees the container's files by then, and not the caller's.
        (end, timeline_file.map_or(Ok(()), |path| timeline.write(&path)))
    });
    let attending = attending.map_err(SuperviseError::Process)?;
    if told.recv().is_ok() {
        // From then on this thread sees the container's files, and the host's cgroups no more. A container into
        // which others would copy the host's files is not handed out.
        let there = moving.finish().and_then(|()| group.set(&quota));
        let ready = there.map_err(Failure::from).and_then(|()| {
            let view = view.enter(move |files| read_proc(&guest, files));
            Ok(view.map_err(SuperviseError::View)?)
        });
        let word = ready.map_or_else(Told::Failed, |()| Told::Done);
        let heard = caller.take().is_some_and(|caller| say(&caller, &word).is_ok());
        let _ = answer.send(heard && matches!(word, Told::Done));
    }
    let (end, written) = attending.join().map_err(|_| SuperviseError::Silent)?;
    written?;
    match end {
        Ok(status) => Ok(status.shell_code()),
        Err(error) => {
            platform::doubt(&error, &root)?;
            Err(error.into())
        }
    }
}

/// The container as one that can be asked about.
fn running_as(record: &Record, dir: Dir) -> Visited {
    let mut record = record.clone();
    if let Some(oci) = &mut record.oci {
        oci.status = Status::Running;
    }
    Visited::of(dir, record)
}

/// Reads in the container's own `/proc`.
fn read_proc(guest: &Visited, files: Vec<String>) -> io::Result<Vec<(String, String)>> {
    let container = guest.record.name.to_string();
    match guest.ask(Request::ReadProc { container, files }) {
        Ok(Reply::Files { files }) => Ok(files),
        Ok(_) | Err(_) => Err(io::ErrorKind::NotFound.into()),
    }
}

fn added(
    container: Visited,
    process: Process,
    exec: &str,
    console_socket: Option<&Path>,
    preserved: Vec<(Preserved, OwnedFd)>,
    caller: &mut Option<OwnedFd>,
) -> Result<u8, Failure> {
    if let (Stdio::Terminal { size }, Some(socket)) = (process.stdio, console_socket) {
        console::take(socket, size)?;
    }
    let signals = Signals::catch()?;
    let started = || {
        let _ = caller.take().map(|caller| say(&caller, &Told::Done));
    };
    let front = Front::Caller { interactive: true, preserved };
    Ok(container.exec(process, exec, front, &signals, started)?)
}

fn say(socket: &impl AsFd, words: &impl Serialize) -> Result<(), Failure> {
    let packet = serde_json::to_vec(words)?;
    let buffer = rustix::net::sockopt::set_socket_send_buffer_size(socket, 2 * MAX_BYTES);
    buffer.map_err(|error| SuperviseError::Process(error.into()))?;
    send(socket, &packet, SendFlags::NOSIGNAL).map_err(|_| SuperviseError::CallerGone)?;
    Ok(())
}

fn hear<T: DeserializeOwned>(socket: &impl AsFd) -> Result<T, SuperviseError> {
    let mut packet = vec![0; MAX_BYTES];
    let (length, _) = recv(socket, packet.as_mut_slice(), RecvFlags::empty())
        .map_err(|error| SuperviseError::Process(error.into()))?;
    serde_json::from_slice(&packet[..length]).map_err(|_| SuperviseError::CallerGone)
}
