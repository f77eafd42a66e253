//! Words of the command line that stand for numbers.

use std::str::FromStr;

use nix::sys::signal::Signal;
use vmm::spec::{MAX_VCPUS, MIN_RAM_BYTES, RAM_STEP_BYTES};

use super::PlanError;

/// The memory of a VM nobody gave a size: enough for a shell and small services; only what is touched
/// costs the host anything.
pub(crate) const USUAL_RAM_BYTES: u64 = 512 << 20;

/// The longest host name Linux keeps (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

pub(super) fn ram_bytes(word: Option<&str>, host_bytes: u64) -> Result<u64, PlanError> {
    let Some(word) = word else { return Ok(USUAL_RAM_BYTES) };
    let bytes = size(word).ok_or_else(|| PlanError::MemoryWord { word: word.to_owned() })?;
    if bytes < MIN_RAM_BYTES {
        return Err(PlanError::MemoryTooSmall { word: word.to_owned() });
    }
    if bytes > host_bytes {
        return Err(PlanError::MemoryTooLarge { word: word.to_owned(), host_bytes });
    }
    Ok(bytes.next_multiple_of(RAM_STEP_BYTES))
}

/// Bytes, as docker reads them: a number, perhaps with a point in it, then `b`, `k`, `m`, `g` or `t`
/// of 1024 each, as small or large letters, perhaps with `b` or `ib` behind.
pub(super) fn size(word: &str) -> Option<u64> {
    let word = word.to_ascii_lowercase();
    let digits = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &word[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    // A float's own words (inf, nan, 1e9, signs) are no sizes; what is too large for u64 saturates.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    Some((digits.parse::<f64>().ok()? * unit) as u64)
}

/// Bytes of a limit as runc reads them: as [`size`] does, and -1 for none.
pub(crate) fn limit_bytes(word: &str) -> Result<i64, BadSize> {
    if word == "-1" {
        return Ok(-1);
    }
    let bytes = size(word).ok_or_else(|| BadSize(word.to_owned()))?;
    i64::try_from(bytes).map_err(|_| BadSize(word.to_owned()))
}

/// A word is no number of bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of bytes, as 512m is one")]
pub(crate) struct BadSize(String);

pub(super) fn vcpus(word: Option<&str>) -> Result<u8, PlanError> {
    let Some(word) = word else { return Ok(1) };
    let bad = || PlanError::Cpus { word: word.to_owned() };
    let number: f64 = word.parse().map_err(|_| bad())?;
    // Not a range of floats: 0.5 rounds up to 1 and counts.
    match number.ceil() {
        whole if whole >= 1.0 && whole <= f64::from(MAX_VCPUS) => Ok(whole as u8),
        _ => Err(bad()),
    }
}

pub(super) fn is_hostname(word: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    word.len() <= MAX_HOSTNAME && word.split('.').all(label)
}

/// A word is no signal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--signal {0:?} is not a signal's name or number")]
pub(crate) struct BadSignal(String);

/// A signal by name, with or without `SIG`, or by number.
pub(crate) fn signal_number(word: &str) -> Result<i32, BadSignal> {
    /// Real-time signals have numbers only; 64 is the last.
    const LAST: i32 = 64;
    let bad = || BadSignal(word.to_owned());
    if let Ok(number) = word.parse::<i32>() {
        return if (1..=LAST).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = word.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&name).map(|signal| signal as i32).map_err(|_| bad())
}
