//! What there is of everything that could be left behind and grow.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::Pid;

/// Things by their names, counted or in KiB.
pub type Belongings = BTreeMap<&'static str, u64>;

/// Of this machine.
pub fn of_the_host() -> Belongings {
    let lines = |path| fs::read_to_string(path).unwrap().lines().count() as u64;
    let processes: Vec<u32> = numbers(Path::new("/proc"));
    let memory_files = processes.iter().flat_map(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter(|file| {
            fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
        })
    });
    let open_files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    let open_files = open_files.split_whitespace().next().unwrap().parse().unwrap();
    // Kernel threads come and go as they like; they have no program.
    let has_program = |pid: &&u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    Belongings::from([
        ("processes", processes.iter().filter(has_program).count() as u64),
        ("memory files", memory_files.count() as u64),
        ("open files", open_files),
        ("mounts", lines("/proc/self/mounts")),
        ("unix sockets", lines("/proc/net/unix")),
        ("cgroups", directories(Path::new("/sys/fs/cgroup"))),
        ("KiB shared", kib("/proc/meminfo", "Shmem:")),
        ("KiB not to be reclaimed", kib("/proc/meminfo", "SUnreclaim:")),
        ("KiB committed", kib("/proc/meminfo", "Committed_AS:")),
    ])
}

/// Of one process.
pub fn of_process(pid: Pid) -> Belongings {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    Belongings::from([
        ("descriptors", numbers(&proc.join("fd")).len() as u64),
        ("threads", numbers(&proc.join("task")).len() as u64),
        ("KiB of its own", kib(proc.join("status").to_str().unwrap(), "RssAnon:")),
    ])
}

/// What there is more of in `after` than in `before`, beyond a number of KiB.
pub fn growth(before: &Belongings, after: &Belongings, kib: u64) -> Vec<String> {
    let allowed = |what: &str| if what.starts_with("KiB") { kib } else { 0 };
    let grown = after.iter().filter(|(what, more)| **more > before[*what] + allowed(what));
    grown.map(|(what, more)| format!("{what}: {} became {more}", before[what])).collect()
}

fn numbers(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn directories(place: &Path) -> u64 {
    let below = fs::read_dir(place).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + below.map(|entry| directories(&entry.path())).sum::<u64>()
}

fn kib(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().unwrap().parse().unwrap()
}
