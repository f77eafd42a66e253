//! `--storage`: where what a container writes to its root goes.

use vmm::spec::{Limits, Rate};

use super::PlanError;
use super::values::size;
use crate::storage::ext4;

/// The least that an overlay's upper layer in memory can do with: its own directories.
const MIN_MEMORY_BYTES: u64 = 64 << 10;

/// What is written over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    /// In the guest's memory, gone with the VM.
    Memory {
        /// The most it may be.
        bytes: u64,
    },
    /// On a disk, which stays as long as the container does.
    Disk(Storage),
}

/// A container's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its size, a whole number of the file system's blocks.
    pub(crate) bytes: u64,
    /// How fast it may be.
    pub(crate) limits: Limits,
}

/// What `--storage` says; without it half of the guest's memory, as `tmpfs` has it.
pub(super) fn upper(word: Option<&str>, ram_bytes: u64) -> Result<Upper, PlanError> {
    let Some(word) = word else { return Ok(Upper::Memory { bytes: ram_bytes / 2 }) };
    let bad = |what: String| PlanError::Storage { word: word.to_owned(), what };
    let mut said = Said::default();
    for pair in word.split(',') {
        said.hear(pair).map_err(bad)?;
    }
    said.judge(ram_bytes).map_err(bad)
}

/// The words of one `--storage`.
#[derive(Default)]
struct Said<'a> {
    kind: Option<&'a str>,
    size: Option<u64>,
    bps: Option<u64>,
    bps_burst: Option<u64>,
    iops: Option<u64>,
    iops_burst: Option<u64>,
}

impl<'a> Said<'a> {
    fn hear(&mut self, pair: &'a str) -> Result<(), String> {
        let unknown =
            || format!("{pair:?} is none of type=, size=, bps=, bps-burst=, iops= and iops-burst=");
        let (key, word) = pair.split_once('=').ok_or_else(unknown)?;
        let (place, value) = match key {
            "type" if !matches!(word, "disk" | "memory") => {
                return Err(format!("type {word:?} is neither disk nor memory"));
            }
            "type" => return once(&mut self.kind, word, pair),
            "size" => (&mut self.size, size(word)),
            "bps" => (&mut self.bps, size(word)),
            "bps-burst" => (&mut self.bps_burst, size(word)),
            "iops" => (&mut self.iops, word.parse().ok()),
            "iops-burst" => (&mut self.iops_burst, word.parse().ok()),
            _ => return Err(unknown()),
        };
        let kind = if key.starts_with("iops") { "number" } else { "size like 512m or 10g" };
        let value = value.ok_or_else(|| format!("{key} {word:?} is not a {kind}"))?;
        if value == 0 {
            return Err(format!("{key} is 0"));
        }
        once(place, value, pair)
    }

    fn judge(self, ram_bytes: u64) -> Result<Upper, String> {
        let in_memory = self.kind == Some("memory");
        let bytes = self.size.ok_or("it has no size=")?;
        let limits = Limits {
            bytes: rate(self.bps, self.bps_burst, "bps")?,
            requests: rate(self.iops, self.iops_burst, "iops")?,
        };
        let (least, most) = match in_memory {
            true => (MIN_MEMORY_BYTES, ram_bytes),
            false => (ext4::MIN_BYTES, ext4::MAX_BYTES),
        };
        if !(least..=most).contains(&bytes) {
            return Err(format!("size is {bytes} bytes, not {least} to {most}"));
        }
        match in_memory {
            true if limits != Limits::default() => {
                Err("bps and iops are a disk's, and memory has none".to_owned())
            }
            true => Ok(Upper::Memory { bytes }),
            false => Ok(Upper::Disk(Storage { bytes: bytes - bytes % ext4::BLOCK as u64, limits })),
        }
    }
}

/// Notes what is to be said once.
pub(super) fn once<T>(place: &mut Option<T>, value: T, pair: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{pair:?} says again what was said")),
    }
}

/// What may come at once is as much as comes in a second, unless it is said.
pub(super) fn rate(
    per_second: Option<u64>,
    burst: Option<u64>,
    key: &str,
) -> Result<Option<Rate>, String> {
    match (per_second, burst) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(format!("{key}-burst is of no use without {key}")),
        (Some(per_second), burst) => {
            Ok(Some(Rate { per_second, burst: burst.unwrap_or(per_second) }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 512 << 20;

    #[test]
    fn a_disk_is_as_large_and_as_fast_as_was_said() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        for (word, bytes, of_bytes, of_requests) in [
            ("size=10g", 10 << 30, None, None),
            ("type=disk,size=64m", 64 << 20, None, None),
            ("size=67108865", 64 << 20, None, None), // in blocks
            ("bps=1m,size=1g", 1 << 30, rate(1 << 20, 1 << 20), None),
            ("size=1g,bps=1m,bps-burst=8m", 1 << 30, rate(1 << 20, 8 << 20), None),
            ("size=1g,iops=100,iops-burst=500", 1 << 30, None, rate(100, 500)),
            ("size=1g,iops=7,bps=9", 1 << 30, rate(9, 9), rate(7, 7)),
        ] {
            let limits = Limits { bytes: of_bytes, requests: of_requests };
            assert_eq!(
                upper(Some(word), RAM),
                Ok(Upper::Disk(Storage { bytes, limits })),
                "{word}"
            );
        }
    }

    #[test]
    fn memory_is_half_of_the_guests_or_what_was_said() {
        assert_eq!(upper(None, RAM), Ok(Upper::Memory { bytes: RAM / 2 }));
        let said = upper(Some("type=memory,size=16m"), RAM);
        assert_eq!(said, Ok(Upper::Memory { bytes: 16 << 20 }));
    }

    #[test]
    fn what_cannot_be_is_said_by_its_word() {
        for (word, want) in [
            ("", "\"\" is none of"),
            ("10g", "\"10g\" is none of"),
            ("size=1g,colour=red", "\"colour=red\" is none of"),
            ("bps=1m", "it has no size="),
            ("size=lots", "size \"lots\" is not a size like"),
            ("size=1m", "size is 1048576 bytes, not 67108864 to"),
            ("size=9t", "size is 9895604649984 bytes, not"),
            ("size=1g,size=1g", "\"size=1g\" says again"),
            ("size=1g,type=tape", "type \"tape\" is neither"),
            ("size=1g,iops=many", "iops \"many\" is not a number"),
            ("size=1g,iops=1k", "iops \"1k\" is not a number"),
            ("size=1g,iops=0", "iops is 0"),
            ("size=1g,bps=0m", "bps is 0"),
            ("size=1g,bps-burst=1m", "bps-burst is of no use"),
            ("type=memory,size=1g", "size is 1073741824 bytes, not 65536 to 536870912"),
            ("type=memory,size=1m,iops=5", "bps and iops are a disk's"),
        ] {
            let message = upper(Some(word), RAM).unwrap_err().to_string();
            let want = format!("--storage {word:?}: {want}");
            assert!(message.starts_with(&want), "{message}, not {want}");
        }
    }
}
