//! A container's VM that runs, and whoever looks after it.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use proto::message::{ExitStatus, ProcessId};
use proto::network::Network;

use super::{BootError, connect};
use crate::attend::{AttendError, Attendance, Belongings, Held, Reached, Wish};
use crate::exit::Failure;
use crate::network;
use crate::orders::Orders;
use crate::plan::Plan;
use crate::relay::Front;
use crate::session::Session;
use crate::shares;
use crate::signals::Signals;
use crate::state::record::{self, Outcome, Record};
use crate::state::{Claim, Dir, StateError};
use crate::timeline::Timeline;
use crate::undo::Undo;
use crate::visit::Visited;
use crate::vm::Vm;

/// A container whose VM runs. Dropping it ends the VM and removes all trace of the container.
pub(crate) struct Running {
    // Dropped in this order: the VM, its traces, and last the lock that says it is alive.
    pub(super) session: Session,
    pub(super) vm: Vm,
    pub(super) files: Option<shares::Server>,
    pub(super) held: network::Held,
    pub(super) traces: Undo,
    pub(super) record: Record,
    pub(super) plan: Plan,
    pub(super) network: Network,
    pub(super) claim: Claim,
}

/// Those who have to do with a container that is held once it is created.
struct Awaited<'a> {
    orders: &'a Orders,
    caller: Option<OwnedFd>,
    /// Hears that it is created, and says whether it is worth keeping.
    created: Box<dyn FnOnce() -> Result<bool, AttendError> + 'a>,
}

impl Running {
    /// Where its output goes.
    pub(crate) fn front(&self, interactive: bool) -> Result<Front, BootError> {
        if !self.record.detached {
            return Ok(Front::Caller { interactive, preserved: Vec::new() });
        }
        let path = self.claim.dir.log_path();
        let open = File::options().create(true).append(true).open(&path);
        Ok(Front::Log(open.map_err(|source| BootError::Log { path, source })?))
    }

    /// Looks after the container until it has ended, and after what is left of it.
    pub(crate) fn attend(
        self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        started: impl FnOnce(),
    ) -> Result<ExitStatus, AttendError> {
        self.see_through(front, signals, timeline, None, started)
    }

    /// As [`Self::attend`], but the container is held once it is created, and others say how it goes on.
    /// What is left of it stays, for whoever deletes it.
    ///
    /// `caller` hangs up when nobody waits for the creation any more, and `created` says whether somebody
    /// has heard of it: a container that nobody knows of is ended, and nothing of it stays.
    pub(crate) fn attend_held(
        self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        caller: OwnedFd,
        created: impl FnOnce() -> bool,
    ) -> Result<ExitStatus, AttendError> {
        let orders = self.orders()?;
        let created = || if created() { Ok(true) } else { Err(AttendError::Unwanted) };
        let (caller, created) = (Some(caller), Box::new(created));
        let awaited = Awaited { orders: &orders, caller, created };
        self.see_through(front, signals, timeline, Some(awaited), || ())
    }

    /// Shows `what` the container once it is created, and ends it then. What was written to its disk stays.
    pub(crate) fn show<T>(
        self,
        signals: &Signals,
        timeline: &Timeline,
        what: impl FnOnce(&Visited) -> T,
    ) -> Result<T, AttendError> {
        let orders = self.orders()?;
        let io = |source| StateError::Io { path: self.claim.dir.path().to_owned(), source };
        let visited = Visited::of(self.claim.dir.another().map_err(io)?, self.record.clone());
        let mut seen = None;
        let created = || {
            seen = Some(what(&visited));
            // Its disk is taken down in order when its only process, which has not begun, is gone.
            visited.signal(Signal::SIGKILL as i32, true).map_err(AttendError::of_visit)?;
            Ok(false)
        };
        let awaited = Awaited { orders: &orders, caller: None, created: Box::new(created) };
        let nothing = File::options().write(true).open("/dev/null").map_err(AttendError::Relay)?;
        let end = self.see_through(Front::Log(nothing), signals, timeline, Some(awaited), || ());
        match (end, seen) {
            (Ok(_), Some(seen)) => Ok(seen),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(AttendError::Unwanted),
        }
    }

    fn orders(&self) -> Result<Orders, AttendError> {
        Orders::listen(&self.claim.dir).map_err(|source| {
            let path = self.claim.dir.path().join("orders.sock");
            AttendError::State(StateError::Io { path, source })
        })
    }

    fn see_through(
        mut self,
        front: Front,
        signals: &Signals,
        timeline: &Timeline,
        awaited: Option<Awaited<'_>>,
        started: impl FnOnce(),
    ) -> Result<ExitStatus, AttendError> {
        let process = ProcessId { container: self.plan.name.to_string(), exec: None };
        let mut worth_keeping = false;
        let (dir, record, keep_it) = (&self.claim.dir, &mut self.record, &mut worth_keeping);
        let network = self.held.followed(self.vm.has_free_slots());
        let held = awaited.map(|Awaited { orders, caller, created }| {
            let mut created = Some(created);
            let reached = move |reached| {
                if let Some(oci) = &mut record.oci {
                    match (reached, &mut oci.network) {
                        (Reached::Status(status), _) => oci.status = status,
                        (Reached::Interfaces(names), Some(trace)) => trace.interfaces = names,
                        // In a namespace that goes with its VM nothing is left.
                        (Reached::Interfaces(_), None) => return Ok(()),
                    }
                }
                dir.write(record)?;
                if let Some(created) = created.take() {
                    *keep_it = created()?;
                }
                Ok(())
            };
            Held { orders, caller, reached: Box::new(reached) }
        });
        let mut has_started = false;
        let end = Attendance {
            process: process.clone(),
            session: self.session,
            adopt: Some(Belongings {
                disk_sectors: self.vm.disk_sectors().to_vec(),
                network: self.network,
            }),
            vm: Some(&mut self.vm),
            signals,
            front,
            held,
            network,
            timeline,
        }
        .see_through(
            Wish::Container(Box::new(self.plan.container)),
            |streams| connect(&dir.socket_path(), &process, streams),
            || {
                has_started = true;
                started();
            },
        );
        if let Err(error) = &end {
            self.vm.doubt_template(error);
        }
        drop(self.vm);
        drop(self.files);
        drop(self.held);
        timeline.mark("vm gone");
        let outcome = outcome(&end);
        self.claim.leave(outcome.exit_code);
        let wanted = (has_started || worth_keeping) && !self.record.remove;
        if wanted && keep(&self.claim.dir, self.record, outcome).is_ok() {
            self.traces.keep();
        }
        end
    }
}

fn outcome(end: &Result<ExitStatus, AttendError>) -> Outcome {
    let (exit_code, error) = match end {
        Ok(status) => (status.shell_code(), None),
        Err(error) => {
            let failure = Failure::of(error);
            (failure.code, Some(failure.message))
        }
    };
    Outcome { exit_code, finished: record::now(), error }
}

/// Writes down how a container ended, and takes its sockets away.
fn keep(dir: &Dir, mut record: Record, outcome: Outcome) -> Result<(), StateError> {
    record.outcome = Some(outcome);
    dir.write(&record)?;
    dir.remove_sockets()
}
