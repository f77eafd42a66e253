//! Where the time of a start went: named moments, written as JSON lines when all is over.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Who noted a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// This process.
    Runtime,
    /// The VM's process.
    Vmm,
    /// The guest; its moments are counted from the start of its kernel.
    Guest,
}

#[derive(Debug, Serialize)]
struct Mark {
    name: String,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    monotonic_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_boottime_ns: Option<u64>,
}

/// Collects moments; one that nobody asked for collects nothing and costs nothing.
pub(crate) struct Timeline {
    marks: Option<Mutex<Vec<Mark>>>,
}

impl Timeline {
    /// A timeline that is kept, or one that is not.
    pub(crate) fn new(kept: bool) -> Self {
        Self { marks: kept.then(Mutex::default) }
    }

    /// Notes that `name` happened now.
    pub(crate) fn mark(&self, name: &str) {
        if self.marks.is_some() {
            self.mark_at(Source::Runtime, name, monotonic_ns());
        }
    }

    /// Notes that `name` happened at `monotonic_ns` of this machine's `CLOCK_MONOTONIC`.
    pub(crate) fn mark_at(&self, source: Source, name: &str, monotonic_ns: u64) {
        self.add(Mark {
            name: name.to_owned(),
            source,
            monotonic_ns: Some(monotonic_ns),
            guest_boottime_ns: None,
        });
    }

    /// Notes that `name` happened in the guest, by its own clock.
    pub(crate) fn mark_guest(&self, name: &str, boottime_ns: u64) {
        self.add(Mark {
            name: name.to_owned(),
            source: Source::Guest,
            monotonic_ns: None,
            guest_boottime_ns: Some(boottime_ns),
        });
    }

    fn add(&self, mark: Mark) {
        if let Some(marks) = &self.marks {
            marks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(mark);
        }
    }

    /// Writes what was collected to `path`, one JSON object a line, in the order of the moments.
    pub(crate) fn write(self, path: &Path) -> Result<(), TimelineError> {
        let mut marks = match self.marks {
            Some(marks) => marks.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()),
            None => return Ok(()),
        };
        marks.sort_by_key(|mark| mark.monotonic_ns);
        let mut lines = Vec::new();
        for mark in &marks {
            // Strings and numbers into memory: nothing here can be refused.
            if serde_json::to_writer(&mut lines, mark).is_ok() {
                lines.push(b'\n');
            }
        }
        std::fs::File::create(path)
            .and_then(|mut file| file.write_all(&lines))
            .map_err(|source| TimelineError { path: path.to_owned(), source })
    }
}

/// The timeline cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("timeline {}", path.display())]
pub(crate) struct TimelineError {
    path: std::path::PathBuf,
    source: std::io::Error,
}

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock every process of this machine shares.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_are_lines_in_their_order_with_the_guests_own_first() {
        let timeline = Timeline::new(true);
        timeline.mark("later");
        timeline.mark_at(Source::Vmm, "sooner", 7);
        timeline.mark_guest("agent", 5);
        let file = tempfile::NamedTempFile::new().unwrap();
        timeline.write(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"{"name":"agent","source":"guest","guest_boottime_ns":5}"#);
        assert_eq!(lines[1], r#"{"name":"sooner","source":"vmm","monotonic_ns":7}"#);
        assert!(lines[2].starts_with(r#"{"name":"later","source":"runtime","monotonic_ns":"#));
    }
}
