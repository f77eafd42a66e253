//! What was measured: the words of the JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One race on one machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    /// How often each command ran before its time counted.
    pub(crate) warm_ups: usize,
    /// In the order they ran.
    pub(crate) series: Vec<Series>,
    /// VM exits of one more run of ours by what the guest did, from the tracepoint `kvm:kvm_exit`;
    /// empty if it did not run.
    pub(crate) exits: BTreeMap<String, u64>,
    /// The moments of one more run of ours, from the first to the last; empty if it did not run.
    pub(crate) timeline: Vec<Moment>,
}

/// Where it was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// What the kernel reads `CLOCK_MONOTONIC` from.
    pub(crate) clocksource: String,
    /// The processor's name for itself.
    pub(crate) processor: String,
}

/// One command, several times.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    /// `crun`, `runc` or `microvm`.
    pub(crate) name: String,
    /// The first line of `--version`.
    pub(crate) version: String,
    pub(crate) outcome: Outcome,
}

/// How a series went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Nanoseconds of `CLOCK_MONOTONIC` from before the process was spawned until it was waited for,
    /// one per run, never none.
    ElapsedNs(Vec<u64>),
    /// Why there is no figure.
    Failed(String),
}

/// A named moment of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) name: String,
    /// Who noted it: `stopwatch`, `runtime` or `vmm`.
    pub(crate) source: String,
    /// Since the process was spawned.
    pub(crate) at_ns: u64,
}

/// The shortest, the middle and the longest of several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) min_ns: u64,
    pub(crate) median_ns: u64,
    pub(crate) max_ns: u64,
}

/// The middle one of several figures: one that was measured.
pub(crate) fn median(mut figures: Vec<u64>) -> Option<u64> {
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied()
}

impl Series {
    /// `None` if it failed.
    pub(crate) fn spread(&self) -> Option<Spread> {
        let Outcome::ElapsedNs(times) = &self.outcome else { return None };
        Some(Spread {
            min_ns: *times.iter().min()?,
            median_ns: median(times.clone())?,
            max_ns: *times.iter().max()?,
        })
    }
}

impl Figures {
    /// The median of a series that went well.
    pub(crate) fn median_ns(&self, name: &str) -> Option<u64> {
        let series = self.series.iter().find(|series| series.name == name)?;
        series.spread().map(|spread| spread.median_ns)
    }

    /// When a moment was.
    pub(crate) fn moment_ns(&self, name: &str) -> Option<u64> {
        self.timeline.iter().find(|moment| moment.name == name).map(|moment| moment.at_ns)
    }

    /// All VM exits of a run of ours; `None` if they were not counted.
    pub(crate) fn exits(&self) -> Option<u64> {
        (!self.exits.is_empty()).then(|| self.exits.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_time_that_was_measured() {
        let series = |times: &[u64]| Series {
            name: "crun".into(),
            version: "1".into(),
            outcome: Outcome::ElapsedNs(times.to_vec()),
        };
        let spread = series(&[50, 10, 30, 40, 20]).spread();
        assert_eq!(spread, Some(Spread { min_ns: 10, median_ns: 30, max_ns: 50 }));
        assert_eq!(series(&[]).spread(), None);
    }
}
