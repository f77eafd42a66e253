//! What the agent knows about a process, from its birth to the last time somebody asks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::message::{ExitStatus, Fault};
use rustix::process::Pid;

use crate::birth::Plan;
use crate::control::Layers;
use crate::reactor::Token;
use crate::stdio::Line;
use crate::sys::bpf::DeviceProgram;

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// The session it came from.
    pub(crate) session: Token,
    /// Its number there.
    pub(crate) call: u64,
}

/// A call that waits for a process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) asker: Asker,
    /// Not for its output as well.
    pub(crate) early: bool,
}

/// A process that was asked for and whose streams are not all there yet. Nobody has to wait for one
/// answer before the next call, so it may have been started and waited for already.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// Who wants it made.
    pub(crate) asker: Asker,
    /// Who wants it started.
    pub(crate) start: Option<Asker>,
    /// Who waits for its end.
    pub(crate) waiting: Vec<Waiting>,
}

impl Planned {
    /// Everyone to be told if it cannot be.
    pub(crate) fn askers(self) -> impl Iterator<Item = Asker> {
        let waiting = self.waiting.into_iter().map(|waiting| waiting.asker);
        [Some(self.asker), self.start].into_iter().flatten().chain(waiting)
    }
}

/// A process and its streams.
pub(crate) struct Process {
    pub(crate) life: Life,
    /// The session it was asked for in.
    pub(crate) session: Token,
    /// The relays that still carry something for it.
    pub(crate) relays: Vec<Token>,
    /// Those of them whose output the host has not got to the end.
    pub(crate) undrained: Vec<Token>,
    /// The one that joins its terminal.
    pub(crate) terminal: Option<Token>,
    /// Who waits for its end.
    pub(crate) waiting: Vec<Waiting>,
    /// It has left others behind in its container, which are about to end too.
    pub(crate) is_outlived: bool,
}

/// Whether a process runs.
pub(crate) enum Life {
    Alive(Alive),
    /// Reaped. Kept for whoever asks: until the name is used again, and of an exec as long as the session
    /// lasts in which it was asked for.
    Ended(ExitStatus),
}

/// A process that was not reaped yet.
pub(crate) struct Alive {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
    /// The line to it, until `execve` closes it.
    pub(crate) control: Option<Token>,
    pub(crate) stage: Stage,
    /// Of a container's first process: what the container's root is made of.
    pub(crate) layers: Option<Layers>,
    /// And by which file the container knows others.
    pub(crate) acquaintances: Option<OwnedFd>,
}

/// How far a living process has come.
pub(crate) enum Stage {
    /// It makes its surroundings. `terminal` is the connection that will be joined to its terminal,
    /// `start` whoever wants it to go on at once.
    /// `devices` judges what it does with devices once it is set up.
    SettingUp {
        asker: Asker,
        start: Option<Asker>,
        terminal: Option<Line>,
        devices: Option<DeviceProgram>,
    },
    /// It is held before `execve`.
    Created,
    /// It was told to go.
    Starting { asker: Asker },
    /// Its program runs.
    Running,
    /// It said why it cannot be, and is about to end. The answers wait for that, because then
    /// nothing is left of it.
    Failed { askers: Vec<Asker>, fault: Fault },
}

impl Process {
    pub(crate) fn new(
        session: Token,
        pid: Pid,
        pidfd: OwnedFd,
        stage: Stage,
        waiting: Vec<Waiting>,
    ) -> Self {
        Self {
            life: Life::Alive(Alive {
                pid,
                pidfd,
                control: None,
                stage,
                layers: None,
                acquaintances: None,
            }),
            session,
            relays: Vec::new(),
            undrained: Vec::new(),
            terminal: None,
            waiting,
            is_outlived: false,
        }
    }

    /// How it ended, once it has, its container with it, and the host has got all its output.
    pub(crate) fn outcome(&self) -> Option<ExitStatus> {
        self.end().filter(|_| self.undrained.is_empty())
    }

    /// How it ended, once that is all somebody waits for.
    pub(crate) fn end_for(&self, who: Waiting) -> Option<ExitStatus> {
        if who.early { self.end() } else { self.outcome() }
    }

    fn end(&self) -> Option<ExitStatus> {
        match self.life {
            Life::Ended(status) if !self.is_outlived => Some(status),
            Life::Ended(_) | Life::Alive(_) => None,
        }
    }

    pub(crate) fn alive(&self) -> Option<&Alive> {
        match &self.life {
            Life::Alive(alive) => Some(alive),
            Life::Ended(_) => None,
        }
    }

    pub(crate) fn alive_mut(&mut self) -> Option<&mut Alive> {
        match &mut self.life {
            Life::Alive(alive) => Some(alive),
            Life::Ended(_) => None,
        }
    }
}

impl Alive {
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its number in the guest's first pid namespace.
    pub(crate) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Takes the stage to make the next one of it.
    pub(crate) fn take_stage(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Running)
    }

    /// Whether it has the container's namespaces around it, for others to join.
    pub(crate) fn is_set_up(&self) -> bool {
        match self.stage {
            Stage::Created | Stage::Starting { .. } | Stage::Running => true,
            Stage::SettingUp { .. } | Stage::Failed { .. } => false,
        }
    }
}
