//! Forking a process: the agent's half. What the child does then is in [`crate::childhood`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use proto::files::Work;
use proto::message::{Fault, FaultKind, ProcessId};
use proto::spec::{Container, Hook, Namespace, Preserved, Process, Stdio};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::childhood::{Join, STANDARD};
use crate::container::cgroup::Cgroups;
use crate::container::{self, Stage, namespaces};
use crate::control::{self, AgentEnd, Layers};
use crate::faults::{fault, refused};
use crate::processes::Alive;
use crate::sys::bpf::DeviceProgram;
use crate::sys::{self, Forked, NewNamespaces};
use crate::words::{Refused, words};

/// What of the guest new processes are made in.
pub struct Guest {
    pub(crate) cgroups: Cgroups,
    pub(crate) stage: Stage,
    pub(crate) proc: OwnedFd,
    /// The namespaces of its own that the agent leaves for a moment, to fork from elsewhere.
    home: [(LinkNameSpaceType, OwnedFd); 3],
}

/// What a new process is to be.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The first of a container.
    Container(Box<Container>),
    /// One more in a container.
    Exec(Box<Process>),
    /// One of the agent's own that carries files of a container.
    Carry {
        work: Work,
        /// Only its streams count.
        process: Box<Process>,
    },
}

impl Plan {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Container(spec) => &spec.process,
            Self::Exec(process) | Self::Carry { process, .. } => process,
        }
    }

    /// What runs in the container before its own program.
    pub(crate) fn hooks(&self) -> &[Hook] {
        match self {
            Self::Container(spec) => &spec.start_hooks,
            Self::Exec(_) | Self::Carry { .. } => &[],
        }
    }
}

/// A process that is being set up.
pub(crate) struct Newborn {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: AgentEnd,
    /// What it may do with devices, once it is set up.
    pub(crate) devices: Option<DeviceProgram>,
}

/// Where an exec goes.
pub(crate) struct Host<'a> {
    /// The container's name.
    pub(crate) name: &'a str,
    /// The container's first process.
    pub(crate) pid: Pid,
    pub(crate) pidfd: BorrowedFd<'a>,
}

impl<'a> Host<'a> {
    /// The container that `id` is in, whose first process is `first`.
    pub(crate) fn of(id: &'a ProcessId, first: &'a Alive) -> Self {
        Self { name: &id.container, pid: first.pid, pidfd: first.pidfd() }
    }
}

impl Guest {
    /// Uses `run` to put roots together and the cgroup hierarchy mounted at `cgroups`.
    pub fn new(run: &Path, cgroups: &Path) -> Result<Self, Refused> {
        let stage = Stage::new(run);
        stage.build().map_err(Refused::at(run.display().to_string()))?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(Refused::at("/proc"))?;
        let home = |name: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&proc, name, flags, Mode::empty()).map_err(Refused::at(name))
        };
        let home = [
            (LinkNameSpaceType::ProcessID, home("self/ns/pid")?),
            (LinkNameSpaceType::Mount, home("self/ns/mnt")?),
            (LinkNameSpaceType::Time, home("self/ns/time")?),
        ];
        Ok(Self { cgroups: Cgroups::new(cgroups.to_owned()), stage, proc, home })
    }

    /// Lets containers use every cgroup controller of the guest.
    pub fn delegate_cgroups(&self) -> std::io::Result<()> {
        self.cgroups.delegate()
    }

    /// Forks the first process of the container of this name.
    pub(crate) fn bear_container(
        &self,
        name: &str,
        spec: &Container,
        plan: &Plan,
        ends: &[OwnedFd],
    ) -> Result<Newborn, Fault> {
        namespaces::judge(spec)?;
        let devices = match spec.device_program.as_slice() {
            [] => None,
            program => Some(DeviceProgram::load(program).map_err(refused("device program"))?),
        };
        let cgroup = self.cgroups.create(name).map_err(refused("cgroup"))?;
        self.cgroups
            .write(name, &spec.cgroup)
            .map_err(|error| fault(FaultKind::InvalidSpec, format!("linux.resources: {error}")))?;
        let new = NewNamespaces::by_clone(&spec.namespaces);
        let fork = || sys::fork(new, Some(cgroup.as_fd())).map_err(refused("fork"));
        let fork = || match spec.namespaces.contains(&Namespace::Time) {
            false => fork(),
            true => self.from(LinkNameSpaceType::Time, || {
                sys::unshare(NewNamespaces::TIME).map_err(refused("time namespace"))?;
                namespaces::set_clocks(self.proc.as_fd(), spec)?;
                fork()
            }),
        };
        let newborn = match namespaces::has_users(spec) {
            false => self.bear(plan, ends, None, fork)?,
            true => {
                // What takes the guest's root to mount is mounted before there is another.
                let fork = || {
                    self.from(LinkNameSpaceType::Mount, || {
                        sys::unshare(NewNamespaces::MOUNT).map_err(refused("mount namespace"))?;
                        container::set_the_stage(spec, &self.stage)?;
                        fork()
                    })
                };
                let newborn = self.bear(plan, ends, None, fork)?;
                namespaces::map_ids(self.proc.as_fd(), newborn.pid, spec)?;
                give_pipes(newborn.pid, plan, ends)?;
                newborn.control.go();
                newborn
            }
        };
        Ok(Newborn { devices, ..newborn })
    }

    /// Forks a process that joins a container.
    pub(crate) fn bear_exec(
        &self,
        host: &Host<'_>,
        plan: &Plan,
        ends: &[OwnedFd],
    ) -> Result<Newborn, Fault> {
        let asked = plan.process().cgroup.as_deref();
        let cgroup = self.cgroups.below(host.name, asked.unwrap_or(Path::new("/")));
        let cgroup = cgroup.map_err(|errno| no_cgroup(asked, errno))?;
        let users = self.has_users(host.pid).map_err(refused("user namespace"))?;
        if users {
            give_pipes(host.pid, plan, ends)?;
        }
        // Only a child can be in another pid namespace, so the agent forks with its eye on that one.
        // Nothing is forked in between, and the child stays the agent's own, to be reaped by it.
        let fork = || {
            self.from(LinkNameSpaceType::ProcessID, || {
                move_into_thread_name_spaces(host.pidfd, ThreadNameSpaceType::PROCESS_ID)
                    .map_err(refused("pid namespace"))?;
                let fork = |cgroup: &OwnedFd| sys::fork(NewNamespaces::NONE, Some(cgroup.as_fd()));
                match fork(&cgroup) {
                    // A cgroup that has given controllers to those below it takes no processes: an
                    // init system has moved on, and is followed.
                    Err(Errno::BUSY) if asked.is_none() => {
                        let cgroup = self.cgroups.where_is(host.pid).map_err(refused("cgroup"))?;
                        fork(&cgroup).map_err(refused("fork"))
                    }
                    Err(errno @ Errno::BUSY) => Err(no_cgroup(asked, errno)),
                    forked => forked.map_err(refused("fork")),
                }
            })
        };
        self.bear(plan, ends, Some(Join { pidfd: host.pidfd, users }), fork)
    }

    /// Forks a process that carries files of a container. It is in none of its namespaces but that of mounts
    /// (and users), and in none of its cgroups: neither is it seen there, nor does a limit stop it.
    pub(crate) fn bear_carrier(
        &self,
        host: &Host<'_>,
        layers: Option<&Layers>,
        work: &Work,
        ends: &[OwnedFd],
    ) -> Result<Newborn, Fault> {
        let users = self.has_users(host.pid).map_err(refused("user namespace"))?;
        let join = Join { pidfd: host.pidfd, users };
        let (control, childs) = control::pair().map_err(refused("control socket"))?;
        match sys::fork(NewNamespaces::NONE, None).map_err(refused("fork"))? {
            Forked::Parent { pid, pidfd } => Ok(Newborn { pid, pidfd, control, devices: None }),
            Forked::Child => self.carry(work, join, layers, ends, childs),
        }
    }

    /// Lets `fork` leave one of the agent's namespaces, and brings the agent back.
    fn from(
        &self,
        kind: LinkNameSpaceType,
        fork: impl FnOnce() -> Result<Forked, Fault>,
    ) -> Result<Forked, Fault> {
        let forked = fork();
        if !matches!(forked, Ok(Forked::Child)) {
            for (_, home) in self.home.iter().filter(|(home, _)| *home == kind) {
                move_into_link_name_space(home.as_fd(), Some(kind)).map_err(refused("way back"))?;
            }
        }
        forked
    }

    /// Whether a process has a user namespace that is not the guest's.
    fn has_users(&self, pid: Pid) -> Result<bool, Errno> {
        let of = |process: &str| {
            let path = format!("{process}/ns/user");
            rustix::fs::statat(&self.proc, path, AtFlags::empty()).map(|stat| stat.st_ino)
        };
        Ok(of(&pid.as_raw_nonzero().to_string())? != of("self")?)
    }

    fn bear(
        &self,
        plan: &Plan,
        ends: &[OwnedFd],
        join: Option<Join<'_>>,
        fork: impl FnOnce() -> Result<Forked, Fault>,
    ) -> Result<Newborn, Fault> {
        let (control, childs) = control::pair().map_err(refused("control socket"))?;
        match fork()? {
            Forked::Parent { pid, pidfd } => Ok(Newborn { pid, pidfd, control, devices: None }),
            Forked::Child => {
                // Where the process has descriptors, the line to the agent stays open up to `execve`.
                let childs = match ends.len() {
                    ..=STANDARD => childs,
                    count => childs.above(count).unwrap_or_else(|_| sys::exit_now(1)),
                };
                let fault = self.live(plan, ends, join, &childs);
                childs.fault(fault);
                sys::exit_now(1)
            }
        }
    }
}

/// Of an exec that asked for a cgroup, or of one that did not and has a container without.
fn no_cgroup(asked: Option<&Path>, errno: Errno) -> Fault {
    match asked {
        None => refused("cgroup")(errno),
        Some(path) => {
            let message = format!("cgroup {}: {}", path.display(), words(errno));
            fault(FaultKind::InvalidSpec, message)
        }
    }
}

/// Gives the ends that a process will have to the root it will know.
fn give_pipes(pid: Pid, plan: &Plan, ends: &[OwnedFd]) -> Result<(), Fault> {
    let process = plan.process();
    let standard = match process.stdio {
        Stdio::Pipes { stdin, stdout, stderr } => [stdin, stdout, stderr],
        Stdio::Terminal { .. } => [false; STANDARD],
    };
    let preserved = process.preserved.iter().map(|kind| *kind != Preserved::Null);
    let pipes = ends.iter().zip(standard.into_iter().chain(preserved));
    let pipes: Vec<_> = pipes.filter(|(_, is_pipe)| *is_pipe).map(|(end, _)| end).collect();
    namespaces::give(pid, &pipes)
        .map_err(|error| fault(FaultKind::System, format!("owner of stdio: {error}")))
}
