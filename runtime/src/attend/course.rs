//! The states of an attendance, and what leads from one to the next.

mod held;
mod network;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proto::message::{Answer, ExitStatus, ProcessId, Reply, Request};
use proto::spec::{Process, Stdio};
use proto::stream::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{AttendError, Attendance, Reached, Wish};
use crate::dial::DialError;
use crate::exit::Failure;
use crate::orders::Ordered;
use crate::relay::Relays;
use crate::session::{Heard, SessionError};
use crate::signals;
use crate::state::record::Status;
use crate::terminal;
use crate::vm::Vm;

/// How long a guest may take from its VM's start to its agent's greeting. Real hardware needs less
/// than a second, emulated hardware that others use too a minute; a guest that hangs is named after
/// this.
const GREETING: Duration = Duration::from_secs(180);

/// How long a VM may take to say why its agent hung up.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The number no call has.
const NO_CALL: u64 = 0;

/// How far it has come, and the numbers of the calls whose answers lead on.
enum Phase {
    Greeting { first: First },
    Creating { first: u64 },
    Held { wait: u64 },
    Starting { start: u64, wait: u64 },
    Running { wait: u64 },
    Draining { end: Result<ExitStatus, AttendError> },
}

/// The first call for the process.
enum First {
    /// Said already, with this number.
    Said(u64),
    /// To be said as soon as the guest is there and was adopted: the time it is told has to be right.
    Kept(Request),
}

/// What can come.
#[derive(Clone, Copy)]
enum Source {
    Reports,
    Session,
    Orders,
    Caller,
    Signals,
    Output,
    Network,
    VmEnd,
}

/// An attendance under way.
pub(super) struct Course<'a, C, S> {
    attendance: Attendance<'a>,
    connect: Option<C>,
    started: Option<S>,
    stdio: Stdio,
    streams: Vec<Stream>,
    relays: Option<Relays>,
    /// Signals that came before there was a process.
    held_signals: Vec<i32>,
    /// The call whose answer says that the guest is ours.
    adoption: Option<u64>,
    /// The call whose answer says that the guest's network is what it has become.
    connection: Option<u64>,
    /// The call whose answer says that the process has ended, whatever is still on its way.
    end: Option<u64>,
    /// Who ordered the start that is under way.
    starter: Option<Ordered>,
    paused: bool,
    session_open: bool,
    vm_open: bool,
    /// What went wrong, unless the VM knows better before the deadline.
    complaint: Option<AttendError>,
    deadline: Option<Instant>,
}

impl<'a, C, S> Course<'a, C, S>
where
    C: FnOnce(&[Stream]) -> Result<Vec<(Stream, UnixStream)>, DialError>,
    S: FnOnce(),
{
    /// At its beginning.
    pub(super) fn new(
        attendance: Attendance<'a>,
        process: &Process,
        connect: C,
        started: S,
    ) -> Self {
        Self {
            connect: Some(connect),
            started: Some(started),
            stdio: process.stdio,
            streams: process.streams(),
            relays: None,
            held_signals: Vec::new(),
            adoption: None,
            connection: None,
            end: None,
            starter: None,
            paused: false,
            session_open: true,
            vm_open: attendance.vm.is_some(),
            complaint: None,
            deadline: Some(Instant::now() + GREETING),
            attendance,
        }
    }

    /// To its end.
    pub(super) fn run(mut self, wish: Wish) -> Result<ExitStatus, AttendError> {
        let end = self.go(wish);
        if let (Some(starter), Err(error)) = (self.starter.take(), &end) {
            starter.answer(Err(Failure::of(error)));
        }
        end
    }

    fn go(&mut self, wish: Wish) -> Result<ExitStatus, AttendError> {
        let process = self.attendance.process.clone();
        let request = match wish {
            Wish::Container(spec) => Request::Create { container: process.container, spec },
            Wish::Exec(spec) => Request::Exec { process, spec },
        };
        let first = match &self.attendance.adopt {
            Some(_) => First::Kept(request),
            // Said before the other side is there to hear it: no time passes between hello and that.
            None => First::Said(self.call(request)?),
        };
        let mut phase = Phase::Greeting { first };
        loop {
            let came = self.wait(&phase)?;
            if came.is_empty() {
                // The deadline.
                let complaint = self.complaint.take();
                return Err(complaint.unwrap_or(AttendError::NotReady { after: GREETING }));
            }
            for source in came {
                phase = match source {
                    Source::Reports => self.note_reports(phase),
                    Source::Session => self.hear(phase)?,
                    Source::Orders => self.take_order(phase)?,
                    Source::Caller => return Err(AttendError::Unwanted),
                    Source::Signals => self.pass_signals(phase)?,
                    Source::Output => self.output_is_drained(phase),
                    Source::Network => self.follow_network(phase)?,
                    Source::VmEnd => self.bury_vm(phase),
                };
            }
            match phase {
                Phase::Draining { end } if self.relays.is_none() => return end,
                _ => {}
            }
        }
    }

    /// Waits until something comes, and says what; nothing if nothing does in the time it has.
    fn wait(&self, phase: &Phase) -> Result<Vec<Source>, AttendError> {
        let vm = self.attendance.vm.as_deref().filter(|_| self.vm_open);
        let held = self.attendance.held.as_ref();
        // Before that there is nobody to be told, and behind it nobody to use it.
        let follows = matches!(phase, Phase::Held { .. } | Phase::Running { .. });
        // What comes while the last of it is on its way is brought together.
        let follows = follows && self.session_open && self.connection.is_none();
        let network = self.attendance.network.as_ref().filter(|_| follows);
        let sources: [(Source, Option<BorrowedFd<'_>>); 8] = [
            (Source::Reports, vm.map(Vm::reports)),
            (Source::Session, self.session_open.then_some(self.attendance.session.as_fd())),
            (Source::Orders, held.map(|held| held.orders.as_fd())),
            (Source::Caller, held.and_then(|held| held.caller.as_ref()).map(AsFd::as_fd)),
            (Source::Signals, Some(self.attendance.signals.as_fd())),
            (Source::Output, self.relays.as_ref().map(|relays| relays.drained.as_fd())),
            (Source::Network, network.map(AsFd::as_fd)),
            (Source::VmEnd, vm.map(Vm::end)),
        ];
        let (names, fds): (Vec<_>, Vec<_>) =
            sources.iter().filter_map(|(source, fd)| Some((*source, (*fd)?))).unzip();
        let mut fds: Vec<_> =
            fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        loop {
            let left = self.deadline.map(|deadline| deadline.duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(AttendError::Watch(error.into())),
            }
        }
        let came = |(name, fd): (&Source, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(*name);
        Ok(names.iter().zip(&fds).filter_map(came).collect())
    }

    fn note_reports(&mut self, phase: Phase) -> Phase {
        if let Some(vm) = &mut self.attendance.vm {
            vm.take_reports(self.attendance.timeline);
        }
        phase
    }

    fn hear(&mut self, mut phase: Phase) -> Result<Phase, AttendError> {
        match self.attendance.session.read() {
            Ok(()) => {}
            Err(SessionError::HungUp) if matches!(phase, Phase::Draining { .. }) => {
                self.session_open = false;
                return Ok(phase);
            }
            Err(error) => {
                self.complain(error.into())?;
                return Ok(phase);
            }
        }
        while let Some(heard) = self.attendance.session.take()? {
            phase = match heard {
                Heard::Hello(hello) => {
                    self.attendance.timeline.mark("guest ready");
                    if let Some(started_ns) = hello.agent_started_ns {
                        self.attendance.timeline.mark_guest("agent started", started_ns);
                    }
                    let phase = self.adopt(phase)?;
                    self.connect_streams(phase)?
                }
                Heard::Answer(answer) => self.follow(answer, phase)?,
            };
        }
        Ok(phase)
    }

    /// Makes a guest of our own VM ours, and asks for its process in the same breath: the guest does one
    /// after the other, and nothing if it could not be adopted.
    fn adopt(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        let (Phase::Greeting { first: First::Kept(request) }, Some(belongings)) =
            (&phase, self.attendance.adopt.take())
        else {
            return Ok(phase);
        };
        let adoption = belongings.adoption()?;
        let request = request.clone();
        self.adoption = Some(self.call(Request::Adopt(adoption))?);
        let first = First::Said(self.call(request)?);
        Ok(Phase::Greeting { first })
    }

    /// Asks for the end twice: without its output, and with it.
    fn call_wait(&mut self, process: ProcessId) -> Result<u64, AttendError> {
        self.end = Some(self.call(Request::Wait { process: process.clone(), early: true })?);
        self.call(Request::Wait { process, early: false })
    }

    fn call(&mut self, request: Request) -> Result<u64, AttendError> {
        match self.attendance.session.call(request) {
            Ok(id) => Ok(id),
            Err(error) => self.complain(error.into()).map(|()| NO_CALL),
        }
    }

    /// An end of the conversation. As long as there is a VM, that is asked first: if it ended too, its
    /// reason is the better one.
    fn complain(&mut self, error: AttendError) -> Result<(), AttendError> {
        if !self.vm_open {
            return Err(error);
        }
        self.session_open = false;
        self.complaint.get_or_insert(error);
        self.deadline = Some(Instant::now() + LAST_WORD);
        Ok(())
    }

    fn connect_streams(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        let (Phase::Greeting { first: First::Said(first) }, Some(connect)) =
            (&phase, self.connect.take())
        else {
            return Ok(phase);
        };
        let streams = match connect(&self.streams) {
            Ok(streams) => streams,
            Err(error) => return self.complain(error.into()).map(|()| phase),
        };
        let relays = Relays::start(streams, &self.attendance.front).map_err(AttendError::Relay)?;
        self.attendance.timeline.mark("streams connected");
        self.relays = Some(relays);
        self.deadline = None;
        Ok(Phase::Creating { first: *first })
    }

    /// Takes the step that an answer allows; an answer nobody waits for is passed over.
    fn follow(&mut self, answer: Answer, phase: Phase) -> Result<Phase, AttendError> {
        let Answer { id, result } = answer;
        if Some(id) == self.adoption {
            self.adoption = None;
            return match result.map_err(SessionError::Refused)? {
                Reply::Done => {
                    self.attendance.timeline.mark("guest adopted");
                    Ok(phase)
                }
                reply => Err(SessionError::WrongReply { reply }.into()),
            };
        }
        if Some(id) == self.connection {
            self.connection = None;
            return self.network_is_followed(result, phase);
        }
        if Some(id) == self.end {
            self.relays.iter().for_each(Relays::make_room);
            return Ok(phase);
        }
        let waited_for = match &phase {
            Phase::Creating { first } => id == *first,
            Phase::Held { wait } => id == *wait,
            Phase::Starting { start, wait } => id == *start || id == *wait,
            Phase::Running { wait } => id == *wait,
            // A guest that cannot be reached has nothing to answer, and an ended process neither.
            Phase::Greeting { .. } | Phase::Draining { .. } => false,
        };
        if !waited_for {
            return Ok(phase);
        }
        let process = self.attendance.process.clone();
        match (phase, result.map_err(SessionError::Refused)?) {
            // Nothing is made in a guest that has not said first that it is ours.
            (_, reply) if self.adoption.is_some() => Err(SessionError::WrongReply { reply }.into()),
            (Phase::Creating { .. }, Reply::Created { .. }) => {
                self.attendance.timeline.mark("created");
                if process.exec.is_some() {
                    let wait = self.call_wait(process)?;
                    return self.runs(Phase::Running { wait });
                }
                if self.attendance.held.is_some() {
                    let wait = self.call_wait(process)?;
                    self.reach(Reached::Status(Status::Created))?;
                    return Ok(Phase::Held { wait });
                }
                let start = self.call(Request::Start { container: process.container.clone() })?;
                Ok(Phase::Starting { start, wait: self.call_wait(process)? })
            }
            (Phase::Starting { start, wait }, Reply::Done) if id == start => {
                self.runs(Phase::Running { wait })
            }
            // The end can be heard of before the start.
            (Phase::Starting { wait, .. }, Reply::Exited { status }) if id == wait => {
                self.runs(Phase::Draining { end: Ok(status) })
            }
            (Phase::Held { .. } | Phase::Running { .. }, Reply::Exited { status }) => {
                self.attendance.timeline.mark("exited");
                Ok(Phase::Draining { end: Ok(status) })
            }
            (_, reply) => Err(SessionError::WrongReply { reply }.into()),
        }
    }

    fn runs(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        self.attendance.timeline.mark("started");
        self.reach(Reached::Status(Status::Running))?;
        if let Some(starter) = self.starter.take() {
            starter.answer(Ok(()));
        }
        if let Some(started) = self.started.take() {
            started();
        }
        for signal in std::mem::take(&mut self.held_signals) {
            self.pass(signal)?;
        }
        Ok(phase)
    }

    fn pass_signals(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        while let Some(signal) = self.attendance.signals.next().map_err(AttendError::Watch)? {
            match &phase {
                Phase::Running { .. } => self.pass(signal)?,
                Phase::Held { .. } | Phase::Starting { .. } => self.held_signals.push(signal),
                _ if !signals::asks_to_end(signal) => self.held_signals.push(signal),
                Phase::Greeting { .. } | Phase::Creating { .. } => {
                    return Err(AttendError::Interrupted { signal });
                }
                // The process has ended, and who waits for its output does not want the rest.
                Phase::Draining { .. } => self.relays = None,
            }
        }
        Ok(phase)
    }

    /// Passes a signal to the process; its answer is of no interest, because it may just have ended.
    fn pass(&mut self, signal: i32) -> Result<(), AttendError> {
        let process = self.attendance.process.clone();
        let request = match (signals::is_resize(signal), self.stdio) {
            (false, _) => Request::Signal { process, signal, all: false },
            (true, Stdio::Terminal { .. }) => Request::Resize { process, size: terminal::size() },
            (true, Stdio::Pipes { .. }) => return Ok(()),
        };
        if self.session_open {
            self.call(request)?;
        }
        Ok(())
    }

    fn output_is_drained(&mut self, phase: Phase) -> Phase {
        self.relays = None;
        self.attendance.timeline.mark("output drained");
        phase
    }

    /// The VM is gone: without an exit status there will be none. What it wrote still arrives.
    fn bury_vm(&mut self, phase: Phase) -> Phase {
        let Some(vm) = &mut self.attendance.vm else { return phase };
        vm.take_reports(self.attendance.timeline);
        self.vm_open = false;
        self.session_open = false;
        self.deadline = None;
        match phase {
            Phase::Draining { end } => Phase::Draining { end },
            _ => Phase::Draining { end: Err(vm.ended().into()) },
        }
    }
}
