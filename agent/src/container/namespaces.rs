//! Which namespaces a container has for itself, and what is said about them from outside.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use proto::message::{Fault, FaultKind};
use proto::spec::{Container, IdMapping, Namespace};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread as own;

use crate::words::words;

/// Clocks that a time namespace has an offset for.
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// Why a container's namespaces cannot be as they were asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("{field}: the container has no {namespace} namespace of its own")]
    Shared { field: &'static str, namespace: &'static str },
    #[error("{field}: nobody stands for id 0")]
    NoRoot { field: &'static str },
    #[error("{field}: {}", words(*.errno))]
    Map { field: &'static str, errno: Errno },
    #[error("linux.timeOffsets: \"{clock}\" is no clock with an offset")]
    NoClock { clock: String },
    #[error("linux.timeOffsets: {}", words(*.0))]
    Offsets(Errno),
}

impl From<NamespaceError> for Fault {
    fn from(error: NamespaceError) -> Self {
        Self { kind: FaultKind::InvalidSpec, message: error.to_string() }
    }
}

/// Refuses what is said about a namespace that the container shares with the guest.
pub(crate) fn judge(spec: &Container) -> Result<(), NamespaceError> {
    let says = [
        ("hostname", spec.hostname.is_some(), Namespace::Uts, "uts"),
        ("domainname", spec.domainname.is_some(), Namespace::Uts, "uts"),
        ("linux.uidMappings", !spec.uid_mappings.is_empty(), Namespace::User, "user"),
        ("linux.gidMappings", !spec.gid_mappings.is_empty(), Namespace::User, "user"),
        ("linux.timeOffsets", !spec.time_offsets.is_empty(), Namespace::Time, "time"),
    ];
    for (field, is_said, kind, namespace) in says {
        if is_said && !spec.namespaces.contains(&kind) {
            return Err(NamespaceError::Shared { field, namespace });
        }
    }
    if has_users(spec) {
        // Somebody has to own what the container is made of.
        for (field, map) in maps(spec) {
            if guests(map, 0).is_none() {
                return Err(NamespaceError::NoRoot { field });
            }
        }
    }
    match spec.time_offsets.iter().find(|(clock, ..)| !CLOCKS.contains(&clock.as_str())) {
        Some((clock, ..)) => Err(NamespaceError::NoClock { clock: clock.clone() }),
        None => Ok(()),
    }
}

/// Whether a container has users of its own.
pub(crate) fn has_users(spec: &Container) -> bool {
    spec.namespaces.contains(&Namespace::User)
}

/// Makes the calling process, nobody so far in the user namespace it is in, root there.
pub(crate) fn take_root() -> Result<(), Errno> {
    own::set_thread_groups(&[])?;
    own::set_thread_gid(Gid::ROOT)?;
    own::set_thread_uid(Uid::ROOT)
}

/// Who of the guest stands for `id` of a container with these mappings.
pub(crate) fn guests(map: &[IdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id).filter(|offset| *offset < range.size)?;
        range.host_id.checked_add(offset)
    })
}

fn maps(spec: &Container) -> [(&'static str, &[IdMapping]); 2] {
    [("linux.uidMappings", &spec.uid_mappings), ("linux.gidMappings", &spec.gid_mappings)]
}

/// Says who is who in the new user namespace of `pid`. `proc` is the guest's `/proc`.
pub(crate) fn map_ids(
    proc: BorrowedFd<'_>,
    pid: Pid,
    spec: &Container,
) -> Result<(), NamespaceError> {
    for ((field, map), file) in maps(spec).into_iter().zip(["uid_map", "gid_map"]) {
        let line = |range: &IdMapping| {
            format!("{} {} {}\n", range.container_id, range.host_id, range.size)
        };
        let text: String = map.iter().map(line).collect();
        write(proc, &format!("{}/{file}", pid.as_raw_nonzero()), &text)
            .map_err(|errno| NamespaceError::Map { field, errno })?;
    }
    Ok(())
}

/// Sets the clocks of the time namespace that the calling process's children will be in.
pub(crate) fn set_clocks(proc: BorrowedFd<'_>, spec: &Container) -> Result<(), NamespaceError> {
    let line = |(clock, seconds, nanoseconds): &(String, i64, u32)| {
        format!("{clock} {seconds} {nanoseconds}\n")
    };
    match spec.time_offsets.iter().map(line).collect::<String>() {
        text if text.is_empty() => Ok(()),
        text => write(proc, "self/timens_offsets", &text).map_err(NamespaceError::Offsets),
    }
}

/// Gives pipes to the root of the user namespace `pid` is in, who could not open them by name
/// otherwise, nor give them to another.
pub(crate) fn give(pid: Pid, pipes: &[&OwnedFd]) -> io::Result<()> {
    let root = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero()))?;
        outside(&text).ok_or(io::Error::from(io::ErrorKind::InvalidData))
    };
    let (uid, gid) = (root("uid_map")?, root("gid_map")?);
    for pipe in pipes {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Whom id 0 stands for, by the text of a `uid_map`.
fn outside(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace();
        numbers.next().filter(|inside| *inside == "0")?;
        numbers.next()?.parse().ok()
    })
}

fn write(proc: BorrowedFd<'_>, path: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, path, flags, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_about_a_shared_namespace_is_refused_by_its_field() {
        let refusal = |change: &dyn Fn(&mut Container)| {
            let mut spec = Container { namespaces: vec![], ..Container::default() };
            change(&mut spec);
            judge(&spec).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let range = IdMapping { container_id: 1, host_id: 7, size: 2 };
        assert_eq!(refusal(&|_| ()), "");
        assert_eq!(
            refusal(&|spec| spec.domainname = Some("d".into())),
            "domainname: the container has no uts namespace of its own"
        );
        assert_eq!(
            refusal(&|spec| spec.gid_mappings = vec![range]),
            "linux.gidMappings: the container has no user namespace of its own"
        );
        assert_eq!(
            refusal(&|spec| {
                spec.namespaces = vec![Namespace::User];
                spec.uid_mappings = vec![range];
            }),
            "linux.uidMappings: nobody stands for id 0"
        );
        assert_eq!(
            refusal(&|spec| {
                spec.namespaces = vec![Namespace::Time];
                spec.time_offsets = vec![("realtime".into(), 1, 0)];
            }),
            "linux.timeOffsets: \"realtime\" is no clock with an offset"
        );
    }

    #[test]
    fn the_root_of_a_user_namespace_is_found_among_its_ranges() {
        assert_eq!(
            outside("      1000       5     1\n         0     100000      65536\n"),
            Some(100_000)
        );
        assert_eq!(outside("5 0 1\n"), None);
    }
}
