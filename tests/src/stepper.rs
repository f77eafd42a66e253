//! Killing a process at a chosen point of its way: just before its n-th system call that changes
//! something others can see. So a story walks through all points of a command, one after the other, and
//! no time is guessed.
//!
//! It is `ptrace`. Whoever traces is a thread of its own: when that is over the kernel lets go of
//! everything it traced, wherever it stands, and what was not killed goes on as if nothing had been.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use nix::libc::{self, c_int, c_long};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Whose calls are counted while a command runs.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// The command's own.
    Command,
    /// Of the first process below it on whose command line this word stands.
    Below(&'static str),
    /// Of a process that is there already.
    Of(rustix::process::Pid),
}

/// What came of a command that was to lose a process on the way.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The call that was about to be made, and the story's process that was killed instead.
    Killed(&'static str),
    /// There are fewer calls than that: the command ended as it wanted to.
    Ended,
}

/// Runs `command` with no input and no readers. At each point of the way `whom` says who could be killed
/// there, given the process that stands there; of the points at which there is somebody, counted from 0,
/// it happens at number `point`. Comes back once the command has ended and whoever was killed is dead.
pub fn kill_at(
    mut command: Command,
    way: Way,
    point: usize,
    whom: impl FnMut(i32) -> Option<i32> + Send,
) -> Step {
    thread::scope(|scope| {
        let walk = scope.spawn(move || Walk::start(&mut command, way).to(point, whom));
        walk.join().expect("the stepper")
    })
}

/// A command under way, stopped at each call of everybody below it.
struct Walk {
    command: Pid,
    way: Way,
    /// The process whose calls are counted, once there is one.
    walker: Option<Pid>,
    /// Threads and the processes they belong to.
    threads: BTreeMap<Pid, Pid>,
    /// The last call on the way.
    last: c_long,
}

impl Walk {
    #[allow(clippy::zombie_processes)] // It is waited for, as what it is here: a process that is traced.
    fn start(command: &mut Command, way: Way) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: one system call between fork and exec, and no memory is touched.
        unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        let child = command.spawn().unwrap();
        let command = Pid::from_raw(child.id().cast_signed());
        // It stands where its program begins.
        assert_eq!(waitpid(command, None), Ok(WaitStatus::Stopped(command, Signal::SIGTRAP)));
        ptrace::setoptions(command, options()).unwrap();
        ptrace::syscall(command, None).unwrap();
        let walker = match way {
            Way::Command => Some(command),
            Way::Below(_) => None,
            Way::Of(pid) => Some(seize(pid)),
        };
        Self { command, way, walker, threads: BTreeMap::new(), last: -1 }
    }

    fn to(mut self, point: usize, mut whom: impl FnMut(i32) -> Option<i32>) -> Step {
        let mut passed = 0;
        let (mut step, mut victim, mut has_ended) = (Step::Ended, None, false);
        while !has_ended || victim.is_some() {
            // Our own children and those we trace, but not those of other threads.
            let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD));
            let (thread, signal) = match status.expect("waiting for a step") {
                WaitStatus::PtraceSyscall(thread) => {
                    if passed <= point
                        && let Some(call) = self.call_of_walker(thread)
                        && let Some(whom) = whom(self.process(thread).as_raw())
                    {
                        if passed == point {
                            step = Step::Killed(call);
                            victim = self.kill(Pid::from_raw(whom));
                        }
                        passed += 1;
                    }
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    if event == Event::PTRACE_EVENT_EXEC as c_int && !self.meets(thread) {
                        // Somebody whose way it is not, and whose threads are many.
                        let _ = ptrace::detach(thread, None);
                        continue;
                    }
                    (thread, None)
                }
                // How a new one begins; nobody here stops another by it.
                WaitStatus::Stopped(thread, Signal::SIGSTOP) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..) => {
                    has_ended |= process == self.command;
                    victim = victim.filter(|victim| *victim != process);
                    continue;
                }
                other => panic!("a step that nobody takes: {other:?}"),
            };
            // One that was killed meanwhile is told about in its time.
            let _ = ptrace::syscall(thread, signal);
        }
        step
    }

    /// Kills, and gives back whose death is to be waited for: others than ours have parents of their own.
    fn kill(&self, whom: Pid) -> Option<Pid> {
        kill(whom, Signal::SIGKILL).unwrap();
        (self.walker == Some(whom) || self.command == whom).then_some(whom)
    }

    /// Whether the program that `process` has become is to be followed.
    fn meets(&mut self, process: Pid) -> bool {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let is_meant = matches!(self.way, Way::Below(word) if line.contains(word));
        if is_meant && self.walker.is_none() {
            self.walker = Some(process);
        }
        is_meant || process == self.command
    }

    fn process(&mut self, thread: Pid) -> Pid {
        *self.threads.entry(thread).or_insert_with(|| {
            let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
            let number = status.lines().find_map(|line| line.strip_prefix("Tgid:\t"));
            number.map_or(thread, |number| Pid::from_raw(number.parse().unwrap()))
        })
    }

    /// What `thread` is about to call, if it is a step on the way.
    fn call_of_walker(&mut self, thread: Pid) -> Option<&'static str> {
        let process = self.process(thread);
        if self.walker != Some(process) {
            return None;
        }
        let registers = ptrace::getregs(thread).ok()?;
        // So the kernel marks a call that has no result yet.
        if registers.rax.cast_signed() != -i64::from(libc::ENOSYS) {
            return None;
        }
        let number = registers.orig_rax.cast_signed();
        let (_, name) = CALLS.iter().find(|(call, _)| *call == number)?;
        let makes = match number {
            libc::SYS_open => registers.rsi & libc::O_CREAT as u64 != 0,
            libc::SYS_openat => registers.rdx & libc::O_CREAT as u64 != 0,
            libc::SYS_write => is_file(thread, registers.rdi),
            libc::SYS_fcntl => registers.rsi == libc::F_OFD_SETLK as u64,
            // Some are read byte by byte: that is one step.
            libc::SYS_recvfrom => self.last != number,
            _ => true,
        };
        self.last = if makes { number } else { self.last };
        makes.then_some(name)
    }
}

/// A descriptor of `thread` is a file with a name, which a cgroup's are too, and no device.
fn is_file(thread: Pid, descriptor: u64) -> bool {
    let target = fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).unwrap_or_default();
    target.starts_with("/") && !target.starts_with("/dev")
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
}

/// Begins to trace a process that runs.
fn seize(process: rustix::process::Pid) -> Pid {
    let process = Pid::from_raw(process.as_raw_nonzero().get());
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let thread = thread.unwrap().file_name().to_string_lossy().parse().map(Pid::from_raw);
        ptrace::seize(thread.clone().unwrap(), options()).unwrap();
        ptrace::interrupt(thread.unwrap()).unwrap();
    }
    process
}

/// The calls that others can see something of, and the one in which somebody is waited for.
const CALLS: &[(c_long, &str)] = &[
    (libc::SYS_open, "open"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_write, "write"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_open_tree, "open_tree"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_setsid, "setsid"),
    (libc::SYS_memfd_create, "memfd_create"),
    (libc::SYS_socketpair, "socketpair"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_listen, "listen"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_shutdown, "shutdown"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_clone3, "clone3"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_vfork, "vfork"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    (libc::SYS_exit_group, "exit_group"),
];
