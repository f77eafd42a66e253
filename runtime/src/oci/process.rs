//! `process` of `config.json`, and of `exec`.

use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy};
use proto::spec::{Capabilities, Process, Rlimit, Scheduler, Stdio, TerminalSize, User, Who};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::Refused;
use crate::labels::Labels;

/// ioprio_set(2): the class stands above the level.
const IO_CLASS_SHIFT: u16 = 13;

/// What the guest is asked to run, with everything it cannot do refused by name. `size` is for a
/// terminal whose size is not said.
pub(crate) fn process(
    asked: &oci_spec::runtime::Process,
    size: TerminalSize,
) -> Result<Process, Refused> {
    let refused = |field, why: &str| Err(Refused::new(field, why));
    if asked.command_line().is_some() {
        return refused("process.commandLine", "is for Windows");
    }
    if asked.exec_cpu_affinity().is_some() {
        return refused("process.execCPUAffinity", "is not supported");
    }
    let args = asked.args().clone().unwrap_or_default();
    if args.is_empty() {
        return refused("process.args", "is empty");
    }
    if !asked.cwd().is_absolute() {
        return refused("process.cwd", "is not an absolute path");
    }
    let env = asked.env().clone().unwrap_or_default();
    for (field, words) in [("process.args", &args), ("process.env", &env)] {
        if words.iter().any(|word| word.contains('\0')) {
            return refused(field, "holds a zero byte");
        }
    }
    let stdio = match (asked.terminal().unwrap_or(false), asked.console_size()) {
        (false, _) => Stdio::Pipes { stdin: true, stdout: true, stderr: true },
        (true, None) => Stdio::Terminal { size },
        (true, Some(told)) => Stdio::Terminal {
            size: TerminalSize {
                rows: u16::try_from(told.height()).unwrap_or(size.rows),
                columns: u16::try_from(told.width()).unwrap_or(size.columns),
            },
        },
    };
    let user = asked.user();
    Ok(Process {
        stdio,
        user: User {
            who: Who::Ids { uid: user.uid(), gid: user.gid() },
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
        },
        args,
        env,
        cwd: asked.cwd().clone(),
        capabilities: match asked.capabilities() {
            Some(sets) => same("process.capabilities", sets)?,
            None => Capabilities::default(),
        },
        rlimits: match asked.rlimits() {
            Some(limits) => same::<_, Vec<Rlimit>>("process.rlimits", limits)?,
            None => vec![],
        },
        no_new_privileges: asked.no_new_privileges().unwrap_or(false),
        oom_score_adj: asked.oom_score_adj(),
        scheduler: asked.scheduler().as_ref().map(scheduler),
        io_priority: asked.io_priority().as_ref().map(io_priority).transpose()?,
        ..Process::default()
    })
}

/// The labels that a first process wants, and the VM's gets; a process that comes later is in that VM.
pub(super) fn labels(asked: &oci_spec::runtime::Process) -> Labels {
    let named = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    Labels {
        apparmor: named(asked.apparmor_profile()).filter(|profile| profile != "unconfined"),
        selinux: named(asked.selinux_label()),
    }
}

fn scheduler(asked: &oci_spec::runtime::Scheduler) -> Scheduler {
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Scheduler {
        policy: match asked.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags: asked.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice: asked.nice().unwrap_or(0),
        priority: asked.priority().unwrap_or(0).unsigned_abs(),
        runtime: asked.runtime().unwrap_or(0),
        deadline: asked.deadline().unwrap_or(0),
        period: asked.period().unwrap_or(0),
    }
}

fn io_priority(asked: &oci_spec::runtime::LinuxIOPriority) -> Result<u16, Refused> {
    let class: u16 = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(asked.priority()) {
        Ok(level @ 0..=7) => Ok(class << IO_CLASS_SHIFT | level),
        _ => Err(Refused::new("process.ioPriority.priority", "is not 0 to 7")),
    }
}

/// The same words in our own type, which has the specification's names.
pub(super) fn same<T: Serialize, U: DeserializeOwned>(
    field: &'static str,
    asked: &T,
) -> Result<U, Refused> {
    serde_json::to_value(asked)
        .and_then(serde_json::from_value)
        .map_err(|error| Refused::new(field, &error.to_string()))
}
