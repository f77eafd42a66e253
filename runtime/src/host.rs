//! Facts about this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use crate::plan::Host;
use crate::state::record::Id;
use crate::terminal;

/// Why the machine's facts are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// A file of the kernel's cannot be read.
    #[error("{path}")]
    Io {
        /// Which.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not say how much memory there is.
    #[error("/proc/meminfo has no MemTotal")]
    NoMemory,
}

/// Gathers what a plan needs to know; of the environment only what `variables` name.
pub(crate) fn facts(variables: &[String]) -> Result<Host, HostError> {
    let environment: BTreeMap<String, String> = variables
        .iter()
        .filter(|word| !word.contains('='))
        .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
        .collect();
    Ok(Host {
        memory_bytes: memory_bytes()?,
        terminal: terminal::size(),
        stdin_is_terminal: terminal::on_stdin(),
        environment,
        id: Id::from_bits(random()?),
    })
}

/// All memory of this machine.
pub(crate) fn memory_bytes() -> Result<u64, HostError> {
    const PATH: &str = "/proc/meminfo";
    let text =
        std::fs::read_to_string(PATH).map_err(|source| HostError::Io { path: PATH, source })?;
    total(&text).ok_or(HostError::NoMemory)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Bits that nobody else has.
pub(crate) fn random() -> Result<[u8; 32], HostError> {
    const PATH: &str = "/dev/urandom";
    let mut bits = [0; 32];
    File::open(PATH)
        .and_then(|mut file| file.read_exact(&mut bits))
        .map_err(|source| HostError::Io { path: PATH, source })?;
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_the_kernels_total() {
        let text = "MemTotal:       24671252 kB\nMemFree:          123 kB\n";
        assert_eq!(total(text), Some(24_671_252 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(memory_bytes().unwrap() > 64 << 20);
    }

    #[test]
    fn two_containers_do_not_have_one_id() {
        assert_ne!(facts(&[]).unwrap().id, facts(&[]).unwrap().id);
    }
}
