//! `linux.resources.devices` as a program of extended BPF.
//!
//! The kernel runs it whenever a process of the container's cgroup makes a node or opens a device, with
//! the kind, numbers and accesses in question. For each access the last rule that matches counts, so
//! the program asks the rules backwards, until every access is granted or one is denied.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Kinds and accesses as the kernel counts them (`BPF_DEVCG_DEV_*`, `BPF_DEVCG_ACC_*`).
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// What every container can have, whatever its rules say: a node that cannot be opened harms nobody,
/// and programs count on the others. Kind, major, minor, accesses.
const USUAL: [(i32, Option<i32>, Option<i32>, i32); 10] = [
    (CHARACTER, None, None, MAKE),
    (BLOCK, None, None, MAKE),
    // null, zero, full, random, urandom
    (CHARACTER, Some(1), Some(3), ALL),
    (CHARACTER, Some(1), Some(5), ALL),
    (CHARACTER, Some(1), Some(7), ALL),
    (CHARACTER, Some(1), Some(8), ALL),
    (CHARACTER, Some(1), Some(9), ALL),
    // tty, ptmx, pts/*
    (CHARACTER, Some(5), Some(0), ALL),
    (CHARACTER, Some(5), Some(2), ALL),
    (CHARACTER, Some(136), None, ALL),
];

/// Rules that cannot be a program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeviceRuleError {
    /// A number no device has.
    #[error("linux.resources.devices[{rule}].{field}: {value} is no number of a device")]
    Number {
        /// Which of the rules.
        rule: usize,
        /// "major" or "minor".
        field: &'static str,
        /// The number.
        value: i64,
    },
    /// A letter that stands for nothing.
    #[error("linux.resources.devices[{rule}].access: \"{access}\" is not made of r, w and m")]
    Access {
        /// Which of the rules.
        rule: usize,
        /// The letters.
        access: String,
    },
    /// Devices are of two kinds.
    #[error("linux.resources.devices[{rule}].type: \"p\" is no kind of a device")]
    Kind {
        /// Which of the rules.
        rule: usize,
    },
}

/// What a rule is about, and what it says.
struct Rule {
    /// Absent: both.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    accesses: i32,
    allow: bool,
}

/// The program for what a bundle says. What no rule allows is denied.
pub(crate) fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<u64>, DeviceRuleError> {
    let mut all = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        all.push(judge(number, rule)?);
    }
    all.extend(USUAL.map(|(kind, major, minor, accesses)| Rule {
        kind: Some(kind),
        major,
        minor,
        accesses,
        allow: true,
    }));

    let mut program = vec![
        load(ACCESSES, 0),
        copy(KIND, ACCESSES),
        and(KIND, 0xffff),
        shift_right(ACCESSES, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in all.iter().rev() {
        program.extend(rule.instructions());
        // Nobody gets past a rule about everything.
        if rule.kind.is_none() {
            break;
        }
    }
    program.extend([set(RESULT, 0), jump_unless_equal(ACCESSES, 0, 1), set(RESULT, 1), EXIT]);
    Ok(program)
}

fn judge(number: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, DeviceRuleError> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => {
            // "a" is about everything, whatever else stands beside it.
            let (kind, major, minor) = (None, None, None);
            return Ok(Rule { kind, major, minor, accesses: ALL, allow: rule.allow() });
        }
        Some(LinuxDeviceType::B) => BLOCK,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => CHARACTER,
        Some(LinuxDeviceType::P) => return Err(DeviceRuleError::Kind { rule: number }),
    };
    let part = |field, value: Option<i64>| match value {
        // -1 is how some say "any".
        None | Some(-1) => Ok(None),
        Some(value) => match i32::try_from(value) {
            Ok(part @ 0..) => Ok(Some(part)),
            _ => Err(DeviceRuleError::Number { rule: number, field, value }),
        },
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    let accesses = access.chars().try_fold(0, |all, letter| match letter {
        'r' => Some(all | READ),
        'w' => Some(all | WRITE),
        'm' => Some(all | MAKE),
        _ => None,
    });
    let no_access = || DeviceRuleError::Access { rule: number, access: access.to_owned() };
    Ok(Rule {
        kind: Some(kind),
        major: part("major", rule.major())?,
        minor: part("minor", rule.minor())?,
        accesses: accesses.ok_or_else(no_access)?,
        allow: rule.allow(),
    })
}

impl Rule {
    fn instructions(&self) -> Vec<u64> {
        let says = match self.allow {
            true => vec![
                and(ACCESSES, !self.accesses),
                jump_unless_equal(ACCESSES, 0, 2),
                set(RESULT, 1),
                EXIT,
            ],
            false => {
                vec![jump_if_any(ACCESSES, self.accesses, 1), jump(2), set(RESULT, 0), EXIT]
            }
        };
        let asks = [(KIND, self.kind), (MAJOR, self.major), (MINOR, self.minor)];
        let asks: Vec<_> =
            asks.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
        let count = asks.len();
        let asks = asks.into_iter().enumerate().map(|(at, (register, value))| {
            // Behind the questions that are left, and what the rule says.
            jump_unless_equal(register, value, (count - at - 1 + says.len()) as i16)
        });
        asks.chain(says.clone()).collect()
    }
}

/// Registers. The kernel calls with the context in [`CONTEXT`].
const RESULT: u64 = 0;
const CONTEXT: u64 = 1;
const KIND: u64 = 2;
const ACCESSES: u64 = 3;
const MAJOR: u64 = 4;
const MINOR: u64 = 5;

/// `struct bpf_insn` in a number; words of 32 bits throughout (`BPF_ALU`, `BPF_JMP32`).
fn instruction(code: u64, to: u64, from: u64, offset: i16, value: i32) -> u64 {
    let (offset, value) = (u64::from(offset as u16), u64::from(value as u32));
    code | to << 8 | from << 12 | offset << 16 | value << 32
}

const EXIT: u64 = 0x95;

fn load(to: u64, offset: i16) -> u64 {
    instruction(0x61, to, CONTEXT, offset, 0)
}

fn copy(to: u64, from: u64) -> u64 {
    instruction(0xbc, to, from, 0, 0)
}

fn set(to: u64, value: i32) -> u64 {
    instruction(0xb4, to, 0, 0, value)
}

fn and(to: u64, value: i32) -> u64 {
    instruction(0x54, to, 0, 0, value)
}

fn shift_right(to: u64, bits: i32) -> u64 {
    instruction(0x74, to, 0, 0, bits)
}

fn jump(offset: i16) -> u64 {
    instruction(0x05, 0, 0, offset, 0)
}

fn jump_unless_equal(register: u64, value: i32, offset: i16) -> u64 {
    instruction(0x56, register, 0, offset, value)
}

fn jump_if_any(register: u64, bits: i32, offset: i16) -> u64 {
    instruction(0x46, register, 0, offset, bits)
}

#[cfg(test)]
mod tests;
