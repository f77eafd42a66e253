//! What can be asked about a container that is there, and told to its cgroup.

use std::fs;

use proto::message::{Fault, FaultKind, ProcessId, ProcessInfo, Reply};
use rustix::process::Pid;

use crate::agent::Agent;
use crate::boot;
use crate::container::cgroup::FileError;
use crate::container::proc::Proc;
use crate::faults::{fault, named};

/// How much of command lines one list holds, shared by its processes, and the most for one of them.
/// A process can make its own as long as it likes.
const COMMANDS_BYTES: usize = 256 << 10;
const COMMAND_BYTES: usize = 4 << 10;

/// How many files of `/proc` are read at once: an answer is a frame.
const MAX_FILES: usize = 32;

/// Milliseconds of a clock tick in `/proc`, which is a hundredth of a second on every x86 machine.
const TICK_MS: u64 = 10;

impl Agent {
    /// Lists a container's processes, the oldest first.
    pub(crate) fn list_processes(&mut self, container: String) -> Result<Reply, Fault> {
        let id = self.known_container(container)?;
        let pids = self.guest.cgroups.processes(&id.container).map_err(|error| {
            fault(FaultKind::System, format!("processes of {}: {error}", named(&id)))
        })?;
        let room = (COMMANDS_BYTES / pids.len().max(1)).min(COMMAND_BYTES);
        let now_ms = boot::now_ns() / 1_000_000;
        // One that ended since the list was made is not on it.
        let mut processes: Vec<_> =
            pids.into_iter().filter_map(|pid| describe(pid, now_ms, room)).collect();
        processes.sort_by_key(|process| (std::cmp::Reverse(process.age_ms), process.pid));
        Ok(Reply::Processes { processes })
    }

    /// Reads in a container's own `/proc`, if it has one.
    pub(crate) fn read_proc(
        &mut self,
        container: String,
        files: Vec<String>,
    ) -> Result<Reply, Fault> {
        let id = ProcessId { container, exec: None };
        let first = self.known_alive_mut(&id)?.pid;
        let Ok(proc) = Proc::of(first) else { return Ok(Reply::Files { files: vec![] }) };
        let read = files.into_iter().take(MAX_FILES).filter_map(|file| {
            let content = proc.read(&file)?;
            Some((file, content))
        });
        Ok(Reply::Files { files: read.collect() })
    }

    /// Reads files of a container's cgroup.
    pub(crate) fn read_cgroup(
        &mut self,
        container: String,
        files: Vec<String>,
    ) -> Result<Reply, Fault> {
        let id = self.known_container(container)?;
        let files = self.guest.cgroups.read(&id.container, files);
        files.map(|files| Reply::Files { files }).map_err(in_cgroup_of(&id))
    }

    /// Writes files of a container's cgroup.
    pub(crate) fn write_cgroup(
        &mut self,
        container: String,
        values: &[(String, String)],
    ) -> Result<Reply, Fault> {
        let id = self.known_container(container)?;
        let written = self.guest.cgroups.write(&id.container, values);
        written.map(|()| Reply::Done).map_err(in_cgroup_of(&id))
    }

    fn known_container(&mut self, container: String) -> Result<ProcessId, Fault> {
        let id = ProcessId { container, exec: None };
        self.known_alive_mut(&id)?;
        Ok(id)
    }
}

fn in_cgroup_of(id: &ProcessId) -> impl Fn(FileError) -> Fault {
    let id = named(id);
    move |error| {
        let kind = match error {
            FileError::NoName { .. } => FaultKind::InvalidSpec,
            FileError::Unreadable { .. }
            | FileError::TooLong { .. }
            | FileError::Refused { .. } => FaultKind::System,
        };
        fault(kind, format!("cgroup of {id}: {error}"))
    }
}

/// What `/proc` says of a process, `None` once it is gone.
fn describe(pid: Pid, now_ms: u64, room: usize) -> Option<ProcessInfo> {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let read = |file: &str| fs::read(format!("{directory}/{file}")).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let (name, numbers) = parts_of(&stat)?;
    let number = |field: usize| numbers.get(field - FIRST_NUMBER)?.parse::<u64>().ok();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let began_ms = number(22)? * TICK_MS;
    Some(ProcessInfo {
        pid: pid.as_raw_nonzero().get().unsigned_abs(),
        ppid: u32::try_from(number(4)?).ok()?,
        uid: uids.split_whitespace().nth(1)?.parse().ok()?,
        cpu_ms: (number(14)? + number(15)?) * TICK_MS,
        age_ms: now_ms.saturating_sub(began_ms),
        tty: u32::try_from(number(7)?).ok()?,
        command: command(&read("cmdline")?, name, room),
    })
}

/// The first field of proc(5)'s `stat` behind the name, counted from 1 as the manual does.
const FIRST_NUMBER: usize = 3;

/// The name in a `stat`, and the fields behind it. A name can hold spaces and brackets.
fn parts_of(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(begin + 1..end)?;
    Some((name, stat[end + 1..].split_whitespace().collect()))
}

/// Program and arguments in one line that a terminal can show, at most `room` bytes of them.
fn command(line: &[u8], name: &str, room: usize) -> String {
    let line = line.strip_suffix(&[0]).unwrap_or(line);
    let text = match line {
        [] => format!("[{name}]"),
        line => String::from_utf8_lossy(&line[..line.len().min(room)]).replace('\0', " "),
    };
    let shown = |c: char| if c.is_control() { '?' } else { c };
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= room).last().unwrap_or(0);
    text[..end].chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_calls_itself_after_the_form_of_the_file_is_still_read_right() {
        let stat = "7 (a) R 1 (b)) S 3 7 7 34816 7 4194560";
        let (name, fields) = parts_of(stat).unwrap();
        assert_eq!(name, "a) R 1 (b)");
        assert_eq!(fields[..2], ["S", "3"]);
    }

    #[test]
    fn a_command_is_one_line_of_bounded_length_and_a_name_where_there_is_none() {
        assert_eq!(command(b"sh\0-c\0echo\x1b[2J\n\0", "sh", 99), "sh -c echo?[2J?");
        assert_eq!(command(b"", "kworker", 99), "[kworker]");
        assert_eq!(command("aéé".as_bytes(), "a", 4), "aé");
        assert_eq!(command(&[0xff; 9], "a", 4), "\u{fffd}");
    }
}
