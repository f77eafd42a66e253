//! What a forked child does until it is the program it was made for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use proto::message::Fault;
use proto::spec::{Process, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::birth::{Guest, Plan};
use crate::container::within::Within;
use crate::container::{self, namespaces};
use crate::control::ChildEnd;
use crate::faults::refused;
use crate::process::terminal::Terminal;
use crate::process::{self, Departure};
use crate::sys;

/// As many descriptors has a process of which nobody said anything.
pub(crate) const STANDARD: usize = 3;

/// The container that an exec goes to.
#[derive(Clone, Copy)]
pub(crate) struct Join<'a> {
    /// Its first process.
    pub(crate) pidfd: BorrowedFd<'a>,
    /// It has users of its own.
    pub(crate) users: bool,
}

impl Guest {
    /// The child's whole life before its program. Comes back only with what ended it.
    pub(crate) fn live(
        &self,
        plan: &Plan,
        ends: &[OwnedFd],
        join: Option<Join<'_>>,
        control: &ChildEnd,
    ) -> Fault {
        match self.prepare(plan, ends, join, control) {
            Err(fault) => fault,
            Ok((departure, terminal)) => {
                let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
                if !control.ready(master) {
                    sys::exit_now(1);
                }
                departure.go(plan.hooks()).into()
            }
        }
    }

    fn prepare<'a>(
        &self,
        plan: &'a Plan,
        ends: &'a [OwnedFd],
        join: Option<Join<'_>>,
        control: &ChildEnd,
    ) -> Result<(Departure<'a>, Option<Terminal>), Fault> {
        let proc = self.proc.as_fd();
        let (standard, preserved) = ends.split_at(STANDARD);
        let keep = [Some(control.as_fd()), Some(proc), join.map(|join| join.pidfd)];
        shed(standard, preserved, &keep)?;
        if let Some(score) = plan.process().oom_score_adj {
            adjust_oom_score(proc, score).map_err(refused("process.oomScoreAdj"))?;
        }
        let terminal = match plan {
            Plan::Container(spec) => {
                if namespaces::has_users(spec) && !control.waits() {
                    sys::exit_now(1);
                }
                container::set_up(spec, &self.stage, proc, control)?
            }
            Plan::Exec(spec) => enter(join, spec)?,
            // It has a childhood of its own.
            Plan::Carry { .. } => return Err(refused("files")(Errno::INVAL)),
        };
        // From here on names of the container are followed, which may lead through descriptors.
        let [master, slave] = match &terminal {
            Some(terminal) => [Some(terminal.master.as_fd()), Some(terminal.slave.as_fd())],
            None => [None, None],
        };
        close_all_but(preserved, &[Some(control.as_fd()), master, slave])?;
        let departure = process::assume(plan.process(), terminal.as_ref(), preserved)?;
        if plan.hooks().is_empty() {
            // With hooks it may be one of them that brings it.
            departure.look()?;
        }
        Ok((departure, terminal))
    }
}

/// Goes where the container's first process is; its pid namespace and cgroup were the child's
/// from birth.
fn enter(join: Option<Join<'_>>, spec: &Process) -> Result<Option<Terminal>, Fault> {
    let Join { pidfd, users } = join.ok_or(Errno::SRCH).map_err(refused("container"))?;
    let mut rest = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::TIME;
    // Nobody can join the users that are its own already.
    rest.set(ThreadNameSpaceType::USER, users);
    move_into_thread_name_spaces(pidfd, rest).map_err(refused("namespaces"))?;
    if users {
        namespaces::take_root().map_err(refused("user namespace"))?;
    }
    match spec.stdio {
        Stdio::Pipes { .. } => Ok(None),
        Stdio::Terminal { size } => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::open("/", flags, Mode::empty()).map_err(refused("/"))?;
            let terminal = Terminal::open(&Within::new(&root), size);
            let fault = |error| container::SetupError::Terminal(error).into();
            terminal.map(Some).map_err(fault)
        }
    }
}

/// Lets go of all that is the agent's, but of `standard`, which become the standard streams, of those that get
/// their numbers last, and of what is to be kept.
pub(crate) fn shed(
    standard: &[OwnedFd],
    preserved: &[OwnedFd],
    keep: &[Option<BorrowedFd<'_>>],
) -> Result<(), Fault> {
    // A process of the container that it joins could look into this one: not while it holds a copy of the
    // agent. `execve` lifts this.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("dumpable"))?;
    for (number, end) in (0..).zip(standard) {
        sys::place_descriptor(end.as_fd(), number).map_err(refused("stdio"))?;
    }
    close_all_but(preserved, keep)
}

fn close_all_but(preserved: &[OwnedFd], keep: &[Option<BorrowedFd<'_>>]) -> Result<(), Fault> {
    let keep = keep.iter().flatten().map(AsRawFd::as_raw_fd);
    let mut keep: Vec<_> = keep.chain(preserved.iter().map(AsRawFd::as_raw_fd)).collect();
    sys::close_all_but(&mut keep).map_err(refused("descriptors"))
}

fn adjust_oom_score(proc: BorrowedFd<'_>, score: i32) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(file, score.to_string().as_bytes()).map(drop)
}
