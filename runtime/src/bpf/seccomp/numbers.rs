//! Names of system calls and their numbers, by the tables an x86 kernel has.

use std::str::FromStr;

use super::X32_BIT;

/// A table of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    X86_64,
    /// 32-bit pointers in 64-bit registers: the 64-bit table with another bit, but for some.
    X32,
    X86,
}

/// A number that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) number: u32,
    /// It is one of many behind this number, told apart by the first argument.
    pub(super) multiplexed: Option<u64>,
}

impl Table {
    /// Whether arguments have 64 bits.
    pub(super) fn is_wide(self) -> bool {
        self != Self::X86
    }

    /// Every number that `name` stands for, none if the table does not have it.
    pub(super) fn find(self, name: &str) -> Vec<Call> {
        let native = || syscalls::x86_64::Sysno::from_str(name).ok().map(|call| call.id() as u32);
        let number = match self {
            Self::X86_64 => native(),
            Self::X32 => match X32.iter().position(|known| *known == name) {
                Some(at) => u32::try_from(at).ok().map(|at| X32_BIT | (X32_FIRST + at)),
                None => native().map(|number| X32_BIT | number),
            },
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|call| call.id() as u32),
        };
        let mut calls: Vec<_> =
            number.map(|number| Call { number, multiplexed: None }).into_iter().collect();
        if self == Self::X86 {
            for (number, names) in [(SOCKETCALL, SOCKETS.as_slice()), (IPC, &IPCS)] {
                let behind = names.iter().filter(|(known, _)| *known == name);
                calls.extend(behind.map(|(_, which)| Call { number, multiplexed: Some(*which) }));
            }
        }
        calls
    }
}

/// Calls of x32 that differ from the 64-bit table's, from this number on (the kernel's
/// `arch/x86/entry/syscalls/syscall_64.tbl`, lines of ABI `x32`).
const X32_FIRST: u32 = 512;
const X32: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// socketcall(2) of the 32-bit table, and what its first argument means (`linux/net.h`).
const SOCKETCALL: u32 = 102;
const SOCKETS: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// ipc(2), likewise (`linux/ipc.h`).
const IPC: u32 = 117;
const IPCS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_number_in_each_table_that_has_it() {
        let numbers = |table: Table, name: &str| {
            table.find(name).iter().map(|call| call.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(Table::X86_64, "execve"), [59]);
        assert_eq!(numbers(Table::X32, "execve"), [X32_BIT | 520]);
        assert_eq!(numbers(Table::X32, "read"), [X32_BIT]);
        assert_eq!(numbers(Table::X32, "pwritev2"), [X32_BIT | 547]);
        assert_eq!(numbers(Table::X86, "execve"), [11]);
        assert_eq!(numbers(Table::X86, "socket"), [359, 102]);
        assert_eq!(numbers(Table::X86, "send"), [102]);
        assert!(numbers(Table::X86_64, "socketcall").is_empty());
        assert!(numbers(Table::X86, "no_such_call").is_empty());
    }
}
