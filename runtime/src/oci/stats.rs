//! What a container uses, read from its cgroup in the guest, in the shape that runc's `events` has.

use std::collections::HashMap;

use proto::message::{Reply, Request};
use serde_json::{Value, json};

use crate::visit::{VisitError, Visited};

/// The files that are read (Linux, "Control Group v2").
const FILES: [&str; 12] = [
    "cpu.stat",
    "memory.current",
    "memory.max",
    "memory.peak",
    "memory.swap.current",
    "memory.swap.max",
    "memory.stat",
    "memory.events",
    "pids.current",
    "pids.max",
    "io.stat",
    "cgroup.procs",
];

/// What a container uses.
pub(crate) struct Stats {
    /// In runc's words.
    pub(crate) data: Value,
    /// Processes that were killed because its memory ran out, so far.
    pub(crate) oom_kills: u64,
}

/// Asks the guest of a running container.
pub(crate) fn stats(container: &Visited) -> Result<Stats, VisitError> {
    let request = Request::ReadCgroup {
        container: container.record.name.to_string(),
        files: FILES.map(str::to_owned).to_vec(),
    };
    match container.ask(request)? {
        Reply::Files { files } => Ok(from(&files.into_iter().collect())),
        _ => Ok(from(&HashMap::new())),
    }
}

/// A guest may say anything: what is no number counts nothing.
fn from(files: &HashMap<String, String>) -> Stats {
    let one = |file: &str| files.get(file).map(|text| text.trim());
    let number = |file: &str| one(file).map_or(0, number);
    let of = |file: &str, key: &str| {
        let lines = files.get(file).into_iter().flat_map(|text| text.lines());
        let mut pairs = lines.filter_map(|line| line.split_once(' '));
        pairs.find(|(name, _)| *name == key).map_or(0, |(_, value)| self::number(value.trim()))
    };
    let nanoseconds = |key: &str| of("cpu.stat", key).saturating_mul(1000);
    let memory = |usage: &str, limit: &str| json!({ "usage": number(usage), "limit": number(limit), "max": number("memory.peak"), "failcnt": of("memory.events", "max") });
    let raw: serde_json::Map<String, Value> = files
        .get("memory.stat")
        .into_iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), self::number(value).into()))
        .collect();
    let data = json!({
        "cpu": {
            "usage": {
                "total": nanoseconds("usage_usec"),
                "kernel": nanoseconds("system_usec"),
                "user": nanoseconds("user_usec"),
            },
            "throttling": {
                "periods": of("cpu.stat", "nr_periods"),
                "throttledPeriods": of("cpu.stat", "nr_throttled"),
                "throttledTime": nanoseconds("throttled_usec"),
            },
        },
        "memory": {
            "cache": raw.get("file").cloned().unwrap_or(0.into()),
            "usage": memory("memory.current", "memory.max"),
            "swap": memory("memory.swap.current", "memory.swap.max"),
            "raw": raw,
        },
        "pids": { "current": number("pids.current"), "limit": number("pids.max") },
    });
    Stats { data, oom_kills: of("memory.events", "oom_kill") }
}

/// `max` is as much as there can be, as runc has it.
fn number(word: &str) -> u64 {
    if word == "max" { u64::MAX } else { word.parse().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_cgroup_become_what_runc_prints() {
        let files = [
            ("cpu.stat", "usage_usec 12\nuser_usec 10\nsystem_usec 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1024\nfile 2048\n"),
            ("memory.events", "low 0\nmax 3\noom_kill 2\n"),
            ("pids.current", "7\n"),
            ("pids.max", "nonsense\n"),
        ];
        let files = files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        let Stats { data, oom_kills } = from(&files);
        assert_eq!(oom_kills, 2);
        assert_eq!(data["cpu"]["usage"]["total"], 12_000);
        assert_eq!(data["memory"]["usage"]["usage"], 4096);
        assert_eq!(data["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(data["memory"]["usage"]["failcnt"], 3);
        assert_eq!(data["memory"]["raw"]["anon"], 1024);
        assert_eq!(data["pids"]["current"], 7);
        assert_eq!(data["pids"]["limit"], 0);
    }
}
