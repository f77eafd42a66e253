//! Many containers at once: how long each takes to start, and what each costs while it does nothing.

use std::fs;
use std::process::Child;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::race::monotonic_ns;
use crate::start::{self, Place};

/// What `stopwatch crowd` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// How many
    #[arg(long, default_value_t = 50)]
    count: usize,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    /// How many there were.
    pub(crate) count: usize,
    /// Processors of the machine.
    pub(crate) processors: usize,
    /// One alone, from spawn until it ran.
    pub(crate) alone_ns: u64,
    /// All asked for at once: from the first spawn until each ran, the fastest first.
    pub(crate) at_once_ns: Vec<u64>,
    /// What all of them have in memory while they sleep, by process.
    pub(crate) memory: Vec<Memory>,
}

/// Memory of one kind of process, all containers together, from `smaps_rollup` (proc_pid_smaps(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// What the process calls itself.
    pub(crate) process: String,
    /// How many there are.
    pub(crate) count: u64,
    /// Pages that nobody else has.
    pub(crate) private_kib: u64,
    /// Those, and a share of each page that others have too.
    pub(crate) pss_kib: u64,
}

/// Whose memory a container costs, by the beginning of its command line.
const PROCESSES: [&str; 2] = ["microvm supervise", "microvm vmm"];

/// Starts them, looks, and takes them away.
pub(crate) fn measure(arguments: &Arguments) -> Result<Crowd> {
    let Arguments { place, count } = arguments;
    ensure!(*count > 0, "no figure comes from 0 containers");
    let (ours, scratch) = (place.ours()?, &place.scratch);
    let sleeper = |name: &str| {
        let words =
            ["run", "--detach", "--network", "none", "--name", name, "demo", "sleep", "1000000"];
        ours.call(&words)
    };
    let remove = |name: &str| ours.call(&["rm", "--force", name]).lap(scratch);
    // The first makes the template.
    for name in ["first", "alone"] {
        sleeper(name).lap(scratch)?;
        remove(name)?;
    }
    let alone = sleeper("alone").lap(scratch)?;
    remove("alone")?;

    let began_ns = monotonic_ns();
    let names: Vec<_> = (0..*count).map(|number| format!("box{number}")).collect();
    let spawned = names.iter().map(|name| sleeper(name).spawn()).collect::<Result<Vec<_>>>()?;
    let mut at_once_ns = wait_for(spawned, began_ns)?;
    at_once_ns.sort_unstable();
    let memory = PROCESSES.iter().map(|process| memory(process)).collect::<Result<_>>()?;
    for name in &names {
        remove(name)?;
    }
    Ok(Crowd {
        count: *count,
        processors: start::processors(),
        alone_ns: alone.ended_ns - alone.began_ns,
        at_once_ns,
        memory,
    })
}

/// When each has ended, since `began_ns`. A thread waits for each: whoever waits for them in turn sees the
/// first of them last.
fn wait_for(children: Vec<Child>, began_ns: u64) -> Result<Vec<u64>> {
    std::thread::scope(|scope| {
        let waiting: Vec<_> = children
            .into_iter()
            .map(|mut child| {
                scope.spawn(move || -> Result<u64> {
                    let status = child.wait()?;
                    let ended_ns = monotonic_ns();
                    ensure!(status.success(), "microvm run: {status}");
                    Ok(ended_ns - began_ns)
                })
            })
            .collect();
        let heard = waiting.into_iter().map(|one| one.join());
        heard.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// What all processes whose command line begins with `words` have.
fn memory(words: &str) -> Result<Memory> {
    let mut all = Memory { process: words.to_owned(), ..Memory::default() };
    for process in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        if read("cmdline").replace('\0', " ").starts_with(words) {
            let (private_kib, pss_kib) = rolled_up(&read("smaps_rollup"));
            all.count += 1;
            all.private_kib += private_kib;
            all.pss_kib += pss_kib;
        }
    }
    ensure!(all.count > 0, "there is no process {words}");
    Ok(all)
}

/// Private and proportional KiB of a `smaps_rollup`.
fn rolled_up(text: &str) -> (u64, u64) {
    let of = |name: &str| -> u64 {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let values = lines.filter(|(key, _)| *key == name);
        values.filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).sum()
    };
    (of("Private_Clean") + of("Private_Dirty"), of("Pss"))
}

impl Crowd {
    /// What one container costs, in MiB: the pages that are nobody else's.
    pub(crate) fn private_mib(&self) -> f64 {
        let kib: u64 = self.memory.iter().map(|memory| memory.private_kib).sum();
        kib as f64 / 1024.0 / self.count as f64
    }

    /// What the slowest of a hundred waited, as a multiple of one alone, on a machine with a processor for
    /// each: on this one they take turns.
    pub(crate) fn p99_ratio(&self) -> Option<f64> {
        let at = (self.at_once_ns.len() * 99).div_ceil(100).checked_sub(1)?;
        let turns = self.count.div_ceil(self.processors) as f64;
        Some(*self.at_once_ns.get(at)? as f64 / turns / self.alone_ns as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_to_itself_is_told_from_its_share() {
        let text = "7f00-7fff ---p 00000000 00:00 0    [rollup]\nRss:    900 kB\nPss:    300 kB\n\
                    Pss_Dirty:   50 kB\nPrivate_Clean:   10 kB\nPrivate_Dirty:   40 kB\n";
        assert_eq!(rolled_up(text), (50, 300));
    }

    #[test]
    fn a_crowd_on_one_processor_takes_turns() {
        let memory = |kib| Memory { private_kib: kib, count: 2, ..Memory::default() };
        let crowd = Crowd {
            count: 2,
            processors: 1,
            alone_ns: 10,
            at_once_ns: vec![15, 30],
            memory: vec![memory(1024), memory(3072)],
        };
        assert_eq!(crowd.p99_ratio(), Some(1.5));
        assert_eq!(crowd.private_mib(), 2.0);
    }
}
