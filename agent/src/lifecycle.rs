//! From a call to a process, and from a process's end to an answer.

use std::os::fd::OwnedFd;

use proto::message::{ExitStatus, Fault, FaultKind, ProcessId, Reply, Request};
use proto::spec::TerminalSize;
use rustix::process::{WaitOptions, WaitStatus};

use crate::agent::{Agent, Stop, Watched};
use crate::birth::{Host, Plan, refused};
use crate::control::{AgentEnd, News};
use crate::kmsg::{self, Weight};
use crate::process::terminal;
use crate::processes::{Alive, Asker, Life, Process, Stage};
use crate::reactor::Token;
use crate::relay::{Relay, Turn};
use crate::stdio;
use crate::sys;
use crate::words::words;

impl Agent {
    /// Does what is asked. `None` is an answer that will come later.
    pub(crate) fn request(
        &mut self,
        asker: Asker,
        request: Request,
    ) -> Option<Result<Reply, Fault>> {
        match request {
            Request::Create { container, spec } => {
                let id = ProcessId { container, exec: None };
                self.plan(asker, id, Plan::Container(spec)).err().map(Err)
            }
            Request::Exec { process, spec } => {
                self.plan(asker, process, Plan::Exec(spec)).err().map(Err)
            }
            Request::Start { container } => self.start(asker, container).err().map(Err),
            Request::Signal { process, signal, all } => {
                Some(self.signal(&process, signal, all).map(|()| Reply::Done))
            }
            Request::Resize { process, size } => {
                Some(self.resize(&process, size).map(|()| Reply::Done))
            }
            Request::Wait { process } => match self.processes.get_mut(&process) {
                None => Some(Err(no_such(&process))),
                Some(known) => match known.outcome() {
                    Some(status) => Some(Ok(Reply::Exited { status })),
                    None => {
                        known.waiting.push(asker);
                        None
                    }
                },
            },
            Request::PowerOff => {
                self.stop = Some(Stop::PowerOff);
                Some(Ok(Reply::Done))
            }
        }
    }

    /// Notes a process that is to be, and makes it if its streams are there.
    fn plan(&mut self, asker: Asker, id: ProcessId, plan: Plan) -> Result<(), Fault> {
        judge_name(&id.container)?;
        // A name is in use until everything about its process was said.
        let takes_over = |known: &ProcessId| match plan {
            Plan::Container(_) => known.container == id.container,
            Plan::Exec(_) => *known == id,
        };
        let mut known = self.processes.iter().filter(|(known, _)| takes_over(known));
        let in_use = known.any(|(_, process)| process.outcome().is_none());
        if in_use || self.pending.contains_key(&id) {
            return Err(fault(FaultKind::AlreadyExists, format!("{} exists already", named(&id))));
        }
        match (&plan, &id.exec) {
            (Plan::Container(_), _) => {}
            (Plan::Exec(_), Some(_)) => drop(self.first_of(&id)?),
            (Plan::Exec(_), None) => {
                let message = format!("exec in {}: it has no name", named(&id));
                return Err(fault(FaultKind::InvalidSpec, message));
            }
        }
        self.pending.insert(id.clone(), (asker, plan));
        self.try_bear(&id);
        Ok(())
    }

    /// Makes a process if it is asked for and all its streams are there.
    pub(crate) fn try_bear(&mut self, id: &ProcessId) {
        let Some((_, plan)) = self.pending.get(id) else { return };
        let mut wanted = stdio::streams(plan.process().stdio).into_iter();
        if !wanted.all(|stream| self.lines.contains_key(&(id.clone(), stream))) {
            return;
        }
        if let Some((asker, plan)) = self.pending.remove(id)
            && let Err(fault) = self.bear(asker, id, &plan)
        {
            self.answer(asker, Err(fault));
        }
    }

    fn bear(&mut self, asker: Asker, id: &ProcessId, plan: &Plan) -> Result<(), Fault> {
        let stdio = plan.process().stdio;
        let laid = stdio::lay(id, stdio, &mut self.lines).map_err(refused("stdio"))?;
        let newborn = match plan {
            Plan::Container(_) => {
                let newborn = self.guest.bear_container(&id.container, plan, &laid.ends)?;
                // What is known about an earlier container of this name goes with the name.
                self.processes.retain(|known, _| known.container != id.container);
                newborn
            }
            Plan::Exec(_) => {
                let first = self.first_of(id)?;
                let host = Host { pid: first.pid, pidfd: first.pidfd() };
                self.guest.bear_exec(&host, plan, &laid.ends)?
            }
        };
        let stage = Stage::SettingUp { asker, terminal: laid.terminal };
        let mut process = Process::new(newborn.pid, newborn.pidfd, stage);
        for relay in laid.relays {
            let is_output = relay.is_output();
            let token = self.watch(Watched::Relay(id.clone(), relay)).map_err(refused("epoll"))?;
            process.relays.push(token);
            process.undrained.extend(is_output.then_some(token));
        }
        let control = Watched::Control(id.clone(), newborn.control);
        let control = self.watch(control).map_err(refused("epoll"))?;
        if let Some(alive) = process.alive_mut() {
            alive.control = Some(control);
        }
        self.processes.insert(id.clone(), process);
        Ok(())
    }

    /// Hears what a process that is being made has to say.
    pub(crate) fn serve_control(&mut self, id: ProcessId, control: AgentEnd) -> Option<Watched> {
        loop {
            match control.hear() {
                None => return Some(Watched::Control(id, control)),
                Some(News::Ready { terminal }) => self.is_ready(&id, &control, terminal),
                Some(News::Fault(fault)) => self.has_failed(&id, fault),
                Some(News::Closed) => {
                    self.has_closed(&id);
                    return None;
                }
            }
        }
    }

    /// A container's first process is held now; an exec goes on at once.
    fn is_ready(&mut self, id: &ProcessId, control: &AgentEnd, master: Option<OwnedFd>) {
        let Some(alive) = self.alive_mut(id) else { return };
        let pid = alive.number();
        let (asker, line) = match alive.take_stage() {
            Stage::SettingUp { asker, terminal } => (asker, terminal),
            stage => return alive.stage = stage,
        };
        if id.exec.is_some() {
            alive.stage = Stage::Starting { asker };
            control.go();
        } else {
            alive.stage = Stage::Created;
            self.answer(asker, Ok(Reply::Created { pid }));
        }
        if let (Some(master), Some(line)) = (master, line) {
            let joined = line.join_terminal(master);
            let relay = joined.map(|relay| Watched::Relay(id.clone(), relay));
            match relay.and_then(|relay| self.watch(relay)) {
                Ok(token) => self.add_terminal(id, token),
                Err(errno) => kmsg::say(Weight::Warning, &format!("terminal: {}", words(errno))),
            }
        }
    }

    fn has_failed(&mut self, id: &ProcessId, fault: Fault) {
        let Some(alive) = self.alive_mut(id) else { return };
        alive.stage = match alive.take_stage() {
            Stage::SettingUp { asker, .. } | Stage::Starting { asker } => {
                Stage::Failed { asker, fault }
            }
            stage => stage,
        };
    }

    /// Its end was closed by `execve`, or by its death.
    fn has_closed(&mut self, id: &ProcessId) {
        let Some(alive) = self.alive_mut(id) else { return };
        alive.control = None;
        let reply = match id.exec {
            None => Reply::Done,
            Some(_) => Reply::Created { pid: alive.number() },
        };
        match alive.take_stage() {
            Stage::Starting { asker } => self.answer(asker, Ok(reply)),
            Stage::SettingUp { asker, .. } => {
                let message = format!("{} ended while it was set up", named(id));
                alive.stage = Stage::Failed { asker, fault: fault(FaultKind::System, message) };
            }
            stage => alive.stage = stage,
        }
    }

    fn add_terminal(&mut self, id: &ProcessId, token: Token) {
        if let Some(process) = self.processes.get_mut(id) {
            process.relays.push(token);
            process.undrained.push(token);
            process.terminal = Some(token);
        }
    }

    fn start(&mut self, asker: Asker, container: String) -> Result<(), Fault> {
        let id = ProcessId { container, exec: None };
        let alive = self.known_alive_mut(&id)?;
        let token = match (&alive.stage, alive.control) {
            (Stage::Created, Some(token)) => token,
            (Stage::Created, None) => return Err(wrong_state(&id, "has ended")),
            (Stage::SettingUp { .. }, _) => return Err(wrong_state(&id, "is being set up")),
            (Stage::Starting { .. } | Stage::Running, _) => {
                return Err(wrong_state(&id, "was started already"));
            }
            (Stage::Failed { .. }, _) => return Err(wrong_state(&id, "could not be made")),
        };
        alive.stage = Stage::Starting { asker };
        if let Some(Watched::Control(_, control)) = self.watched.get(&token) {
            control.go();
        }
        Ok(())
    }

    fn signal(&mut self, id: &ProcessId, signal: i32, all: bool) -> Result<(), Fault> {
        let pid = self.known_alive_mut(id)?.pid;
        let refused = |reason: String| {
            let message = format!("signal {signal} to {}: {reason}", named(id));
            fault(FaultKind::System, message)
        };
        if all {
            self.guest.cgroups.signal(&id.container, signal).map_err(|e| refused(e.to_string()))
        } else {
            sys::kill(pid, signal).map_err(|errno| refused(words(errno)))
        }
    }

    fn resize(&mut self, id: &ProcessId, size: TerminalSize) -> Result<(), Fault> {
        self.known_alive_mut(id)?;
        let terminal = self.processes.get(id).and_then(|process| process.terminal);
        match terminal.and_then(|token| self.watched.get(&token)) {
            Some(Watched::Relay(_, relay)) => {
                terminal::resize(relay.local(), size).map_err(refused("terminal size"))
            }
            _ => Err(fault(FaultKind::InvalidSpec, format!("{} has no terminal", named(id)))),
        }
    }

    /// Reaps every process that has ended: the agent's own, and those that others left behind.
    pub(crate) fn reap(&mut self, signals: OwnedFd) -> Option<Watched> {
        // One record says as much as many: ask until nobody is left.
        let mut record = [0; 128];
        while rustix::io::read(&signals, &mut record).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let known = self.processes.iter().find_map(|(id, process)| {
                process.alive().is_some_and(|alive| alive.pid == pid).then(|| id.clone())
            });
            if let Some(id) = known {
                self.has_ended(&id, exit_status(status));
            }
        }
        Some(Watched::Children(signals))
    }

    fn has_ended(&mut self, id: &ProcessId, status: ExitStatus) {
        // What it said last stands behind nothing else any more.
        if let Some(control) = self.alive_mut(id).and_then(|alive| alive.control) {
            self.serve(control);
        }
        let Some(process) = self.processes.get_mut(id) else { return };
        let Life::Alive(alive) = std::mem::replace(&mut process.life, Life::Ended(status)) else {
            return;
        };
        let relays = process.relays.clone();
        if id.exec.is_none() {
            self.container_has_ended(id);
        }
        if let Stage::Failed { asker, fault } = alive.stage {
            for token in relays {
                self.watched.remove(&token);
            }
            let failed = self.processes.remove(id);
            for waiting in failed.into_iter().flat_map(|process| process.waiting) {
                self.answer(waiting, Err(fault.clone()));
            }
            return self.answer(asker, Err(fault));
        }
        for token in relays {
            if let Some(Watched::Relay(id, mut relay)) = self.watched.remove(&token) {
                // The first takes every other with it, an exec may leave some behind.
                let turn = relay.process_ended(id.exec.is_some());
                if let Some(relay) = self.after_turn(token, id, relay, turn) {
                    self.watched.insert(token, relay);
                }
            }
        }
        self.tell_who_waits(id);
    }

    /// Its other processes are gone, and its mounts with its namespaces. What is left is the cgroup,
    /// and what was meant for it and never used.
    fn container_has_ended(&mut self, first: &ProcessId) {
        if let Err(error) = self.guest.cgroups.remove(&first.container) {
            kmsg::say(Weight::Warning, &format!("cgroup of {}: {error}", first.container));
        }
        self.lines.retain(|(id, _), _| id.container != first.container);
        let is_exec = |id: &ProcessId| id.container == first.container && id.exec.is_some();
        let late: Vec<ProcessId> = self.pending.keys().filter(|id| is_exec(id)).cloned().collect();
        for id in late {
            if let Some((asker, _)) = self.pending.remove(&id) {
                self.answer(asker, Err(wrong_state(first, "has ended")));
            }
        }
    }

    /// Keeps book after a relay's turn, and the relay if there is more for it to do.
    pub(crate) fn after_turn(
        &mut self,
        token: Token,
        id: ProcessId,
        relay: Relay,
        turn: Turn,
    ) -> Option<Watched> {
        if turn.again {
            self.unfinished.push(token);
        }
        if let Some(process) = self.processes.get_mut(&id) {
            if turn.drained {
                process.undrained.retain(|undrained| *undrained != token);
            }
            if turn.over {
                process.relays.retain(|relay| *relay != token);
            }
        }
        if turn.drained {
            self.tell_who_waits(&id);
        }
        (!turn.over).then_some(Watched::Relay(id, relay))
    }

    fn tell_who_waits(&mut self, id: &ProcessId) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let Some(status) = process.outcome() else { return };
        for asker in std::mem::take(&mut process.waiting) {
            self.answer(asker, Ok(Reply::Exited { status }));
        }
    }

    /// The first process of the container `id` is in, if that can be joined.
    fn first_of(&self, id: &ProcessId) -> Result<&Alive, Fault> {
        let first = ProcessId { container: id.container.clone(), exec: None };
        let process = self.processes.get(&first).ok_or_else(|| no_such(&first))?;
        match process.alive() {
            Some(alive) if alive.is_set_up() => Ok(alive),
            Some(_) => Err(wrong_state(&first, "is being set up")),
            None => Err(wrong_state(&first, "has ended")),
        }
    }

    fn alive_mut(&mut self, id: &ProcessId) -> Option<&mut Alive> {
        self.processes.get_mut(id)?.alive_mut()
    }

    fn known_alive_mut(&mut self, id: &ProcessId) -> Result<&mut Alive, Fault> {
        let process = self.processes.get_mut(id).ok_or_else(|| no_such(id))?;
        process.alive_mut().ok_or_else(|| wrong_state(id, "has ended"))
    }
}

/// A name becomes a directory of the cgroup hierarchy.
fn judge_name(container: &str) -> Result<(), Fault> {
    if matches!(container.len(), 1..=200) && !container.contains(['/', '\0', '\n']) {
        return Ok(());
    }
    let message = format!("container {container:?}: a name has 1 to 200 bytes and no '/'");
    Err(fault(FaultKind::InvalidSpec, message))
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => ExitStatus::Signal(byte(signal)),
        (code, None) => ExitStatus::Code(byte(code.unwrap_or(0))),
    }
}

fn fault(kind: FaultKind, message: String) -> Fault {
    Fault { kind, message }
}

fn no_such(id: &ProcessId) -> Fault {
    fault(FaultKind::NoSuchProcess, format!("{} does not exist", named(id)))
}

fn wrong_state(id: &ProcessId, state: &str) -> Fault {
    fault(FaultKind::NoSuchProcess, format!("{} {state}", named(id)))
}

/// The process in words.
fn named(id: &ProcessId) -> String {
    match &id.exec {
        None => format!("container {}", id.container),
        Some(exec) => format!("exec {exec} in container {}", id.container),
    }
}
