//! The agent itself: everything that can become ready, and what is done about it.
//!
//! ```text
//!   sessions ──calls──► Agent ──forks──► processes ──signalfd──► reaped, told to who waits
//!   stdio connections ──► lines ──► relays ◄──pipes, terminals── processes
//! ```
//!
//! One map holds whatever is watched. What became ready is taken out of it, does what it can, and is
//! put back if it is still alive: nothing is ever half in use.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use proto::message::{Adoption, Answer, Call, Fault, Hello, ProcessId, Reply};
use proto::network::Network;
use proto::stream::Attach;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::birth::Guest;
use crate::control::AgentEnd;
use crate::kmsg::{self, Weight};
use crate::processes::{Asker, Planned, Process};
use crate::reactor::{Reactor, Token};
use crate::relay::Relay;
use crate::session::{Session, SessionEnd};
use crate::stdio::{Attached, Caller, Lines};
use crate::sys;
use crate::words::{Refused, words};

/// What the agent accepts connections on: listening stream sockets.
pub struct Doors {
    /// For sessions.
    pub sessions: OwnedFd,
    /// For standard input and output.
    pub stdio: OwnedFd,
}

/// What of the guest itself, below all containers, the host has changed. Apart, because an agent in a
/// test is a process of a machine that should stay as it is.
pub trait Ground {
    /// Gets ready what can be before the machine is saved.
    fn settle(&mut self) -> Result<(), Refused>;
    /// Makes the guest its host's own. What it is told of stands before it comes back.
    fn adopt(&mut self, adoption: &Adoption) -> Result<(), Refused>;
    /// Makes the network of an adopted guest another.
    fn connect(&mut self, network: Network) -> Result<(), Refused>;
}

/// Why the agent stops running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was asked to power off.
    PowerOff,
    /// The host ended the first session.
    HostGone,
    /// The first session's connection was reset under it.
    HostReset,
}

/// Everything that is going on in a guest.
pub struct Agent {
    pub(crate) guest: Guest,
    pub(crate) ground: Box<dyn Ground>,
    /// The machine was saved, or may have been: nothing is done before somebody has adopted it.
    pub(crate) orphaned: bool,
    hello: Hello,
    pub(crate) reactor: Reactor,
    pub(crate) watched: BTreeMap<Token, Watched>,
    /// Whose turn was over before their work was.
    pub(crate) unfinished: Vec<Token>,
    host: Token,
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    /// Calls for processes whose streams are not all there yet.
    pub(crate) pending: BTreeMap<ProcessId, Planned>,
    pub(crate) lines: Lines,
    /// Containers that have ended but for processes which were killed and not reaped yet.
    pub(crate) leaving: BTreeSet<String>,
    pub(crate) stop: Option<Stop>,
}

/// Something that can become ready.
pub(crate) enum Watched {
    Children(OwnedFd),
    SessionDoor(OwnedFd),
    StdioDoor(OwnedFd),
    Session(Session),
    Caller(Caller),
    Control(ProcessId, AgentEnd),
    Relay(ProcessId, Relay),
}

impl Agent {
    /// An agent that answers on `doors` and in the session with the `host` that is already open.
    pub fn new(
        guest: Guest,
        ground: Box<dyn Ground>,
        hello: Hello,
        doors: Doors,
        host: Session,
    ) -> Result<Self, Refused> {
        sys::block_signals().map_err(Refused::at("signals"))?;
        let mut reactor = Reactor::new().map_err(Refused::at("epoll"))?;
        let host_token = reactor.token();
        let mut agent = Self {
            guest,
            ground,
            orphaned: false,
            hello,
            reactor,
            watched: BTreeMap::new(),
            unfinished: Vec::new(),
            host: host_token,
            processes: BTreeMap::new(),
            pending: BTreeMap::new(),
            lines: BTreeMap::new(),
            leaving: BTreeSet::new(),
            stop: None,
        };
        for door in [&doors.sessions, &doors.stdio] {
            rustix::io::ioctl_fionbio(door, true).map_err(Refused::at("listening socket"))?;
        }
        let children = sys::child_signals().map_err(Refused::at("signals"))?;
        for watched in [
            Watched::Children(children),
            Watched::SessionDoor(doors.sessions),
            Watched::StdioDoor(doors.stdio),
        ] {
            agent.watch(watched).map_err(Refused::at("epoll"))?;
        }
        agent.host_is_back(host)?;
        Ok(agent)
    }

    /// Goes on with a new first session, after [`Stop::HostReset`].
    pub fn host_is_back(&mut self, host: Session) -> Result<(), Refused> {
        self.host = self.watch(Watched::Session(host)).map_err(Refused::at("epoll"))?;
        self.stop = None;
        Ok(())
    }

    /// Does what there is to do until there is a reason to stop.
    pub fn run(&mut self) -> Result<Stop, Refused> {
        loop {
            let ready = self.reactor.wait(self.unfinished.is_empty());
            let ready = ready.map_err(Refused::at("epoll"))?;
            for token in ready.into_iter().chain(std::mem::take(&mut self.unfinished)) {
                self.serve(token);
            }
            if let Some(stop) = self.stop {
                return Ok(stop);
            }
        }
    }

    pub(crate) fn watch(&mut self, watched: Watched) -> Result<Token, Errno> {
        let token = self.reactor.token();
        match &watched {
            Watched::Children(fd) | Watched::SessionDoor(fd) | Watched::StdioDoor(fd) => {
                self.reactor.watch(fd, token)?;
            }
            Watched::Session(session) => self.reactor.watch(session, token)?,
            Watched::Caller(caller) => self.reactor.watch(caller, token)?,
            Watched::Control(_, control) => self.reactor.watch(control, token)?,
            Watched::Relay(_, relay) => {
                for descriptor in relay.descriptors() {
                    self.reactor.watch(descriptor, token)?;
                }
            }
        }
        self.watched.insert(token, watched);
        Ok(token)
    }

    pub(crate) fn serve(&mut self, token: Token) {
        // A token that is not there is an edge of something that ended a moment ago.
        let Some(watched) = self.watched.remove(&token) else { return };
        let still = match watched {
            Watched::Children(signals) => self.reap(signals),
            Watched::SessionDoor(door) => self.open_sessions(door),
            Watched::StdioDoor(door) => self.open_callers(door),
            Watched::Session(session) => self.serve_session(token, session),
            Watched::Caller(caller) => self.serve_caller(caller),
            Watched::Control(id, control) => self.serve_control(id, control),
            Watched::Relay(id, mut relay) => {
                let turn = relay.turn();
                self.after_turn(token, id, relay, turn)
            }
        };
        if let Some(watched) = still {
            self.watched.insert(token, watched);
        }
    }

    fn open_sessions(&mut self, door: OwnedFd) -> Option<Watched> {
        while let Some(socket) = accept(&door) {
            match Session::open(socket, &self.hello) {
                Ok(session) => self.watch_or_say(Watched::Session(session)),
                Err(end) => kmsg::say(Weight::Warning, &format!("session: {end}")),
            }
        }
        Some(Watched::SessionDoor(door))
    }

    fn open_callers(&mut self, door: OwnedFd) -> Option<Watched> {
        while let Some(socket) = accept(&door) {
            match Caller::new(socket) {
                Ok(caller) => self.watch_or_say(Watched::Caller(caller)),
                Err(error) => kmsg::say(Weight::Warning, &format!("stdio: {error}")),
            }
        }
        Some(Watched::StdioDoor(door))
    }

    fn watch_or_say(&mut self, watched: Watched) {
        if let Err(errno) = self.watch(watched) {
            kmsg::say(Weight::Warning, &format!("epoll: {}", words(errno)));
        }
    }

    fn serve_session(&mut self, token: Token, mut session: Session) -> Option<Watched> {
        let (calls, end) = session.calls();
        // Its answers find it in its place.
        self.watched.insert(token, Watched::Session(session));
        for Call { id, request } in calls {
            let asker = Asker { session: token, call: id };
            if let Some(result) = self.request(asker, request) {
                self.answer(asker, result);
            }
        }
        if let Some(end) = end {
            self.end_session(token, end);
        }
        self.watched.remove(&token)
    }

    fn end_session(&mut self, token: Token, end: SessionEnd) {
        self.watched.remove(&token);
        self.abandon(|_, planned| planned.asker.session == token, "was given up by its session");
        self.forget_execs();
        // Its streams may have come without their call, now or the last time that somebody was killed.
        let pending = &self.pending;
        self.lines.retain(|(id, _), line| pending.contains_key(id) || !line.is_abandoned());
        if !matches!(end, SessionEnd::Closed | SessionEnd::Reset) {
            kmsg::say(Weight::Warning, &format!("session: {end}"));
        }
        if token == self.host && self.stop.is_none() {
            let reset = matches!(end, SessionEnd::Reset);
            self.stop = Some(if reset { Stop::HostReset } else { Stop::HostGone });
        }
    }

    pub(crate) fn answer(&mut self, asker: Asker, result: Result<Reply, Fault>) {
        // Whoever asked may have gone since.
        if let Some(Watched::Session(session)) = self.watched.get_mut(&asker.session)
            && let Err(end) = session.answer(&Answer { id: asker.call, result })
        {
            self.end_session(asker.session, end);
        }
    }

    fn serve_caller(&mut self, caller: Caller) -> Option<Watched> {
        match caller.read() {
            Ok(Err(unfinished)) => return Some(Watched::Caller(unfinished)),
            Ok(Ok(Attached { attach, line })) => {
                self.reactor.forget(&line);
                let Attach { process, stream, .. } = attach;
                if self.processes.get(&process).is_some_and(|known| known.alive().is_some()) {
                    let message = format!("stdio: {process:?} has its streams already");
                    kmsg::say(Weight::Warning, &message);
                    return None;
                }
                // Whoever was killed right behind it will not ask for its process any more.
                if !self.pending.contains_key(&process) && line.is_abandoned() {
                    return None;
                }
                // If there is one already, whoever dialled it dials again: the newer one counts.
                self.lines.insert((process.clone(), stream), line);
                self.try_bear(&process);
            }
            Err(error) => kmsg::say(Weight::Warning, &format!("stdio: {error}")),
        }
        None
    }
}

/// The next connection that is waiting and comes from the host.
fn accept(door: &OwnedFd) -> Option<OwnedFd> {
    loop {
        match accept_with(door, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                // Anyone in the guest can dial a vsock; containers are not the host.
                if let Ok(None | Some(libc::VMADDR_CID_HOST)) = sys::vsock_peer(socket.as_fd()) {
                    return Some(socket);
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return None,
            Err(errno) => {
                kmsg::say(Weight::Warning, &format!("accept: {}", words(errno)));
                return None;
            }
        }
    }
}
