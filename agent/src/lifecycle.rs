//! From a call to a process that runs.

use std::os::fd::OwnedFd;

use proto::files::Work;
use proto::message::{Fault, FaultKind, ProcessId, Reply, Request};
use proto::spec::{Process, Stdio, TerminalSize};

use crate::agent::{Agent, Stop, Watched};
use crate::birth::{Host, Plan};
use crate::control::{AgentEnd, News};
use crate::faults::{fault, named, no_such, refused, system, wrong_state};
use crate::kmsg::{self, Weight};
use crate::process::terminal;
use crate::processes::{self, Alive, Asker, Planned, Stage, Waiting};
use crate::reactor::Token;
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
        if self.orphaned && !matches!(request, Request::Adopt(_) | Request::PowerOff) {
            let message = "the guest was saved, and nobody has adopted it".to_owned();
            return Some(Err(fault(FaultKind::System, message)));
        }
        match request {
            Request::Create { container, spec } => {
                let id = ProcessId { container, exec: None };
                self.plan(asker, id, Plan::Container(spec)).err().map(Err)
            }
            Request::Exec { process, spec } => {
                self.plan(asker, process, Plan::Exec(spec)).err().map(Err)
            }
            Request::Carry { process, work } => {
                let stdin = matches!(work, Work::Write { .. });
                let stdio = Stdio::Pipes { stdin, stdout: true, stderr: false };
                let plan = Process { stdio, ..Process::default() };
                let plan = Plan::Carry { work, process: Box::new(plan) };
                self.plan(asker, process, plan).err().map(Err)
            }
            Request::Start { container } => self.start(asker, container).err().map(Err),
            Request::Signal { process, signal, all } => {
                Some(self.signal(&process, signal, all).map(|()| Reply::Done))
            }
            Request::Resize { process, size } => {
                Some(self.resize(&process, size).map(|()| Reply::Done))
            }
            Request::Wait { process, early } => self.wait(Waiting { asker, early }, &process),
            Request::Processes { container } => Some(self.list_processes(container)),
            Request::ReadProc { container, files } => Some(self.read_proc(container, files)),
            Request::ReadCgroup { container, files } => Some(self.read_cgroup(container, files)),
            Request::WriteCgroup { container, values } => {
                Some(self.write_cgroup(container, &values))
            }
            Request::Connect { network } => {
                let connected = self.ground.connect(network).map_err(system);
                Some(connected.map(|()| Reply::Done))
            }
            Request::Introduce { container, gone, come } => {
                Some(self.introduce(container, &gone, &come))
            }
            Request::PowerOff => {
                self.stop = Some(Stop::PowerOff);
                Some(Ok(Reply::Done))
            }
            Request::Settle => {
                let settled = self.ground.settle().map_err(system);
                self.orphaned = true;
                Some(settled.map(|()| Reply::Done))
            }
            Request::Adopt(adoption) => {
                // Whoever has not got all of it is nobody's.
                self.orphaned = true;
                let adopted = self.ground.adopt(&adoption).map_err(system);
                self.orphaned = adopted.is_err();
                Some(adopted.map(|()| Reply::Done))
            }
        }
    }

    fn wait(&mut self, who: Waiting, id: &ProcessId) -> Option<Result<Reply, Fault>> {
        let waiting = match (self.pending.get_mut(id), self.processes.get_mut(id)) {
            (Some(planned), _) => &mut planned.waiting,
            (None, Some(known)) => match known.end_for(who) {
                Some(status) => return Some(Ok(Reply::Exited { status })),
                None => &mut known.waiting,
            },
            (None, None) => return Some(Err(no_such(id))),
        };
        waiting.push(who);
        None
    }

    /// Notes a process that is to be, and makes it if its streams are there.
    fn plan(&mut self, asker: Asker, id: ProcessId, plan: Plan) -> Result<(), Fault> {
        self.judge_name(&id, &plan)?;
        if let Err(fault) = self.judge_place(&id, &plan) {
            self.lines.retain(|(whose, _), _| *whose != id);
            return Err(fault);
        }
        let planned = Planned { plan, asker, start: None, waiting: Vec::new() };
        self.pending.insert(id.clone(), planned);
        self.try_bear(&id);
        Ok(())
    }

    /// A name is in use until everything about its process was said.
    fn judge_name(&self, id: &ProcessId, plan: &Plan) -> Result<(), Fault> {
        let takes_over = |known: &ProcessId| match plan {
            Plan::Container(_) => known.container == id.container,
            Plan::Exec(_) | Plan::Carry { .. } => known == id,
        };
        let mut known = self.processes.iter().filter(|(known, _)| takes_over(known));
        if known.any(|(_, process)| process.outcome().is_none()) || self.pending.contains_key(id) {
            return Err(fault(FaultKind::AlreadyExists, format!("{} exists already", named(id))));
        }
        Ok(())
    }

    /// A container's name becomes a directory of the cgroup hierarchy; an exec needs a container.
    fn judge_place(&self, id: &ProcessId, plan: &Plan) -> Result<(), Fault> {
        let name = &id.container;
        let wrong = |what| fault(FaultKind::InvalidSpec, format!("{}: {what}", named(id)));
        match (plan, &id.exec) {
            (Plan::Container(_), _) if !matches!(name.len(), 1..=200) => {
                Err(wrong("a name has 1 to 200 bytes"))
            }
            (Plan::Container(_), _) if name.contains(['/', '\0', '\n']) => {
                Err(wrong("a name has no slash, no line break and no zero byte"))
            }
            (Plan::Container(_), _) => Ok(()),
            (Plan::Exec(_) | Plan::Carry { .. }, Some(_)) => self.first_of(id).map(drop),
            (Plan::Exec(_) | Plan::Carry { .. }, None) => {
                Err(wrong("an exec has a name of its own"))
            }
        }
    }

    /// Makes a process if it is asked for and all its streams are there.
    pub(crate) fn try_bear(&mut self, id: &ProcessId) {
        let Some(Planned { plan, .. }) = self.pending.get(id) else { return };
        let mut wanted = plan.process().streams().into_iter();
        if !wanted.all(|stream| self.lines.contains_key(&(id.clone(), stream))) {
            return;
        }
        if let Some(mut planned) = self.pending.remove(id)
            && let Err(fault) = self.bear(id, &mut planned)
        {
            for asker in planned.askers() {
                self.answer(asker, Err(fault.clone()));
            }
        }
    }

    fn bear(&mut self, id: &ProcessId, planned: &mut Planned) -> Result<(), Fault> {
        let Planned { plan, asker, start, waiting } = planned;
        let plan: &Plan = plan;
        let laid = stdio::lay(id, plan.process(), &mut self.lines).map_err(refused("stdio"))?;
        let newborn = match plan {
            Plan::Container(spec) => {
                let born = self.guest.bear_container(&id.container, spec, plan, &laid.ends);
                let newborn = born.inspect_err(|_| self.clear_cgroup(&id.container))?;
                // What is known about an earlier container of this name goes with the name.
                self.processes.retain(|known, _| known.container != id.container);
                newborn
            }
            Plan::Exec(_) => {
                let host = Host::of(id, self.first_of(id)?);
                self.guest.bear_exec(&host, plan, &laid.ends)?
            }
            Plan::Carry { work, .. } => {
                let first = self.first_of(id)?;
                let host = Host::of(id, first);
                self.guest.bear_carrier(&host, first.layers.as_ref(), work, &laid.ends)?
            }
        };
        let (terminal, devices) = (laid.terminal, newborn.devices);
        let stage = Stage::SettingUp { asker: *asker, start: *start, terminal, devices };
        let waiting = std::mem::take(waiting);
        let mut process =
            processes::Process::new(asker.session, newborn.pid, newborn.pidfd, stage, waiting);
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
                Some(News::Layers(layers)) => {
                    if let Some(alive) = self.alive_mut(&id) {
                        alive.layers = Some(layers);
                    }
                }
                Some(News::Acquaintances(file)) => {
                    if let Some(alive) = self.alive_mut(&id) {
                        alive.acquaintances = Some(file);
                    }
                }
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
        let (asker, start, line, devices) = match alive.take_stage() {
            Stage::SettingUp { asker, start, terminal, devices } => {
                (asker, start, terminal, devices)
            }
            stage => return alive.stage = stage,
        };
        // Setting up took devices that the container is not to have: disks, for one.
        if let Some(devices) = devices
            && let Err(errno) = self.guest.cgroups.guard(&id.container, &devices)
        {
            return self.give_up(id, asker, start, refused("device program")(errno));
        }
        let Some(alive) = self.alive_mut(id) else { return };
        let goes_for = if id.exec.is_some() { Some(asker) } else { start };
        match goes_for {
            Some(asker) => {
                alive.stage = Stage::Starting { asker };
                control.go();
            }
            None => alive.stage = Stage::Created,
        }
        if id.exec.is_none() {
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

    /// Ends a process that is set up and cannot be let go.
    fn give_up(&mut self, id: &ProcessId, asker: Asker, start: Option<Asker>, fault: Fault) {
        let Some(alive) = self.alive_mut(id) else { return };
        alive.stage = Stage::Failed { askers: [asker].into_iter().chain(start).collect(), fault };
        // If it is dead already, so much the better.
        let _ = sys::kill(alive.pid, libc::SIGKILL);
    }

    fn has_failed(&mut self, id: &ProcessId, fault: Fault) {
        let Some(alive) = self.alive_mut(id) else { return };
        alive.stage = match alive.take_stage() {
            Stage::SettingUp { asker, start, .. } => {
                Stage::Failed { askers: [asker].into_iter().chain(start).collect(), fault }
            }
            Stage::Starting { asker } => Stage::Failed { askers: vec![asker], fault },
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
            stage => {
                alive.stage = stage;
                let message = format!("{} ended while it was set up", named(id));
                self.has_failed(id, fault(FaultKind::System, message));
            }
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
        let started = || wrong_state(&id, "was started already");
        if let Some(planned) = self.pending.get_mut(&id) {
            if planned.start.is_some() {
                return Err(started());
            }
            planned.start = Some(asker);
            return Ok(());
        }
        let alive = self.known_alive_mut(&id)?;
        let token = match (&mut alive.stage, alive.control) {
            (Stage::SettingUp { start: start @ None, .. }, _) => {
                *start = Some(asker);
                return Ok(());
            }
            (Stage::Created, Some(token)) => token,
            (Stage::Created, None) => return Err(wrong_state(&id, "has ended")),
            (Stage::Failed { .. }, _) => return Err(wrong_state(&id, "could not be made")),
            (Stage::SettingUp { .. } | Stage::Starting { .. } | Stage::Running, _) => {
                return Err(started());
            }
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

    pub(crate) fn alive_mut(&mut self, id: &ProcessId) -> Option<&mut Alive> {
        self.processes.get_mut(id)?.alive_mut()
    }

    pub(crate) fn known_alive_mut(&mut self, id: &ProcessId) -> Result<&mut Alive, Fault> {
        let process = self.processes.get_mut(id).ok_or_else(|| no_such(id))?;
        process.alive_mut().ok_or_else(|| wrong_state(id, "has ended"))
    }
}
