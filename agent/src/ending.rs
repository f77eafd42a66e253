//! From a process's end to the answers that wait for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use proto::message::{ExitStatus, ProcessId, Reply};
use rustix::process::{WaitOptions, WaitStatus};

use crate::agent::{Agent, Watched};
use crate::faults::wrong_state;
use crate::kmsg::{self, Weight};
use crate::processes::{Life, Planned, Stage};
use crate::reactor::Token;
use crate::relay::{Relay, Turn};

impl Agent {
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
        for container in std::mem::take(&mut self.leaving) {
            self.clear_cgroup(&container);
            self.tell_who_waits(&ProcessId { container, exec: None });
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
        if let Stage::Failed { askers, fault } = alive.stage {
            for token in relays {
                self.watched.remove(&token);
            }
            let waiting = self.processes.remove(id).map(|process| process.waiting);
            let waiting = waiting.into_iter().flatten().map(|waiting| waiting.asker);
            for asker in askers.into_iter().chain(waiting) {
                self.answer(asker, Err(fault.clone()));
            }
            return;
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
        self.clear_cgroup(&first.container);
        self.lines.retain(|(id, _), _| id.container != first.container);
        let is_late = |id: &ProcessId| id.container == first.container && id.exec.is_some();
        self.abandon(|id, _| is_late(id), "came too late: its container has ended");
    }

    /// Removes a container's cgroup. Processes that share the guest's pid namespace do not end with
    /// the first: they are killed, and the cgroup goes when the last of them was reaped.
    pub(crate) fn clear_cgroup(&mut self, container: &str) {
        let cgroups = &self.guest.cgroups;
        let cleared = cgroups.signal(container, libc::SIGKILL);
        let cleared = cleared.and_then(|()| cgroups.remove(container));
        let is_busy = cleared.as_ref().is_err_and(|error| error.kind() == ErrorKind::ResourceBusy);
        let first = ProcessId { container: container.to_owned(), exec: None };
        if let Some(process) = self.processes.get_mut(&first) {
            process.is_outlived = is_busy;
        }
        match cleared {
            Ok(()) => {}
            Err(_) if is_busy => {
                self.leaving.insert(first.container);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                kmsg::say(Weight::Warning, &format!("cgroup of {container}: {error}"));
            }
        }
    }

    /// Gives up processes that were planned and are not to be.
    pub(crate) fn abandon(&mut self, which: impl Fn(&ProcessId, &Planned) -> bool, why: &str) {
        let planned = std::mem::take(&mut self.pending).into_iter();
        let (given_up, kept) = planned.partition(|(id, planned)| which(id, planned));
        self.pending = kept;
        let given_up: BTreeMap<ProcessId, Planned> = given_up;
        for (id, planned) in given_up {
            self.lines.retain(|(whose, _), _| *whose != id);
            for asker in planned.askers() {
                self.answer(asker, Err(wrong_state(&id, why)));
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
        for who in std::mem::take(&mut process.waiting) {
            let Some(process) = self.processes.get_mut(id) else { return };
            match process.end_for(who) {
                Some(status) => self.answer(who.asker, Ok(Reply::Exited { status })),
                None => process.waiting.push(who),
            }
        }
        self.forget_execs();
    }

    /// Forgets the ends of execs about which nobody can ask any more.
    pub(crate) fn forget_execs(&mut self) {
        let watched = &self.watched;
        self.processes.retain(|id, process| {
            let is_over = id.exec.is_some() && process.outcome().is_some();
            !is_over || watched.contains_key(&process.session)
        });
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => ExitStatus::Signal(byte(signal)),
        (code, None) => ExitStatus::Code(byte(code.unwrap_or(0))),
    }
}
