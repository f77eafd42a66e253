//! `linux.seccomp` as a program of classic BPF.
//!
//! The kernel runs it for every system call, with the call's number, architecture and arguments to
//! look at. Per architecture it is a binary search through ranges of numbers that end the same way, so
//! a profile of four hundred names costs a call nine comparisons. Meanings are those people know
//! from libseccomp and the runtime that made it popular, and are said where they are not obvious.

mod numbers;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use proto::spec::Seccomp;
use vmm::bpf::{
    ALLOW, ARCHITECTURE_OFFSET, Condition, Instruction, KILL_PROCESS, NUMBER_OFFSET, Operator,
    Outcome, Range, Rule, search,
};

use numbers::Table;

/// The most instructions the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

/// What else the kernel does with a call (`SECCOMP_RET_*`).
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `AUDIT_ARCH_*`, as the kernel names the table a call was made through.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// Calls by the x32 table have the other's architecture and this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

/// A `linux.seccomp` that cannot be a program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeccompError {
    /// Nobody in a guest could be asked.
    #[error("linux.seccomp.{field}: SCMP_ACT_NOTIFY is not supported")]
    Notify {
        /// Where it stands.
        field: String,
    },
    /// Errno values have 16 bits.
    #[error("linux.seccomp.{field}: {value} is over 65535")]
    ErrnoTooLarge {
        /// Where it stands.
        field: String,
        /// The value.
        value: u32,
    },
    /// A call has six arguments.
    #[error("linux.seccomp.syscalls[{rule}].args: index {index} is over 5")]
    NoSuchArgument {
        /// Which of the rules.
        rule: usize,
        /// The argument it asks for.
        index: usize,
    },
    /// More than the kernel takes.
    #[error("linux.seccomp: a program of {instructions} instructions, over {MAX_INSTRUCTIONS}")]
    TooLong {
        /// How many it would have.
        instructions: usize,
    },
}

/// The program and flags for what a bundle says.
pub(crate) fn compile(spec: &LinuxSeccomp) -> Result<Seccomp, SeccompError> {
    let profile = Profile::read(spec)?;
    let architectures = spec.architectures().as_deref().unwrap_or_default();
    let mut native = profile.ranges(Table::X86_64, 0, X32_BIT - 1);
    if architectures.contains(&Arch::ScmpArchX32) {
        native.extend(profile.ranges(Table::X32, X32_BIT, u32::MAX - 1));
    } else {
        native.push(Range::of(X32_BIT, KILL_THREAD));
    }
    // What a tracer makes of a call it wants skipped.
    native.push(Range::of(u32::MAX, profile.default));
    let mut tables = vec![(AUDIT_X86_64, native)];
    if architectures.contains(&Arch::ScmpArchX86) {
        tables.push((AUDIT_I386, profile.ranges(Table::X86, 0, u32::MAX)));
    }

    let mut program = vec![Instruction::load(ARCHITECTURE_OFFSET)];
    for (architecture, ranges) in tables {
        let mut searched = vec![Instruction::load(NUMBER_OFFSET)];
        searched.extend(search(&ranges));
        program.push(Instruction::jump_if_equal(architecture, 1, 0));
        program.push(Instruction::jump(searched.len()));
        program.extend(searched);
    }
    program.push(Instruction::end(KILL_THREAD));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: program.len() });
    }
    let flags = spec.flags().iter().flatten().copied().map(flag).fold(0, |all, flag| all | flag);
    Ok(Seccomp { flags, program: program.into_iter().map(u64::from).collect() })
}

/// `SECCOMP_FILTER_FLAG_*`.
fn flag(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        // It is about waiting for somebody who was notified, and the kernel refuses it alone.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

/// The specification, judged.
struct Profile<'a> {
    default: u32,
    /// What calls get that are newer than any the profile knows.
    beyond: u32,
    rules: Vec<(&'a LinuxSyscall, u32)>,
}

impl<'a> Profile<'a> {
    fn read(spec: &'a LinuxSeccomp) -> Result<Self, SeccompError> {
        let default =
            action(spec.default_action(), spec.default_errno_ret(), "defaultAction".to_owned())?;
        // A C library that is newer than the profile falls back to an older call on this errno, and
        // on no other.
        let is_plain_errno = spec.default_action() == LinuxSeccompAction::ScmpActErrno
            && spec.default_errno_ret().is_none();
        let beyond = if is_plain_errno { ERRNO | ENOSYS } else { default };
        let mut rules = Vec::new();
        for (number, rule) in spec.syscalls().iter().flatten().enumerate() {
            let field = format!("syscalls[{number}].action");
            let result = action(rule.action(), rule.errno_ret(), field)?;
            let args = rule.args().iter().flatten();
            if let Some(index) = args.map(LinuxSeccompArg::index).find(|index| *index > 5) {
                return Err(SeccompError::NoSuchArgument { rule: number, index });
            }
            rules.push((rule, result));
        }
        Ok(Self { default, beyond, rules })
    }

    /// What becomes of every number of a table from `first` to `last`, ranges in order. Names that
    /// the table does not have are of other architectures or kernels, and are skipped.
    fn ranges(&self, table: Table, first: u32, last: u32) -> Vec<Range> {
        let mut outcomes: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        let mut largest = None;
        for (rule, result) in &self.rules {
            let alternatives = alternatives(rule, table.is_wide());
            for call in rule.names().iter().flat_map(|name| table.find(name)) {
                largest = largest.max(Some(call.number));
                if *result == self.default {
                    continue;
                }
                let rules = outcomes.entry(call.number).or_default();
                match (call.multiplexed, alternatives.as_slice()) {
                    (None, alternatives) => rules.extend(
                        alternatives.iter().map(|all| Rule { all: all.clone(), result: *result }),
                    ),
                    // Only the kernel sees what such a call's own arguments are.
                    (Some(which), [none]) if none.is_empty() => {
                        let one = Condition::new(0, Operator::Equal, which, false);
                        rules.push(Rule { all: vec![one], result: *result });
                    }
                    (Some(_), _) => {}
                }
            }
        }
        let mut ranges: Vec<Range> = Vec::new();
        let mut push = |first: u32, outcome: Outcome| {
            if ranges.last().is_none_or(|before| before.outcome != outcome) {
                ranges.push(Range { first, outcome });
            }
        };
        let mut next = first;
        for (number, rules) in outcomes {
            if number > next {
                push(next, Outcome::Always(self.default));
            }
            push(number, Outcome::of(rules, self.default));
            next = number + 1;
        }
        let beyond = largest.map_or(first, |largest| largest + 1);
        if beyond > next || largest.is_none() {
            push(next, Outcome::Always(self.default));
        }
        if largest.is_some() && beyond <= last {
            push(beyond, Outcome::Always(self.beyond));
        }
        ranges
    }
}

/// What a rule asks of arguments: any of these lists, and all of a list. Two conditions about one
/// argument are alternatives, as profiles rely on since the first of them.
fn alternatives(rule: &LinuxSyscall, is_wide: bool) -> Vec<Vec<Condition>> {
    let conditions: Vec<_> =
        rule.args().iter().flatten().map(|arg| condition(arg, is_wide)).collect();
    let is_twice = |(at, one): (usize, &Condition)| {
        conditions[..at].iter().any(|other| other.argument == one.argument)
    };
    match conditions.iter().enumerate().any(is_twice) {
        true => conditions.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![conditions],
    }
}

fn condition(arg: &LinuxSeccompArg, is_wide: bool) -> Condition {
    let (value, operator) = (arg.value(), arg.op());
    // `index` was judged; a word of 32 bits is what a table of 32 bits compares.
    let argument = arg.index() as u32;
    match operator {
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let masked = Operator::MaskedEqual { mask: value };
            Condition::new(argument, masked, arg.value_two().unwrap_or_default(), is_wide)
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            Condition::new(argument, Operator::NotEqual, value, is_wide)
        }
        LinuxSeccompOperator::ScmpCmpLt => Condition::new(argument, Operator::Less, value, is_wide),
        LinuxSeccompOperator::ScmpCmpLe => {
            Condition::new(argument, Operator::LessOrEqual, value, is_wide)
        }
        LinuxSeccompOperator::ScmpCmpEq => {
            Condition::new(argument, Operator::Equal, value, is_wide)
        }
        LinuxSeccompOperator::ScmpCmpGe => {
            Condition::new(argument, Operator::GreaterOrEqual, value, is_wide)
        }
        LinuxSeccompOperator::ScmpCmpGt => {
            Condition::new(argument, Operator::Greater, value, is_wide)
        }
    }
}

/// An action as the kernel takes it. An errno without a number is `EPERM`.
fn action(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    field: String,
) -> Result<u32, SeccompError> {
    let with_number = |action: u32| match errno.unwrap_or(EPERM) {
        value @ 0..=0xffff => Ok(action | value),
        value => Err(SeccompError::ErrnoTooLarge { field: field.clone(), value }),
    };
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(KILL_THREAD),
        LinuxSeccompAction::ScmpActKillProcess => Ok(KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(TRAP),
        LinuxSeccompAction::ScmpActErrno => with_number(ERRNO),
        LinuxSeccompAction::ScmpActTrace => with_number(TRACE),
        LinuxSeccompAction::ScmpActLog => Ok(LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(ALLOW),
        LinuxSeccompAction::ScmpActNotify => Err(SeccompError::Notify { field }),
    }
}

#[cfg(test)]
mod tests;
