use std::collections::VecDeque;
use std::fs;

use serde::Serialize;

use super::visited;
use crate::cli::table;
use crate::exit::Failure;
use crate::settings::Settings;

/// A thread of the host that works for a container.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Thread {
    pid: u32,
    tid: u32,
    /// What its process is: the supervisor, the VMM or the file server.
    process: String,
    /// What it is called: a VMM's `vcpu0` is the guest's first processor.
    thread: String,
    /// Processor time it has had.
    cpu_ms: u64,
}

/// `ps --threads ID`: what works for a container on the host, with the numbers it has there.
pub(in crate::cli) fn threads(settings: &Settings, id: &str, json: bool) -> Result<u8, Failure> {
    let container = visited(settings, id)?;
    let mut processes = VecDeque::from([container.record.supervisor]);
    let mut threads = Vec::new();
    while let Some(pid) = processes.pop_front() {
        let process = role(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        // One that has ended since it was listed is not listed.
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            threads.extend(thread(pid, &process, &read("stat")));
            let children = read("children");
            processes.extend(children.split(' ').filter_map(|pid| pid.trim().parse::<u32>().ok()));
        }
    }
    if json {
        println!("{}", serde_json::to_string(&threads)?);
        return Ok(0);
    }
    let head = ["PID", "TID", "PROCESS", "THREAD", "TIME"];
    let row = |it: &Thread| {
        let time = format!("{}.{:03}", it.cpu_ms / 1000, it.cpu_ms % 1000);
        vec![it.pid.to_string(), it.tid.to_string(), it.process.clone(), it.thread.clone(), time]
    };
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(threads.iter().map(row));
    print!("{}", table(&rows));
    Ok(0)
}

/// The hidden verb of a process of ours, which says what it is.
fn role(command_line: &[u8]) -> String {
    let verb = command_line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(verb).into_owned()
}

/// A line of `/proc/PID/task/TID/stat` (proc_pid_stat(5)).
fn thread(pid: u32, process: &str, stat: &str) -> Option<Thread> {
    let (tid, rest) = stat.split_once(" (")?;
    // A name may have parentheses and spaces in it; nothing behind it has.
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Thread {
        pid,
        tid: tid.parse().ok()?,
        process: process.to_owned(),
        thread: name.to_owned(),
        cpu_ms: (ticks(11)? + ticks(12)?) * 1000 / rustix::param::clock_ticks_per_second(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_read_whatever_it_is_called() {
        let stat = "18 (a (b) c) S 1 18 18 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9 9 9";
        let ticks = rustix::param::clock_ticks_per_second();
        let read = thread(17, "vmm", stat).unwrap();
        assert_eq!((read.pid, read.tid, read.thread.as_str()), (17, 18, "a (b) c"));
        assert_eq!(read.cpu_ms, 200_000 / ticks);
        assert_eq!(thread(17, "vmm", "nonsense"), None);
        assert_eq!(role(b"microvm\0vmm\x0018\0"), "vmm");
    }
}
