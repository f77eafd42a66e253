//! Cgroups of version 1: a hierarchy for each controller or for several, and a directory of the
//! container's in each of them (Linux, "Control Groups version 1").
//!
//! What is to be set comes in the words of version 2, as everywhere here, and is turned into those of
//! version 1.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{CgroupError, ENDING_SECONDS, at, get, put, remove};
use crate::oci::resources::Values;

/// Files of a `cpuset` that have to say something before a process can be in it.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A cgroup in each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group1 {
    /// Its directory for each controller; named hierarchies, systemd's among them, count as one.
    directories: BTreeMap<String, PathBuf>,
    /// Where those hierarchies are mounted.
    tops: BTreeSet<PathBuf>,
}

impl Group1 {
    /// The one at a place below the top of each hierarchy; `None` if there is no hierarchy.
    pub(super) fn at(below: &Path) -> Result<Option<Self>, CgroupError> {
        let hierarchies = hierarchies()?;
        let tops = hierarchies.values().cloned().collect();
        let directories = hierarchies.into_iter().map(|(name, top)| (name, top.join(below)));
        let group = Self { directories: directories.collect(), tops };
        Ok((!group.directories.is_empty()).then_some(group))
    }

    /// What `/proc/PID/cgroup` says, `ID:CONTROLLERS:PATH` in a line (cgroups(7)).
    pub(super) fn of(text: &str) -> Self {
        let hierarchies = hierarchies().unwrap_or_default();
        let mut directories = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            for controller in controllers.split(',') {
                if let Some(top) = hierarchies.get(controller) {
                    let directory = top.join(path.trim_start_matches('/'));
                    directories.insert(controller.to_owned(), directory);
                }
            }
        }
        Self { directories, tops: hierarchies.into_values().collect() }
    }

    /// Makes it.
    pub(super) fn make(&self) -> Result<(), CgroupError> {
        for (controller, directory) in &self.directories {
            fs::create_dir_all(directory).map_err(at(directory))?;
            if controller == "cpuset" {
                self.fill_cpuset(directory)?;
            }
        }
        Ok(())
    }

    /// A new cpuset is empty and takes no process: it gets what the one above it has, from the top down.
    fn fill_cpuset(&self, directory: &Path) -> Result<(), CgroupError> {
        let below_top = |place: &&Path| !self.tops.contains(*place);
        let mut chain: Vec<_> = directory.ancestors().take_while(below_top).collect();
        chain.reverse();
        for (place, file) in chain.into_iter().flat_map(|place| CPUSET.map(|file| (place, file))) {
            let own = place.join(file);
            let above = place.with_file_name(file);
            if fs::read_to_string(&own).map_err(at(&own))?.trim().is_empty() {
                put(&own, &fs::read_to_string(&above).map_err(at(&above))?)?;
            }
        }
        Ok(())
    }

    /// Quota and period as version 2 has them in one file.
    pub(super) fn cpu_max(&self) -> Result<String, CgroupError> {
        let Some(directory) = self.directories.get("cpu") else { return Ok(String::new()) };
        let period = get(&directory.join("cpu.cfs_period_us"))?;
        Ok(match get(&directory.join("cpu.cfs_quota_us"))?.as_str() {
            "-1" => format!("max {period}"),
            quota => format!("{quota} {period}"),
        })
    }

    /// Sets values, in order.
    pub(super) fn set(&self, values: &Values) -> Result<(), CgroupError> {
        let mut turned = Vec::new();
        for (file, value) in values {
            turned.extend(in_version_1(file, value).ok_or_else(|| {
                let source = io::Error::other("version 1 of cgroups has no such limit");
                CgroupError::Io { path: file.into(), source }
            })?);
        }
        for (file, value) in turned {
            let controller = file.split('.').next().unwrap_or_default();
            let directory = self.directories.get(controller).ok_or_else(|| {
                let source =
                    io::Error::other(format!("no hierarchy has the {controller} controller"));
                CgroupError::Io { path: file.into(), source }
            })?;
            put(&directory.join(file), &value)?;
        }
        Ok(())
    }

    /// Moves this process in.
    pub(super) fn enter(&self) -> Result<(), CgroupError> {
        self.places().try_for_each(|place| put(&place.join("cgroup.procs"), "0"))
    }

    /// Removes it with those below it.
    pub(super) fn remove(&self) -> Result<(), CgroupError> {
        self.places().try_for_each(|place| remove(place, &wait_until_empty))
    }

    /// Its directories, each once.
    fn places(&self) -> impl Iterator<Item = &Path> {
        let places: BTreeSet<&Path> = self.directories.values().map(PathBuf::as_path).collect();
        places.into_iter()
    }
}

/// Where the hierarchy of each controller is mounted.
fn hierarchies() -> Result<BTreeMap<String, PathBuf>, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    Ok(mounted(&fs::read_to_string(path).map_err(at(path))?))
}

/// The same, of the lines of a `mountinfo` (proc_pid_mountinfo(5)).
fn mounted(text: &str) -> BTreeMap<String, PathBuf> {
    let mut hierarchies = BTreeMap::new();
    for line in text.lines() {
        let Some((mount, of_file_system)) = line.split_once(" - cgroup ") else { continue };
        let Some(place) = mount.split(' ').nth(4) else { continue };
        let Some(options) = of_file_system.split(' ').nth(1) else { continue };
        for option in options.split(',').filter(|option| !["rw", "ro", "xattr"].contains(option)) {
            // What is mounted twice is meant at its first place.
            hierarchies.entry(option.to_owned()).or_insert_with(|| PathBuf::from(place));
        }
    }
    hierarchies
}

/// What a file of version 2 and its value are in version 1; `None` if that has no such thing.
fn in_version_1(file: &str, value: &str) -> Option<Vec<(&'static str, String)>> {
    let or_none = |word: &str| if word == "max" { "-1".to_owned() } else { word.to_owned() };
    let number = |word: &str| word.parse::<u64>().unwrap_or_default();
    Some(match file {
        "memory.max" => vec![("memory.limit_in_bytes", or_none(value))],
        // 1 to 10,000, as shares from 2 to 262,144.
        "cpu.weight" => {
            let shares = 2 + (number(value).saturating_sub(1) * 262_142).div_ceil(9999);
            vec![("cpu.shares", shares.to_string())]
        }
        "cpu.idle" => vec![("cpu.idle", value.to_owned())],
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
            let period = ("cpu.cfs_period_us", period.to_owned());
            vec![period, ("cpu.cfs_quota_us", or_none(quota))]
        }
        "cpu.max.burst" => vec![("cpu.cfs_burst_us", value.to_owned())],
        "cpuset.cpus" => vec![("cpuset.cpus", value.to_owned())],
        "cpuset.mems" => vec![("cpuset.mems", value.to_owned())],
        // 1 to 10,000, as 10 to 1000.
        "io.weight" => {
            let weight = number(value.trim_start_matches("default ")).saturating_sub(1);
            vec![("blkio.weight", (10 + (weight * 990).div_ceil(9999)).to_string())]
        }
        "io.bfq.weight" => vec![("blkio.weight_device", value.to_owned())],
        "io.max" => {
            let (device, limit) = value.split_once(' ')?;
            let (what, rate) = limit.split_once('=')?;
            let file = match what {
                "rbps" => "blkio.throttle.read_bps_device",
                "wbps" => "blkio.throttle.write_bps_device",
                "riops" => "blkio.throttle.read_iops_device",
                _ => "blkio.throttle.write_iops_device",
            };
            vec![(file, format!("{device} {rate}"))]
        }
        _ => return None,
    })
}

/// Waits for the last process to end, for as long as that should take. Nothing tells of it but the
/// processes themselves.
fn wait_until_empty(place: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: ENDING_SECONDS, tv_nsec: 0 };
    loop {
        let processes = fs::read_to_string(place.join("cgroup.procs"))?;
        let Some(first) = processes.lines().find_map(|line| Pid::from_raw(line.parse().ok()?))
        else {
            return Ok(());
        };
        let Ok(process) = pidfd_open(first, PidfdFlags::empty()) else { continue };
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time))? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_controllers() {
        let text = "\
24 18 0:21 / /sys/fs/cgroup ro,nosuid shared:5 - tmpfs tmpfs ro,mode=755
25 24 0:22 / /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw,nsdelegate
26 24 0:23 / /sys/fs/cgroup/systemd rw shared:7 - cgroup cgroup rw,xattr,name=systemd
28 24 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
29 24 0:25 / /elsewhere rw,nosuid - cgroup cgroup rw,cpu,cpuacct
";
        let found = mounted(text);
        let found: Vec<_> =
            found.iter().map(|(name, place)| (name.as_str(), place.to_str().unwrap())).collect();
        let together = "/sys/fs/cgroup/cpu,cpuacct";
        let systemd = ("name=systemd", "/sys/fs/cgroup/systemd");
        assert_eq!(found, [("cpu", together), ("cpuacct", together), systemd]);
    }

    #[test]
    fn limits_are_said_in_the_words_of_version_1() {
        for (file, value, wanted) in [
            ("memory.max", "67108864", &[("memory.limit_in_bytes", "67108864")][..]),
            ("memory.max", "max", &[("memory.limit_in_bytes", "-1")]),
            ("cpu.weight", "1", &[("cpu.shares", "2")]),
            ("cpu.weight", "10000", &[("cpu.shares", "262144")]),
            (
                "cpu.max",
                "150000 50000",
                &[("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "150000")],
            ),
            (
                "cpu.max",
                "max 100000",
                &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "-1")],
            ),
            ("cpu.max.burst", "9", &[("cpu.cfs_burst_us", "9")]),
            ("io.weight", "default 10000", &[("blkio.weight", "1000")]),
            ("io.max", "8:0 wiops=600", &[("blkio.throttle.write_iops_device", "8:0 600")]),
        ] {
            let said = in_version_1(file, value).unwrap();
            let said: Vec<_> = said.iter().map(|(file, value)| (*file, value.as_str())).collect();
            assert_eq!(said, wanted, "{file}");
        }
        assert_eq!(in_version_1("cpu.uclamp.min", "5"), None);
    }

    /// On a machine that has version 1, with a process that is moved in from outside.
    #[test]
    fn a_group_limits_holds_and_is_removed_when_its_process_has_ended() {
        let name = format!("microvm-test-{}", std::process::id());
        let group = Group1::at(Path::new(&name)).unwrap().filter(|group| {
            group.directories.contains_key("memory") && rustix::process::geteuid().is_root()
        });
        let Some(group) = group else {
            eprintln!("skipped: no hierarchies of version 1 here, or no right to them");
            return;
        };
        group.make().unwrap();
        group.set(&vec![("memory.max".to_owned(), (64 << 20).to_string())]).unwrap();
        if group.directories.contains_key("cpu") {
            assert_eq!(group.cpu_max().unwrap(), "max 100000");
            group.set(&vec![("cpu.max".to_owned(), "150000 50000".to_owned())]).unwrap();
            assert_eq!(group.cpu_max().unwrap(), "150000 50000");
        }
        let limit = group.directories["memory"].join("memory.limit_in_bytes");
        assert_eq!(fs::read_to_string(limit).unwrap().trim(), (64 << 20).to_string());
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        for place in group.places() {
            fs::write(place.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        let told = fs::read_to_string(format!("/proc/{}/cgroup", process.id())).unwrap();
        assert_eq!(Group1::of(&told), group);
        // It ends while it is waited for.
        let input = process.stdin.take();
        let removing = std::thread::spawn({
            let group = group.clone();
            move || group.remove()
        });
        drop(input);
        process.wait().unwrap();
        removing.join().unwrap().unwrap();
        assert!(group.places().all(|place| !place.exists()), "{group:?}");
    }
}
