//! From a forked child in the container's namespaces to the program it was made for.
//!
//! What a specification's `process` says, done to the calling process, in the one order that works:
//! what needs privilege comes before the user changes, what the user's rights decide comes after.

mod capabilities;
mod hooks;
mod program;
mod rlimits;
pub(crate) mod terminal;
mod user;

use std::convert::Infallible;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use proto::message::{Fault, FaultKind};
use proto::spec::{Hook, Preserved, Process, Stdio};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::{self as own, CapabilitySet};

use crate::sys;
use crate::words::words;
use program::Program;
use terminal::Terminal;
use user::Identity;

/// Why a process cannot be as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("process.user: {0}")]
    User(#[from] user::UserError),
    #[error(transparent)]
    Capability(#[from] capabilities::UnknownCapability),
    #[error(transparent)]
    Rlimit(#[from] rlimits::RlimitError),
    #[error(transparent)]
    Program(#[from] program::ExecError),
    #[error(transparent)]
    Hook(#[from] hooks::HookError),
    #[error("process.cwd {path}: {}", words(*.errno))]
    Cwd { path: String, errno: Errno },
    #[error("process.cwd {path}: is not in the container's root")]
    CwdOutside { path: String },
    #[error("{step}: {}", words(*.errno))]
    Step { step: &'static str, errno: Errno },
}

impl From<ProcessError> for Fault {
    fn from(error: ProcessError) -> Self {
        let message = error.to_string();
        let kind = match error {
            ProcessError::Program(error) => return error.into(),
            ProcessError::Step { .. }
            | ProcessError::Hook(_)
            | ProcessError::Rlimit(rlimits::RlimitError::Refused { .. }) => FaultKind::System,
            ProcessError::User(_)
            | ProcessError::Capability(_)
            | ProcessError::Rlimit(rlimits::RlimitError::Unknown { .. })
            | ProcessError::Cwd { .. }
            | ProcessError::CwdOutside { .. } => FaultKind::InvalidSpec,
        };
        Self { kind, message }
    }
}

/// Names the step that an errno came from.
fn step<T>(step: &'static str, result: Result<T, Errno>) -> Result<T, ProcessError> {
    result.map_err(|errno| ProcessError::Step { step, errno })
}

/// Makes the calling process what `spec` says, up to `execve`. It stands in the container's root,
/// with no descriptor left that leads out of it; 0 to 2 are in place unless there is a terminal, and
/// `preserved` are those that follow.
pub(crate) fn assume<'a>(
    spec: &'a Process,
    terminal: Option<&Terminal>,
    preserved: &'a [OwnedFd],
) -> Result<Departure<'a>, ProcessError> {
    let identity = user::resolve(&spec.user, &text("/etc/passwd"), &text("/etc/group"))?;
    let program = Program::new(&spec.args, &spec.env, &identity.home)?;
    let capabilities = capabilities::Sets::parse(&spec.capabilities)?;

    step("setsid", rustix::process::setsid().map(drop))?;
    if let Some(terminal) = terminal {
        step("controlling terminal", rustix::process::ioctl_tiocsctty(&terminal.slave))?;
        for number in 0..=2 {
            step("terminal", sys::place_descriptor(terminal.slave.as_fd(), number))?;
        }
    }
    step("owner of stdio", give_stdio(spec, preserved, &identity))?;
    set_priorities(spec)?;
    rlimits::apply(&spec.rlimits)?;
    rustix::process::umask(Mode::from_raw_mode(spec.user.umask.unwrap_or(0o022)));

    // Root may see a directory the user may not and, on some file systems, the other way round.
    let entered = rustix::process::chdir(&spec.cwd);
    step("bounding set", capabilities.bound())?;
    step("process.user", change_user(&identity))?;
    entered
        .or_else(|_| rustix::process::chdir(&spec.cwd))
        .map_err(|errno| ProcessError::Cwd { path: spec.cwd.display().to_string(), errno })?;
    stands_inside(spec)?;
    let departure = Departure { program, spec, capabilities, preserved };
    step("process.capabilities", departure.capabilities.apply(departure.besides()))?;
    if spec.no_new_privileges {
        step("process.noNewPrivileges", own::set_no_new_privs(true))?;
    }
    Ok(departure)
}

/// A process that has nothing before it but its program.
pub(crate) struct Departure<'a> {
    program: Program,
    spec: &'a Process,
    capabilities: capabilities::Sets,
    /// Its descriptors behind the standard ones.
    preserved: &'a [OwnedFd],
}

impl Departure<'_> {
    /// What a filter of system calls takes to be installed, unless the process gives up new
    /// privileges for ever. It is given back behind the filter, by one call of `capset`, which is all
    /// that the filter has to let pass beside `execve`.
    fn besides(&self) -> CapabilitySet {
        match self.spec.seccomp.is_some() && !self.spec.no_new_privileges {
            true => CapabilitySet::SYS_ADMIN,
            false => CapabilitySet::empty(),
        }
    }

    /// Runs `hooks` and becomes the program. Comes back only with the reason why not.
    pub(crate) fn go(&self, hooks: &[Hook]) -> ProcessError {
        let Err(error) = self.try_to_go(hooks);
        error
    }

    /// Whether what it is to become is there.
    pub(crate) fn look(&self) -> Result<(), ProcessError> {
        Ok(self.program.look()?)
    }

    fn try_to_go(&self, hooks: &[Hook]) -> Result<Infallible, ProcessError> {
        hooks::run(hooks, &self.spec.env)?;
        step("signals", sys::restore_signals())?;
        let program = self.program.find()?;
        step("preserved descriptors", sys::place_behind_standard(self.preserved))?;
        if let Some(seccomp) = &self.spec.seccomp {
            step("linux.seccomp", sys::own::install_seccomp(seccomp))?;
        }
        if !self.besides().is_empty() {
            step("process.capabilities", self.capabilities.settle())?;
        }
        Err(program.run().into())
    }
}

/// Says how the process is to be served, which takes privileges it may not keep.
fn set_priorities(spec: &Process) -> Result<(), ProcessError> {
    if let Some(scheduler) = &spec.scheduler {
        step("process.scheduler", sys::own::set_scheduler(scheduler))?;
    }
    if let Some(priority) = spec.io_priority {
        step("process.ioPriority", sys::own::set_io_priority(priority))?;
    }
    match spec.personality {
        Some(persona) => step("linux.personality", sys::own::set_personality(persona)),
        None => Ok(()),
    }
}

/// A last look: whatever links a working directory was reached by, the kernel can name the way to it
/// from this root. Other runtimes have been left through a descriptor that was open too long.
fn stands_inside(spec: &Process) -> Result<(), ProcessError> {
    let here = step("process.cwd", rustix::process::getcwd(Vec::new()))?;
    match here.to_bytes().first() {
        Some(b'/') => Ok(()),
        _ => Err(ProcessError::CwdOutside { path: spec.cwd.display().to_string() }),
    }
}

/// A file of the container as text, empty when it is not there or no plain file.
fn text(path: &str) -> String {
    /// An image is not trusted to keep it short.
    const MOST_BYTES: u64 = 4 << 20;
    let read = || -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let mode = rustix::fs::fstat(&file).ok()?.st_mode;
        let mut bytes = Vec::new();
        if FileType::from_raw_mode(mode) == FileType::RegularFile {
            std::fs::File::from(file).take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        }
        Some(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Lets the user open its own streams by name (`/dev/stdout`). `/dev/null` stays root's.
fn give_stdio(spec: &Process, preserved: &[OwnedFd], identity: &Identity) -> Result<(), Errno> {
    let (input, output, error) = match spec.stdio {
        Stdio::Terminal { .. } => (true, false, false),
        Stdio::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
    };
    let uid = Some(Uid::from_raw(identity.uid));
    if input {
        rustix::fs::fchown(rustix::stdio::stdin(), uid, None)?;
    }
    if output {
        rustix::fs::fchown(rustix::stdio::stdout(), uid, None)?;
    }
    if error {
        rustix::fs::fchown(rustix::stdio::stderr(), uid, None)?;
    }
    for (end, kind) in preserved.iter().zip(&spec.preserved) {
        if *kind != Preserved::Null {
            rustix::fs::fchown(end, uid, None)?;
        }
    }
    Ok(())
}

/// Groups first: afterwards there is no right to. Capabilities are kept for [`capabilities`] to set.
fn change_user(identity: &Identity) -> Result<(), Errno> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    own::set_keep_capabilities(true)?;
    own::set_thread_groups(&groups)?;
    own::set_thread_gid(Gid::from_raw(identity.gid))?;
    own::set_thread_uid(Uid::from_raw(identity.uid))?;
    own::set_keep_capabilities(false)
}
