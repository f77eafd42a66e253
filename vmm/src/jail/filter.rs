//! The system calls of each thread kind, and why.
//!
//! Everything else kills the process: a call that is not here is either a bug or an attack, and in
//! both cases the VM is better off dead. The release build is static against musl and the test build
//! dynamic against glibc; where they differ, both names are here.

use std::collections::BTreeMap;

use libc::{c_long, c_ulong, sock_filter, sock_fprog};

use super::{JailError, forbid_new_privileges, step};
use crate::bpf::{
    ALLOW, ARCHITECTURE_OFFSET, Condition, Instruction, KILL_PROCESS, NUMBER_OFFSET, Operator,
    Outcome, Range, Rule, search,
};

/// Calls that are allowed with one of these as their second argument only.
type Narrow = (c_long, &'static [u64]);

/// What a vCPU asks of KVM: to run (`_IO(0xae, 0x80)`), and where the guest was when KVM gave up
/// (`KVM_GET_REGS`, `_IOR(0xae, 0x81, struct kvm_regs)`). And of a tap, when the driver of a network card
/// has made up its mind, that it leaves to the guest what the guest has agreed to do (`TUNSETOFFLOAD`), and when the
/// driver begins anew, that frames come by the first queue alone (`TUNSETQUEUE`).
const VCPU_IOCTLS: Narrow = (libc::SYS_ioctl, &[0xae80, 0x8090_ae81, 0x4004_54d0, 0x4004_54d9]);

/// And what it asks besides, at its end, in a VM that may be saved.
const VCPU_SAVING_IOCTLS: Narrow = (
    libc::SYS_ioctl,
    &[
        0xae80,
        0x8090_ae81,
        0x4004_54d0, // TUNSETOFFLOAD
        0x4004_54d9, // TUNSETQUEUE
        0x8138_ae83, // KVM_GET_SREGS
        0xc008_ae88, // KVM_GET_MSRS
        0x8400_ae8e, // KVM_GET_LAPIC
        0x8004_ae98, // KVM_GET_MP_STATE
        0x8040_ae9f, // KVM_GET_VCPU_EVENTS
        0x8080_aea1, // KVM_GET_DEBUGREGS
        0x9000_aea4, // KVM_GET_XSAVE
        0x8188_aea6, // KVM_GET_XCRS
    ],
);

/// What the event loop asks of KVM when it saves a machine.
const EVENT_LOOP_SAVING_IOCTLS: Narrow = (
    libc::SYS_ioctl,
    &[
        0xc208_ae62, // KVM_GET_IRQCHIP
        0x8030_ae7c, // KVM_GET_CLOCK
    ],
);

/// What it asks of a tap that its owner puts into a slot of a machine that runs: what is done to those that are there
/// from the beginning before there is a jail. And by how many queues of a tap frames come, when the driver says so.
const EVENT_LOOP_PLUGGING: [Narrow; 2] = [
    (
        libc::SYS_ioctl,
        &[
            0x8004_54d2, // TUNGETIFF
            0x4004_54d8, // TUNSETVNETHDRSZ
            0x4004_54d0, // TUNSETOFFLOAD
            0x4004_54d9, // TUNSETQUEUE
        ],
    ),
    (
        libc::SYS_fcntl,
        &[
            libc::F_GETFD as u64,
            libc::F_GETFL as u64,
            libc::F_SETFL as u64,
            libc::F_DUPFD_CLOEXEC as u64,
        ],
    ),
];

/// Whether the machine may be saved, or what its guest does be written down. One that holds somebody's secrets and will not be has no use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saving {
    /// Its owner gave files for that.
    Allowed,
    /// He did not.
    Forbidden,
}

/// A debug build makes sure that what it closes is open.
const CLOSING: Narrow = (libc::SYS_fcntl, &[libc::F_GETFD as u64]);

/// What both kinds of thread do.
const EVERYONE: &[c_long] = &[
    libc::SYS_brk,             // allocator
    libc::SYS_mmap,            // allocator
    libc::SYS_munmap,          // allocator
    libc::SYS_mremap,          // allocator, when a buffer grows
    libc::SYS_mprotect,        // allocator of glibc, when an arena grows
    libc::SYS_madvise,         // allocator, and the end of a thread's stack
    libc::SYS_futex,           // locks, and the start line
    libc::SYS_read,            // kicks
    libc::SYS_write,           // interrupts, ends, the serial log
    libc::SYS_close,           // sockets
    libc::SYS_clock_gettime,   // marks, where there is no vDSO for the clock
    libc::SYS_sendto,          // reports; the backlog of a socket
    libc::SYS_sendmsg, // from guest memory into a socket; a vCPU that resets the device does it too
    libc::SYS_shutdown, // half of a socket; the same
    libc::SYS_epoll_ctl, // a new socket; the same
    libc::SYS_rt_sigprocmask, // the end of a thread, and `abort`
    libc::SYS_rt_sigreturn, // a signal that stopped and continued us
    libc::SYS_restart_syscall, // the same
    libc::SYS_sigaltstack, // the end of a thread
    libc::SYS_gettid,  // `abort`
    libc::SYS_tkill,   // `abort` of musl; stopping a vCPU
    libc::SYS_exit_group, // the end
];

/// What a vCPU does besides: it runs the guest, and ends.
const VCPU: &[c_long] = &[
    libc::SYS_exit, // its end
];

/// What serving a disk takes, on the event loop or on a thread of its own.
const DISK: &[c_long] = &[
    libc::SYS_epoll_pwait,     // waiting
    libc::SYS_preadv,          // reading
    libc::SYS_pwritev,         // writing
    libc::SYS_fdatasync,       // flush
    libc::SYS_fallocate,       // discarding, and writing zeros
    libc::SYS_timerfd_settime, // waiting for a limit
];

/// What carrying the frames of a network card takes on a thread of its own.
const NET: &[c_long] = &[
    libc::SYS_epoll_pwait,     // waiting
    libc::SYS_writev,          // from guest memory into a tap
    libc::SYS_timerfd_settime, // waiting for a limit
];

/// What the event loop does besides.
const EVENT_LOOP: &[c_long] = &[
    libc::SYS_accept4,   // a client of the listener
    libc::SYS_recvfrom,  // what it says first
    libc::SYS_recvmsg,   // from a socket into guest memory
    libc::SYS_writev,    // from guest memory into a tap
    libc::SYS_getrandom, // entropy for the guest; hash maps
];

/// What it does besides if the machine may be saved.
const SAVING: &[c_long] = &[
    libc::SYS_pwrite64, // the memory file
    libc::SYS_pread64,  // which pages were touched
];

/// Confines a vCPU's thread, and with it what it calls: the transports of all devices.
pub fn confine_vcpu(saving: Saving) -> Result<(), JailError> {
    let ioctls = match saving {
        Saving::Allowed => VCPU_SAVING_IOCTLS,
        Saving::Forbidden => VCPU_IOCTLS,
    };
    confine(&[EVERYONE, VCPU], &[CLOSING, ioctls])
}

/// Confines the event loop's thread.
pub fn confine_event_loop(saving: Saving) -> Result<(), JailError> {
    match saving {
        Saving::Allowed => {
            confine(&[EVERYONE, DISK, EVENT_LOOP, SAVING], &[CLOSING, EVENT_LOOP_SAVING_IOCTLS])
        }
        Saving::Forbidden => confine(&[EVERYONE, DISK, EVENT_LOOP], &EVENT_LOOP_PLUGGING),
    }
}

/// Confines the thread of a disk.
pub fn confine_disk() -> Result<(), JailError> {
    confine(&[EVERYONE, DISK], &[CLOSING])
}

/// Confines the thread of a network card.
pub fn confine_net() -> Result<(), JailError> {
    confine(&[EVERYONE, NET], &[CLOSING])
}

/// Confines every thread of a process beside the VMM, a server of one of its devices, to `calls`.
pub fn confine_process(calls: &[c_long]) -> Result<(), JailError> {
    install(&program(&[calls], &[]), libc::SECCOMP_FILTER_FLAG_TSYNC)
}

fn confine(lists: &[&[c_long]], narrow: &[Narrow]) -> Result<(), JailError> {
    install(&program(lists, narrow), 0)
}

fn install(program: &[sock_filter], flags: c_ulong) -> Result<(), JailError> {
    forbid_new_privileges()?;
    let filter = sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `filter` is readable, and so are as many instructions as it says; none is written to.
    let installed = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    // With that flag, a number above 0 is a thread's that has a filter of another kind.
    step("filtering system calls", if installed == 0 { 0 } else { -1 })
}

/// Each call in `lists` is allowed, each of `narrow` with its arguments, and every other is the end of the process.
fn program(lists: &[&[c_long]], narrow: &[Narrow]) -> Vec<sock_filter> {
    // The kernel's own numbers of them have 32 bits.
    let mut calls: BTreeMap<u32, Outcome> =
        lists.concat().into_iter().map(|call| (call as u32, Outcome::Always(ALLOW))).collect();
    for &(call, arguments) in narrow {
        let rule = |&argument: &u64| {
            let equal = Condition::new(1, Operator::Equal, argument, false);
            Rule { all: vec![equal], result: ALLOW }
        };
        let rules = arguments.iter().map(rule).collect();
        calls.insert(call as u32, Outcome::Judged { rules, default: KILL_PROCESS });
    }
    let mut ranges = vec![Range::of(0, KILL_PROCESS)];
    for (call, outcome) in calls {
        // One right behind another takes the place of what is behind that.
        ranges.pop_if(|last| last.first == call);
        ranges.push(Range { first: call, outcome });
        ranges.push(Range::of(call + 1, KILL_PROCESS));
    }
    ranges.dedup_by(|range, before| range.outcome == before.outcome);
    let judged_by_architecture = [
        Instruction::load(ARCHITECTURE_OFFSET),
        Instruction::jump_if_equal(ARCHITECTURE, 1, 0),
        Instruction::end(KILL_PROCESS),
        Instruction::load(NUMBER_OFFSET),
    ];
    judged_by_architecture.into_iter().chain(search(&ranges)).map(sock_filter::from).collect()
}

/// `AUDIT_ARCH_*` (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's machine makes of a call, and how many instructions that takes it.
    fn run(
        program: &[sock_filter],
        architecture: u32,
        call: c_long,
        argument: u64,
    ) -> (u32, usize) {
        let halves = [argument as u32, (argument >> 32) as u32];
        let data = [call as u32, architecture, 0, 0, 0, 0, halves[0], halves[1]];
        let (mut at, mut word, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let branch = |takes| usize::from(if takes { jt } else { jf });
            (at, steps) = (at + 1, steps + 1);
            match code {
                0x20 => word = data[k as usize / 4],
                0x05 => at += k as usize,
                0x15 => at += branch(word == k),
                0x35 => at += branch(word >= k),
                0x06 => return (k, steps),
                code => panic!("{code:#x} at {at}"),
            }
        }
    }

    #[test]
    fn what_is_listed_is_allowed_and_all_else_is_the_end_after_a_few_questions() {
        let program = program(&[EVERYONE, DISK, EVENT_LOOP], &EVENT_LOOP_PLUGGING);
        let lists = [EVERYONE, DISK, EVENT_LOOP].concat();
        for call in (0..500).chain([c_long::from(u32::MAX), 0x4000_0001]) {
            let (result, steps) = run(&program, ARCHITECTURE, call, u64::MAX);
            let wanted = if lists.contains(&call) { ALLOW } else { KILL_PROCESS };
            assert_eq!(result, wanted, "{call}");
            assert!(steps <= 20, "{steps} steps for {call}");
            assert_eq!(run(&program, 0x4000_0003, call, 0).0, KILL_PROCESS, "{call} of i386");
        }
        for (call, arguments) in EVENT_LOOP_PLUGGING {
            for &argument in arguments {
                assert_eq!(run(&program, ARCHITECTURE, call, argument).0, ALLOW, "{argument:#x}");
                assert_eq!(run(&program, ARCHITECTURE, call, argument ^ 1 << 24).0, KILL_PROCESS);
            }
        }
    }

    #[test]
    fn a_vmm_needs_forty_system_calls_at_most() {
        let narrow = &[VCPU_IOCTLS.0, CLOSING.0];
        let mut calls = [EVERYONE, VCPU, DISK, EVENT_LOOP, SAVING, narrow].concat();
        calls.sort_unstable();
        let named = calls.len();
        calls.dedup();
        assert_eq!(calls.len(), named, "a call is named twice");
        assert!(named <= 40, "{named}");
    }
}
