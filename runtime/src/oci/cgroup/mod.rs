//! The VM's cgroup on the host: the supervisor, the VMM and the file server are in it, so that what a
//! container takes of the host is counted and limited in one place, where podman and containerd look.

mod moving;
mod systemd;
mod version1;

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::statfs;
use rustix::process::Pid;

use serde::{Deserialize, Serialize};

pub(super) use self::moving::Moving;
use self::systemd::{BusError, Unit};
use self::version1::Group1;
use super::resources::Values;
use crate::state::record::Name;

/// Where the hierarchy of version 2 is mounted.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const MAGIC: i64 = 0x6367_7270;

/// How long a killed VM's processes may take to end: on a host that has no time for them, long.
const ENDING_SECONDS: i64 = 60;

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The host has no cgroups.
    #[error("there are no cgroups at {HIERARCHY}, of neither version")]
    None,
    /// systemd's way is that of version 2 alone: systemd itself has given the other one up.
    #[error("--systemd-cgroup needs cgroups of version 2, this host has version 1")]
    SystemdVersion1,
    /// The path is for another driver, or leads out of the hierarchy.
    #[error("linux.cgroupsPath {} is not a path in the hierarchy", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// They are for another driver, or name no unit.
    #[error("linux.cgroupsPath {words}, with --systemd-cgroup, is not SLICE.slice:PREFIX:NAME")]
    Unit {
        /// What should have been a unit.
        words: String,
    },
    /// systemd does not do its part.
    #[error("systemd, unit {unit}")]
    Systemd {
        /// The unit.
        unit: String,
        /// Why not.
        source: BusError,
    },
    /// The kernel refused.
    #[error("cgroup {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { path, source }
}

/// A container's cgroup on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Group {
    /// In the one hierarchy of version 2.
    Version2(Group2),
    /// In each hierarchy of version 1.
    Version1(Group1),
}

/// A cgroup of version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group2 {
    /// Its directory.
    directory: PathBuf,
    /// The unit it belongs to, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

/// A cgroup that is to be made.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) group: Group,
    unit: Option<Unit>,
}

/// Decides where the cgroup of a container is: as systemd is asked to, at its path, or by its name at
/// the top.
pub(super) fn decide(
    asked: Option<&Path>,
    container: &Name,
    by_systemd: bool,
) -> Result<Wanted, CgroupError> {
    let hierarchy = Path::new(HIERARCHY);
    if !is_version_2()? {
        if by_systemd {
            return Err(CgroupError::SystemdVersion1);
        }
        let group = Group1::at(&below(asked, container)?)?.ok_or(CgroupError::None)?;
        return Ok(Wanted { group: Group::Version1(group), unit: None });
    }
    let unit = by_systemd.then(|| Unit::new(asked, container)).transpose()?;
    let below = unit.as_ref().map_or_else(|| below(asked, container), |unit| Ok(unit.path()))?;
    let name = unit.as_ref().map(|unit| unit.name.clone());
    let group = Group::Version2(Group2 { directory: hierarchy.join(below), unit: name });
    Ok(Wanted { group, unit })
}

impl Wanted {
    /// Makes it and sets `values`.
    pub(super) fn make(&self, container: &Name, values: &Values) -> Result<(), CgroupError> {
        match &self.group {
            Group::Version1(group) => {
                group.make()?;
                group.set(values)?;
            }
            Group::Version2(Group2 { directory, .. }) => {
                match &self.unit {
                    Some(unit) => unit.start(container, values).map_err(|source| {
                        CgroupError::Systemd { unit: unit.name.clone(), source }
                    })?,
                    None => make(directory)?,
                }
                write(directory, values)?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// The cgroup of a process.
    pub(crate) fn of(process: Pid) -> Self {
        let file = format!("/proc/{}/cgroup", process.as_raw_nonzero());
        let text = fs::read_to_string(file).unwrap_or_default();
        if !is_version_2().unwrap_or(true) {
            return Self::Version1(Group1::of(&text));
        }
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let directory = Path::new(HIERARCHY).join(path.unwrap_or_default());
        Self::Version2(Group2 { directory, unit: None })
    }

    /// Quota and period as `cpu.max` has them, or nothing where the host has no such controller.
    pub(crate) fn cpu_max(&self) -> Result<String, CgroupError> {
        match self {
            Self::Version1(group) => group.cpu_max(),
            Self::Version2(group) => get(&group.directory.join("cpu.max")),
        }
    }

    /// Sets values, in order.
    pub(crate) fn set(&self, values: &Values) -> Result<(), CgroupError> {
        let Group2 { directory, unit } = match self {
            Self::Version1(group) => return group.set(values),
            Self::Version2(group) => group,
        };
        if let Some(unit) = unit {
            systemd::set(unit, values)
                .map_err(|source| CgroupError::Systemd { unit: unit.clone(), source })?;
        }
        write(directory, values)
    }

    /// Its directory, for processes to begin in; `None` where the host has no way for that.
    pub(super) fn open(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match self {
            Self::Version1(_) => Ok(None),
            Self::Version2(Group2 { directory, .. }) => {
                let opened = File::open(directory).map_err(at(directory))?;
                Ok(Some(opened.into()))
            }
        }
    }

    /// Moves this process in.
    pub(super) fn enter(&self) -> Result<(), CgroupError> {
        match self {
            Self::Version1(group) => group.enter(),
            Self::Version2(group) => put(&group.directory.join("cgroup.procs"), "0"),
        }
    }

    /// Removes it with those below it. Its processes have ended, or are about to: those of a supervisor
    /// that was killed hear of it as soon as we do.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        let Group2 { directory, unit } = match self {
            Self::Version1(group) => return group.remove(),
            Self::Version2(group) => group,
        };
        remove(directory, &wait_until_empty)?;
        let Some(unit) = unit else { return Ok(()) };
        systemd::forget(unit).map_err(|source| CgroupError::Systemd { unit: unit.clone(), source })
    }
}

/// Which version the host has where all look.
fn is_version_2() -> Result<bool, CgroupError> {
    let hierarchy = Path::new(HIERARCHY);
    let kind = statfs(hierarchy).map_err(|error| at(hierarchy)(error.into()))?;
    Ok(kind.f_type as i64 == MAGIC)
}

/// A container's place below the top of a hierarchy.
fn below(asked: Option<&Path>, name: &Name) -> Result<PathBuf, CgroupError> {
    let path = match asked {
        Some(path) if path.as_os_str().is_empty() => Path::new(name.as_ref()),
        Some(path) => path,
        None => Path::new(name.as_ref()),
    };
    let mut place = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) if !part.to_string_lossy().contains(':') => place.push(part),
            _ => return Err(CgroupError::Path { path: path.to_owned() }),
        }
    }
    if place.as_os_str().is_empty() {
        return Err(CgroupError::Path { path: path.to_owned() });
    }
    Ok(place)
}

/// Makes the cgroup at `place`, with every controller that can be had.
fn make(place: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(place).map_err(at(place))?;
    let hierarchy = Path::new(HIERARCHY);
    let above: Vec<_> =
        place.ancestors().skip(1).take_while(|p| p.starts_with(hierarchy)).collect();
    for parent in above.into_iter().rev() {
        let controllers = parent.join("cgroup.controllers");
        let all = fs::read_to_string(&controllers).map_err(at(&controllers))?;
        for controller in all.split_whitespace() {
            // One that processes in between keep busy is missed when a value is set, not before.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

fn write(place: &Path, values: &Values) -> Result<(), CgroupError> {
    for (file, value) in values {
        put(&place.join(file), value)?;
    }
    Ok(())
}

fn put(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, value).map_err(at(file))
}

/// What stands in a file, without the end of its line; nothing where there is none.
fn get(file: &Path) -> Result<String, CgroupError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(at(file)(error)),
    }
}

/// Waits for the last process to end, for as long as that should take.
fn wait_until_empty(place: &Path) -> io::Result<()> {
    let mut events = File::open(place.join("cgroup.events"))?;
    let time = Timespec { tv_sec: ENDING_SECONDS, tv_nsec: 0 };
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.contains("populated 0") {
            return Ok(());
        }
        // The file says that it changed since it was read (Linux, "Control Group v2").
        if poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&time))? == 0 {
            return Ok(());
        }
    }
}

/// Removes a cgroup and those below it, each once it is empty.
fn remove(place: &Path, empty: &dyn Fn(&Path) -> io::Result<()>) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(place) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path(), empty)?;
        }
    }
    match empty(place).and_then(|()| fs::remove_dir(place)) {
        // systemd takes an empty one away by itself: its files stop answering, then they are gone.
        Err(error) if !is_gone(&error) => Err(at(place)(error)),
        _ => Ok(()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
