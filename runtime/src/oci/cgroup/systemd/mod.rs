//! Cgroups that systemd makes: a transient scope for each container, in a slice (`--systemd-cgroup`).
//!
//! systemd is told the limits that it has names for, so that it does not undo them; files of the
//! cgroup are then written as without it.

mod bus;

use std::path::{Path, PathBuf};

use zvariant::{OwnedObjectPath, Value};

pub(crate) use self::bus::BusError;
use self::bus::{Bus, Target};
use super::CgroupError;
use crate::oci::resources::Values;
use crate::state::record::Name;

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

/// A unit's property: its name and its value.
type Property = (&'static str, Value<'static>);

/// No limit, in a property.
const INFINITY: u64 = u64::MAX;

/// systemd keeps quotas in whole hundredths of a processor.
const QUOTA_STEP: u64 = 10_000;

/// A container's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The slice it is in.
    slice: String,
    /// Its own name.
    pub(super) name: String,
}

impl Unit {
    /// `SLICE:PREFIX:NAME`, as runc has it; without a word, a container's own scope of the system.
    pub(super) fn new(asked: Option<&Path>, container: &Name) -> Result<Self, CgroupError> {
        let asked = asked.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let usual = format!(":microvm:{container}");
        let words = if asked.is_empty() { &usual } else { &asked };
        let bad = || CgroupError::Unit { words: words.clone() };
        let [slice, prefix, name] = words.split(':').collect::<Vec<_>>()[..] else {
            return Err(bad());
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let name = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let unit = Self { slice: slice.to_owned(), name };
        let plain = |word: &str| !word.is_empty() && !word.contains('/') && !word.starts_with('.');
        if !plain(&unit.slice) || !plain(&unit.name) || unit.above().is_none() {
            return Err(bad());
        }
        Ok(unit)
    }

    /// Where its cgroup is in the hierarchy: `a-b.slice` is in `a.slice` (systemd.slice(5)).
    pub(super) fn path(&self) -> PathBuf {
        self.above().unwrap_or_default().join(&self.name)
    }

    fn above(&self) -> Option<PathBuf> {
        let stem = self.slice.strip_suffix(".slice")?;
        if stem == "-" {
            return Some(PathBuf::new());
        }
        if stem.split('-').any(str::is_empty) {
            return None;
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
    }

    /// Makes it, with the calling process in it.
    pub(super) fn start(&self, container: &Name, values: &Values) -> Result<(), BusError> {
        let mut asked: Vec<Property> = vec![
            ("Description", format!("microvm container {container}").into()),
            ("Slice", self.slice.clone().into()),
            ("PIDs", vec![std::process::id()].into()),
            ("Delegate", true.into()),
            ("DefaultDependencies", false.into()),
            // One whose memory ran out is not kept for somebody to look at.
            ("CollectMode", "inactive-or-failed".into()),
        ];
        for account in ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"] {
            asked.push((account, true.into()));
        }
        asked.extend(properties(values));
        let beside: Vec<(&str, Vec<Property>)> = vec![];
        let mut bus = Bus::connect()?;
        bus.watch(MANAGER.interface, "JobRemoved")?;
        let arguments = (self.name.as_str(), "replace", asked, beside);
        let job: OwnedObjectPath = bus.call(&MANAGER, "StartTransientUnit", &arguments)?;
        loop {
            let (_, ended, _, result): (u32, OwnedObjectPath, String, String) =
                bus.signal("JobRemoved")?;
            match result.as_str() {
                _ if ended != job => {}
                "done" => return Ok(()),
                _ => {
                    let what = format!("the job for {} ended as {result:?}", self.name);
                    return Err(BusError::Nonsense { what });
                }
            }
        }
    }
}

/// Tells systemd of other limits of a unit that runs.
pub(super) fn set(unit: &str, values: &Values) -> Result<(), BusError> {
    let asked = properties(values);
    if asked.is_empty() {
        return Ok(());
    }
    // "Runtime": until the machine is booted anew.
    Bus::connect()?.call(&MANAGER, "SetUnitProperties", &(unit, true, asked))
}

/// Lets go of a unit whose processes have ended; most are gone with the last of them.
pub(super) fn forget(unit: &str) -> Result<(), BusError> {
    let mut bus = Bus::connect()?;
    match bus.call::<OwnedObjectPath>(&MANAGER, "StopUnit", &(unit, "replace")) {
        Ok(_) | Err(BusError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    match bus.call(&MANAGER, "ResetFailedUnit", &(unit,)) {
        Err(BusError::Refused { .. }) => Ok(()),
        end => end,
    }
}

/// What systemd has a name for of what is written to a cgroup (systemd.resource-control(5)).
fn properties(values: &Values) -> Vec<Property> {
    values.iter().flat_map(|(file, value)| property(file, value)).collect()
}

fn property(file: &str, value: &str) -> Vec<Property> {
    let number = |word: &str| if word == "max" { Some(INFINITY) } else { word.parse().ok() };
    let one = |name, value: Option<u64>| value.map(|it| (name, it.into())).into_iter().collect();
    match file {
        "memory.max" => one("MemoryMax", number(value)),
        "memory.low" => one("MemoryLow", number(value)),
        "cpu.weight" => one("CPUWeight", number(value)),
        "pids.max" => one("TasksMax", number(value)),
        "io.weight" => one("IOWeight", value.strip_prefix("default ").and_then(number)),
        "cpuset.cpus" => mask("AllowedCPUs", value).into_iter().collect(),
        "cpuset.mems" => mask("AllowedMemoryNodes", value).into_iter().collect(),
        "cpu.max" => {
            let Some((quota, period)) = value.split_once(' ') else { return vec![] };
            let (Some(quota), Some(period @ 1..)) = (number(quota), number(period)) else {
                return vec![];
            };
            let per_second = match quota {
                INFINITY => INFINITY,
                quota => (quota.saturating_mul(1_000_000) / period).next_multiple_of(QUOTA_STEP),
            };
            let names = ["CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"];
            names.into_iter().zip([per_second.into(), period.into()]).collect()
        }
        _ => vec![],
    }
}

/// `0-2,5` as bits, the first processor's the lowest of the first byte.
fn mask(name: &'static str, list: &str) -> Option<Property> {
    /// More processors than Linux has anywhere.
    const MOST: usize = 8192;
    let mut bits = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0_u8);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    Some((name, bits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(words: &str) -> Result<Unit, CgroupError> {
        Unit::new(Some(Path::new(words)), &"web".parse().unwrap())
    }

    #[test]
    fn a_slice_stands_in_the_slices_its_name_says() {
        for (words, path) in [
            ("user.slice:libpod:abc", "user.slice/libpod-abc.scope"),
            ("machine-a-b.slice::x", "machine.slice/machine-a.slice/machine-a-b.slice/x.scope"),
            ("-.slice:p:x", "p-x.scope"),
            (":p:x", "system.slice/p-x.scope"),
            ("", "system.slice/microvm-web.scope"),
        ] {
            assert_eq!(unit(words).unwrap().path(), Path::new(path), "{words}");
        }
    }

    #[test]
    fn what_is_no_unit_is_refused_in_its_own_words() {
        for words in
            ["/a/b", "a:b", "a:b:c:d", "a:b:c", "a--b.slice:p:x", "../a.slice:p:x", "::a/b"]
        {
            let said = unit(words).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn limits_become_properties_where_systemd_has_a_name() {
        let said = |file: &str, value: &str| properties(&vec![(file.to_owned(), value.to_owned())]);
        assert_eq!(said("memory.max", "4096"), [("MemoryMax", 4096_u64.into())]);
        assert_eq!(said("pids.max", "max"), [("TasksMax", INFINITY.into())]);
        let quota = said("cpu.max", "150000 100000");
        assert_eq!(quota[0], ("CPUQuotaPerSecUSec", 1_500_000_u64.into()));
        assert_eq!(quota[1], ("CPUQuotaPeriodUSec", 100_000_u64.into()));
        assert_eq!(said("cpu.max", "max 100000")[0].1, INFINITY.into());
        assert_eq!(said("cpuset.cpus", "0-2,9"), [("AllowedCPUs", vec![7_u8, 2].into())]);
        assert_eq!(said("cpuset.cpus", "nonsense"), []);
        assert_eq!(said("memory.high", "1"), []);
    }
}
