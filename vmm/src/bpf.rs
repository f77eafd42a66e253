//! Filters of system calls in classic BPF: from ranges of numbers to instructions that search them by halves.
//!
//! When a filter is installed the kernel runs it once for every system call there is, to know which of them it need
//! not be asked about again (Linux, `seccomp_cache_prepare`): one that walks through its calls takes a millisecond.

/// What the kernel does with a call (`SECCOMP_RET_*`).
pub const KILL_PROCESS: u32 = 0x8000_0000;
/// It is done.
pub const ALLOW: u32 = 0x7fff_0000;

/// Where `struct seccomp_data` has the call's number.
pub const NUMBER_OFFSET: u32 = 0;
/// And where the architecture, by which its number has a meaning (`AUDIT_ARCH_*`).
pub const ARCHITECTURE_OFFSET: u32 = 4;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

/// Codes of `linux/bpf_common.h`, put together.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the first argument.
const ARGUMENTS_OFFSET: u32 = 16;

impl Instruction {
    fn new(code: u16, value: u32) -> Self {
        Self { code, jump_true: 0, jump_false: 0, value }
    }

    /// Takes a word of `struct seccomp_data` to look at.
    pub fn load(offset: u32) -> Self {
        Self::new(LOAD_WORD, offset)
    }

    /// Leaves out as many instructions, which the kernel bounds by a whole program's.
    pub fn jump(instructions: usize) -> Self {
        Self::new(JUMP, instructions as u32)
    }

    /// Leaves out as many if the word is `value`, or is not.
    pub fn jump_if_equal(value: u32, jump_true: u8, jump_false: u8) -> Self {
        Self { jump_true, jump_false, ..Self::new(JUMP_EQUAL, value) }
    }

    /// Tells the kernel what to do.
    pub fn end(result: u32) -> Self {
        Self::new(RETURN, result)
    }
}

impl From<Instruction> for libc::sock_filter {
    fn from(instruction: Instruction) -> Self {
        let Instruction { code, jump_true, jump_false, value } = instruction;
        Self { code, jt: jump_true, jf: jump_false, k: value }
    }
}

impl From<Instruction> for u64 {
    /// Its eight bytes, the first of them lowest.
    fn from(instruction: Instruction) -> Self {
        let Instruction { code, jump_true, jump_false, value } = instruction;
        let ([c0, c1], [v0, v1, v2, v3]) = (code.to_le_bytes(), value.to_le_bytes());
        Self::from_le_bytes([c0, c1, jump_true, jump_false, v0, v1, v2, v3])
    }
}

/// Numbers from `first` up to where the next range begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first of them.
    pub first: u32,
    /// What becomes of them.
    pub outcome: Outcome,
}

impl Range {
    /// A range whose calls all end the same way.
    pub fn of(first: u32, result: u32) -> Self {
        Self { first, outcome: Outcome::Always(result) }
    }
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This, whatever its arguments.
    Always(u32),
    /// The first rule that applies says it, or else `default`.
    Judged {
        /// In their order.
        rules: Vec<Rule>,
        /// What becomes of it otherwise.
        default: u32,
    },
}

impl Outcome {
    /// A rule that asks nothing of arguments is the whole answer, wherever it stands.
    pub fn of(rules: Vec<Rule>, default: u32) -> Self {
        match rules.iter().find(|rule| rule.all.is_empty()) {
            Some(rule) => Self::Always(rule.result),
            None if rules.is_empty() => Self::Always(default),
            None => Self::Judged { rules, default },
        }
    }
}

/// What becomes of a call if its arguments meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub all: Vec<Condition>,
    /// What becomes of it.
    pub result: u32,
}

/// What is asked of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, counted from 0.
    pub argument: u32,
    operator: Operator,
    value: u64,
    /// The argument has 64 bits, not 32.
    is_wide: bool,
}

/// How it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is another.
    NotEqual,
    /// It is less.
    Less,
    /// It is not greater.
    LessOrEqual,
    /// It is this.
    Equal,
    /// It is not less.
    GreaterOrEqual,
    /// It is greater.
    Greater,
    /// Some of its bits are these.
    MaskedEqual {
        /// Which bits.
        mask: u64,
    },
}

/// Where a jump inside a condition goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// Behind the condition: it is met.
    Met,
    /// Behind the rule: it does not apply.
    Missed,
}

impl Condition {
    /// Of an argument of 64 bits, if it `is_wide`, or of 32.
    pub fn new(argument: u32, operator: Operator, value: u64, is_wide: bool) -> Self {
        Self { argument, operator, value, is_wide }
    }

    /// The comparison, half by half because the machine has words of 32 bits: high, then low.
    fn steps(&self) -> Vec<(Instruction, To, To)> {
        use To::{Met, Missed, Next};
        let [low, high] = [self.value as u32, (self.value >> 32) as u32];
        let offset = ARGUMENTS_OFFSET + self.argument * 8;
        let step = |code, value, yes, no| (Instruction::new(code, value), yes, no);
        let load = |offset| step(LOAD_WORD, offset, Next, Next);
        let mut steps = Vec::new();
        if self.is_wide {
            steps.push(load(offset + 4));
            match self.operator {
                Operator::Equal => steps.push(step(JUMP_EQUAL, high, Next, Missed)),
                Operator::NotEqual => steps.push(step(JUMP_EQUAL, high, Next, Met)),
                Operator::MaskedEqual { mask } => steps.extend([
                    step(AND, (mask >> 32) as u32, Next, Next),
                    step(JUMP_EQUAL, high, Next, Missed),
                ]),
                Operator::Greater | Operator::GreaterOrEqual => steps.extend([
                    step(JUMP_GREATER, high, Met, Next),
                    step(JUMP_EQUAL, high, Next, Missed),
                ]),
                Operator::Less | Operator::LessOrEqual => steps.extend([
                    step(JUMP_GREATER, high, Missed, Next),
                    step(JUMP_EQUAL, high, Next, Met),
                ]),
            }
        }
        steps.push(load(offset));
        match self.operator {
            Operator::Equal => steps.push(step(JUMP_EQUAL, low, Met, Missed)),
            Operator::NotEqual => steps.push(step(JUMP_EQUAL, low, Missed, Met)),
            Operator::MaskedEqual { mask } => steps
                .extend([step(AND, mask as u32, Next, Next), step(JUMP_EQUAL, low, Met, Missed)]),
            Operator::Greater => steps.push(step(JUMP_GREATER, low, Met, Missed)),
            Operator::GreaterOrEqual => steps.push(step(JUMP_GREATER_OR_EQUAL, low, Met, Missed)),
            Operator::Less => steps.push(step(JUMP_GREATER_OR_EQUAL, low, Missed, Met)),
            Operator::LessOrEqual => steps.push(step(JUMP_GREATER, low, Missed, Met)),
        }
        steps
    }
}

impl Rule {
    /// At most six conditions of six steps and an end: every jump fits in its eight bits.
    fn instructions(&self) -> Vec<Instruction> {
        let mut steps = Vec::new();
        for condition in &self.all {
            let own = condition.steps();
            let met = steps.len() + own.len();
            steps.extend(own.into_iter().map(|step| (step, met)));
        }
        let missed = steps.len() + 1;
        let place =
            |(at, ((instruction, yes, no), met)): (usize, ((Instruction, To, To), usize))| {
                let distance = |to| match to {
                    To::Next => 0,
                    To::Met => (met - at - 1) as u8,
                    To::Missed => (missed - at - 1) as u8,
                };
                Instruction { jump_true: distance(yes), jump_false: distance(no), ..instruction }
            };
        let mut instructions: Vec<_> = steps.into_iter().enumerate().map(place).collect();
        instructions.push(Instruction::end(self.result));
        instructions
    }
}

/// Finds the range that the loaded number is in, by halves, and ends as it says. The first of
/// `ranges`, which are in order, takes whatever is below.
pub fn search(ranges: &[Range]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [Range { outcome: Outcome::Always(result), .. }] => vec![Instruction::end(*result)],
        [Range { outcome: Outcome::Judged { rules, default }, .. }] => {
            let rules = rules.iter().flat_map(Rule::instructions);
            rules.chain([Instruction::end(*default)]).collect()
        }
        ranges => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let middle = above.first().map_or(u32::MAX, |range| range.first);
            let (below, above) = (search(below), search(above));
            let branch = Instruction::new(JUMP_GREATER_OR_EQUAL, middle);
            let mut all = match u8::try_from(below.len()) {
                Ok(distance) => vec![Instruction { jump_true: distance, ..branch }],
                // Too far for a branch.
                Err(_) => {
                    vec![Instruction { jump_false: 1, ..branch }, Instruction::jump(below.len())]
                }
            };
            all.extend(below);
            all.extend(above);
            all
        }
    }
}
