//! Forking a process: the agent's half and the child's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use proto::message::Fault;
use proto::spec::{Container, Process, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::container::cgroup::Cgroups;
use crate::container::within::Within;
use crate::container::{self, Stage};
use crate::control::{self, AgentEnd, ChildEnd};
use crate::faults::refused;
use crate::process::terminal::Terminal;
use crate::process::{self, Program};
use crate::sys::{self, Forked, NewNamespaces};
use crate::words::Refused;

/// What of the guest new processes are made in.
pub struct Guest {
    pub(crate) cgroups: Cgroups,
    stage: Stage,
    proc: OwnedFd,
    pid_namespace: OwnedFd,
}

/// What a new process is to be.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The first of a container.
    Container(Box<Container>),
    /// One more in a container.
    Exec(Box<Process>),
}

impl Plan {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Container(spec) => &spec.process,
            Self::Exec(process) => process,
        }
    }
}

/// A process that is being set up.
pub(crate) struct Newborn {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: AgentEnd,
}

/// Where an exec goes.
pub(crate) struct Host<'a> {
    /// The container's first process.
    pub(crate) pid: Pid,
    pub(crate) pidfd: BorrowedFd<'a>,
}

impl Guest {
    /// Uses `run` to put roots together and the cgroup hierarchy mounted at `cgroups`.
    pub fn new(run: &Path, cgroups: &Path) -> Result<Self, Refused> {
        let stage = Stage::new(run);
        stage.build().map_err(Refused::at(run.display().to_string()))?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(Refused::at("/proc"))?;
        let (name, flags) = ("self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC);
        let pid_namespace = rustix::fs::openat(&proc, name, flags, Mode::empty());
        let pid_namespace = pid_namespace.map_err(Refused::at(name))?;
        Ok(Self { cgroups: Cgroups::new(cgroups.to_owned()), stage, proc, pid_namespace })
    }

    /// Lets containers use every cgroup controller of the guest.
    pub fn delegate_cgroups(&self) -> std::io::Result<()> {
        self.cgroups.delegate()
    }

    /// Forks the first process of the container of this name.
    pub(crate) fn bear_container(
        &self,
        name: &str,
        plan: &Plan,
        ends: &[OwnedFd; 3],
    ) -> Result<Newborn, Fault> {
        let cgroup = self.cgroups.create(name).map_err(refused("cgroup"))?;
        let fork = || sys::fork(NewNamespaces::CONTAINER, cgroup.as_fd());
        self.bear(plan, ends, None, fork)
    }

    /// Forks a process that joins a container.
    pub(crate) fn bear_exec(
        &self,
        host: &Host<'_>,
        plan: &Plan,
        ends: &[OwnedFd; 3],
    ) -> Result<Newborn, Fault> {
        let cgroup = self.cgroups.where_is(host.pid).map_err(refused("cgroup"))?;
        // Only a child can be in another pid namespace, so the agent forks with its eye on that one.
        // Nothing is forked in between, and the child stays the agent's own, to be reaped by it.
        let fork = || {
            move_into_thread_name_spaces(host.pidfd, ThreadNameSpaceType::PROCESS_ID)?;
            let forked = sys::fork(NewNamespaces::NONE, cgroup.as_fd());
            if !matches!(forked, Ok(Forked::Child)) {
                let own = Some(LinkNameSpaceType::ProcessID);
                move_into_link_name_space(self.pid_namespace.as_fd(), own)?;
            }
            forked
        };
        self.bear(plan, ends, Some(host.pidfd), fork)
    }

    fn bear(
        &self,
        plan: &Plan,
        ends: &[OwnedFd; 3],
        join: Option<BorrowedFd<'_>>,
        fork: impl FnOnce() -> Result<Forked, Errno>,
    ) -> Result<Newborn, Fault> {
        let (control, childs) = control::pair().map_err(refused("control socket"))?;
        match fork().map_err(refused("fork"))? {
            Forked::Parent { pid, pidfd } => Ok(Newborn { pid, pidfd, control }),
            Forked::Child => {
                let fault = self.live(plan, ends, join, &childs);
                childs.fault(fault);
                sys::exit_now(1)
            }
        }
    }

    /// The child's whole life before its program. Comes back only with what ended it.
    fn live(
        &self,
        plan: &Plan,
        ends: &[OwnedFd; 3],
        join: Option<BorrowedFd<'_>>,
        control: &ChildEnd,
    ) -> Fault {
        match self.prepare(plan, ends, join, control) {
            Err(fault) => fault,
            Ok((program, terminal)) => {
                let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
                if !control.ready(master) {
                    sys::exit_now(1);
                }
                match sys::restore_signals() {
                    Ok(()) => program.run().into(),
                    Err(errno) => refused("signals")(errno),
                }
            }
        }
    }

    fn prepare(
        &self,
        plan: &Plan,
        ends: &[OwnedFd; 3],
        join: Option<BorrowedFd<'_>>,
        control: &ChildEnd,
    ) -> Result<(Program, Option<Terminal>), Fault> {
        // A process of the container that it joins could look into this one: not while it holds a
        // copy of the agent. `execve` lifts this.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(refused("dumpable"))?;
        for (number, end) in (0..).zip(ends) {
            sys::place_descriptor(end.as_fd(), number).map_err(refused("stdio"))?;
        }
        let proc = self.proc.as_fd();
        close_all_but(&[Some(control.as_fd()), Some(proc), join])?;
        if let Some(score) = plan.process().oom_score_adj {
            adjust_oom_score(proc, score).map_err(refused("process.oomScoreAdj"))?;
        }
        let terminal = match plan {
            Plan::Container(spec) => container::set_up(spec, &self.stage, proc)?,
            Plan::Exec(spec) => self.join(join, spec)?,
        };
        // From here on names of the container are followed, which may lead through descriptors.
        let [master, slave] = match &terminal {
            Some(terminal) => [Some(terminal.master.as_fd()), Some(terminal.slave.as_fd())],
            None => [None, None],
        };
        close_all_but(&[Some(control.as_fd()), master, slave])?;
        let program = process::assume(plan.process(), terminal.as_ref())?;
        Ok((program, terminal))
    }

    /// Goes where the container's first process is; its pid namespace and cgroup were the child's
    /// from birth.
    fn join(
        &self,
        pidfd: Option<BorrowedFd<'_>>,
        spec: &Process,
    ) -> Result<Option<Terminal>, Fault> {
        let rest = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::CONTROL_GROUP;
        let pidfd = pidfd.ok_or(Errno::SRCH).map_err(refused("container"))?;
        move_into_thread_name_spaces(pidfd, rest).map_err(refused("namespaces"))?;
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
}

fn close_all_but(keep: &[Option<BorrowedFd<'_>>]) -> Result<(), Fault> {
    let mut keep: Vec<_> = keep.iter().flatten().map(AsRawFd::as_raw_fd).collect();
    sys::close_all_but(&mut keep).map_err(refused("descriptors"))
}

fn adjust_oom_score(proc: BorrowedFd<'_>, score: i32) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(file, score.to_string().as_bytes()).map(drop)
}
