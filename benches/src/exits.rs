//! VM exits of one command, by what the guest did.
//!
//! `/sys/kernel/debug/kvm` counts for the VMs that are there, and forgets a VM that ends: it says
//! nothing about a command that has ended. The tracepoint `kvm:kvm_exit` does, in a buffer of the
//! stopwatch's own, which must not overflow for the count to be true.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const INSTANCES: &str = "/sys/kernel/tracing/instances";

/// Room for some hundred thousand exits of about 60 bytes.
const BUFFER_KIB: &str = "32768";

/// Counts the exits of every VM on this machine while `run` runs.
pub(crate) fn count(run: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, u64>> {
    let trace = Trace::new()?;
    trace.write("buffer_size_kb", BUFFER_KIB)?;
    trace.write("events/kvm/kvm_exit/enable", "1")?;
    run()?;
    trace.write("events/kvm/kvm_exit/enable", "0")?;
    let lost = lost(&trace.read("per_cpu/cpu0/stats")?);
    ensure!(lost == 0, "{lost} of the VM exits were not counted");
    Ok(by_reason(&trace.read("trace")?))
}

/// A trace buffer of our own, gone when this is dropped.
struct Trace(PathBuf);

impl Trace {
    fn new() -> Result<Self> {
        let path = Path::new(INSTANCES).join(format!("stopwatch-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // The machine is thrown away after the race; a buffer that stays harms nobody before.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Events that were overwritten or dropped, from a `stats` file of tracefs.
fn lost(stats: &str) -> u64 {
    stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| ["overrun", "dropped events"].contains(name))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

/// A line of the trace reads `vmm-77 [000] d.... 1.2: kvm_exit: vcpu 0 reason npf rip 0x…`.
fn by_reason(trace: &str) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for (_, event) in trace.lines().filter_map(|line| line.split_once(" kvm_exit: ")) {
        let mut words = event.split(' ').skip_while(|&word| word != "reason").skip(1);
        let reason = words.next().unwrap_or("unknown").to_lowercase();
        let reason = reason.strip_prefix("exit_").unwrap_or(&reason);
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_apart_by_their_reason() {
        let trace = "# tracer: nop\n#\n\
            vmm-77 [000] d.... 1.20: kvm_exit: vcpu 0 reason npf rip 0xffff info1 0x0\n\
            vmm-77 [000] d.... 1.30: kvm_exit: vcpu 0 reason EXIT_MSR rip 0xffff info1 0x0\n\
            vmm-77 [000] d.... 1.40: kvm_exit: vcpu 0 reason npf rip 0xffff info1 0x0\n";
        let expected = [("msr".to_owned(), 1), ("npf".to_owned(), 2)];
        assert_eq!(by_reason(trace), BTreeMap::from(expected));
    }

    #[test]
    fn an_overflow_is_seen() {
        let stats =
            "entries: 10\noverrun: 3\ncommit overrun: 5\ndropped events: 4\nread events: 0\n";
        assert_eq!(lost(stats), 7);
        assert_eq!(lost("entries: 10\noverrun: 0\n"), 0);
    }
}
