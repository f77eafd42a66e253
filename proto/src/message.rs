//! What is said in a session.
//!
//! Both sides send [`Hello`] as their first frame, without waiting for the other's. Then the host
//! sends [`Call`]s and the guest an [`Answer`] to each, in any order: [`Request::Wait`] answers when
//! the process has ended, whatever else was asked meanwhile. No call has to wait for the answer to the
//! one before it: to create, start and wait for a container can be said in one breath.

use serde::{Deserialize, Serialize};

use crate::files::Work;
use crate::network::Network;
use crate::spec::{Container, Process, TerminalSize};

/// The first frame of a session, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the speaker.
    pub version: u32,
    /// What speaks, for messages: `microvm-agent 0.1.0`.
    pub name: String,
    /// From the guest: nanoseconds since its kernel started (`CLOCK_BOOTTIME`) when the agent's first
    /// instruction ran. `None` from the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_started_ns: Option<u64>,
}

/// Names a process: a container's own, or one that was added to it by `exec`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The container.
    pub container: String,
    /// The exec, unique in its container; `None` is the container's own first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
}

/// One thing asked of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the host, unique in the session, given back in the [`Answer`].
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the host can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Sets a container up and forks its first process, held before `execve`. Answered by
    /// [`Reply::Created`].
    Create {
        /// The container's name, unique in the VM.
        container: String,
        /// What it is.
        spec: Box<Container>,
    },
    /// Lets a created container's first process go. Answered by [`Reply::Done`] once `execve` has
    /// succeeded, by a [`Fault`] if it failed (the container is gone then).
    Start {
        /// The container.
        container: String,
    },
    /// Adds a process to a running container and lets it go. Answered as [`Request::Start`] is, but
    /// with [`Reply::Created`].
    Exec {
        /// Its name.
        process: ProcessId,
        /// What it is.
        spec: Box<Process>,
    },
    /// Sends a signal. Answered by [`Reply::Done`].
    Signal {
        /// To whom.
        process: ProcessId,
        /// The signal's number on Linux x86_64.
        signal: i32,
        /// To every process of the container, not only to the one named.
        #[serde(default)]
        all: bool,
    },
    /// Tells a process's terminal its size. Answered by [`Reply::Done`].
    Resize {
        /// Whose terminal.
        process: ProcessId,
        /// The new size.
        size: TerminalSize,
    },
    /// Waits for a process's end. Answered by [`Reply::Exited`] after everything it wrote was given
    /// to its streams and they were closed; however often and however late it is asked.
    Wait {
        /// For whom.
        process: ProcessId,
        /// Only for the end: what it wrote may still be on its way, or stand there untaken.
        #[serde(default, skip_serializing_if = "crate::is_false")]
        early: bool,
    },
    /// Lists the processes of a container. Answered by [`Reply::Processes`].
    Processes {
        /// The container.
        container: String,
    },
    /// Reads in a container's own `/proc`, by the numbers that its processes have there: `stat`, and of a
    /// process `PID/stat`, `PID/status`, `PID/cmdline` and, as a link, `PID/ns/pid`; `.` is the numbers
    /// themselves, one in a line. Answered by [`Reply::Files`], without what is not there, and each cut
    /// to 4 KiB but for the numbers.
    ReadProc {
        /// The container.
        container: String,
        /// What is read.
        files: Vec<String>,
    },
    /// Reads files of a container's cgroup. Answered by [`Reply::Files`], without those that are not
    /// there.
    ReadCgroup {
        /// The container.
        container: String,
        /// Their names.
        files: Vec<String>,
    },
    /// Writes files of a container's cgroup, in order, up to the first that refuses. Answered by
    /// [`Reply::Done`].
    WriteCgroup {
        /// The container.
        container: String,
        /// Names and what is written.
        values: Vec<(String, String)>,
    },
    /// Adds a process of the agent's own to a running container, which carries files. Answered by
    /// [`Reply::Created`]; what it says on its standard output is told in [`crate::files`].
    Carry {
        /// Its name.
        process: ProcessId,
        /// What it does.
        work: Work,
    },
    /// Makes the network what it is from now on, where it was what the host has said last: interfaces come out of
    /// slots that have a wire now and go back to those that have none, and addresses, routes and neighbours come and
    /// go. Answered by [`Reply::Done`] when it works; after a [`Fault`] part of it may be done.
    Connect {
        /// All of it.
        network: Network,
    },
    /// Lets a container know who has come to its network and who has left it, by lines of the file that is there for
    /// it ([`Mount::introduces`](crate::spec::Mount::introduces)). What else stands in the file stays. Answered by
    /// [`Reply::Done`], also for a container without such a file.
    Introduce {
        /// The container.
        container: String,
        /// Lines that are taken out, as far as they are there.
        gone: Vec<String>,
        /// Lines that are added at its end.
        come: Vec<String>,
    },
    /// Ends every process, writes everything back and powers off. Answered by [`Reply::Done`] just
    /// before.
    PowerOff,
    /// Gets everything ready that can be before there is a container: the machine is about to be saved.
    /// Answered by [`Reply::Done`]. From then on nothing but [`Request::Adopt`] is done.
    Settle,
    /// Makes the guest this host's own, be it that it was saved or that it booted just now. Answered by
    /// [`Reply::Done`]; after a [`Fault`] the guest is nobody's, and is not to be used.
    Adopt(Adoption),
}

/// What no two guests have in common, and what was true only when one was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Fresh random bytes, which the guest's kernel counts as such: every random number from then on
    /// is made with them.
    pub seed: [u8; SEED_BYTES],
    /// The time, in nanoseconds since 1970.
    pub wall_clock_ns: u64,
    /// Sectors of 512 bytes of each disk, in the order of their slots. A disk that was put in after the
    /// guest was saved has them once its driver has heard of it.
    #[serde(default)]
    pub disk_sectors: Vec<u64>,
    /// The network that the guest is on, which works when this is answered.
    #[serde(default, skip_serializing_if = "Network::is_empty")]
    pub network: Network,
}

/// As much as the key of Linux's generator takes.
pub const SEED_BYTES: usize = 32;

/// The guest's answer to the call of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's.
    pub id: u64,
    /// How it went.
    pub result: Result<Reply, Fault>,
}

/// What a call that went well gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "got", rename_all = "snake_case")]
pub enum Reply {
    /// It was done, and there is nothing more to say.
    Done,
    /// A process exists.
    Created {
        /// Its number in the guest's first pid namespace.
        pid: u32,
    },
    /// A process has ended.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// The processes of a container.
    Processes {
        /// Each of them, the oldest first.
        processes: Vec<ProcessInfo>,
    },
    /// What stands in files.
    Files {
        /// Names and contents.
        files: Vec<(String, String)>,
    },
}

/// A process as `ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its number in the guest's first pid namespace.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Processor time it has used, in milliseconds.
    pub cpu_ms: u64,
    /// How long ago it began, in milliseconds.
    pub age_ms: u64,
    /// Its terminal's number (`tty_nr` of proc(5)), 0 for none.
    pub tty: u32,
    /// Its program and arguments, or its name in brackets.
    pub command: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By `exit`, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The code a shell would show: the process's own, or 128 and the signal's number.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// Why a call did not go well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of trouble, for the host to act on.
    pub kind: FaultKind,
    /// The sentence for a person: small letters, the thing named, the errno in words.
    pub message: String,
}

/// Kinds of trouble the host tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The program to run is not there (shells say 127).
    ProgramNotFound,
    /// The program is there and cannot be run (shells say 126).
    ProgramNotExecutable,
    /// The container or process named does not exist, or is in the wrong state.
    NoSuchProcess,
    /// The container or process named exists already.
    AlreadyExists,
    /// The specification asks for something that is wrong or not supported.
    InvalidSpec,
    /// The guest's kernel refused.
    System,
}
