//! The file in which the state of a machine stands, without its memory.
//!
//! ```text
//!   magic  8 · format u32 · architecture u32 · sections u32 · crc32 of these u32
//!   then for each section
//!     kind's length u16 · version u16 · length u32 · crc32 of kind, version and bytes u32 · kind · bytes
//! ```
//!
//! All numbers are little endian. Knows what no device is: [`crate::section`] has what stands in one.
//! A file is hostile until it was read to its end: lengths are judged before anything is taken by them.

#[cfg(test)]
mod tests;

use crate::section::Section;

/// The longest file: 32 vCPUs of 12 KiB and twenty devices are under half of a megabyte.
pub const MAX_BYTES: usize = 4 << 20;

/// The longest section.
pub const MAX_SECTION_BYTES: usize = 1 << 20;

/// The most sections: machine, chips, 32 vCPUs, two for each of 19 devices, the serial line.
pub const MAX_SECTIONS: usize = 128;

/// The longest name of a kind.
const MAX_KIND_BYTES: usize = 64;

/// A byte no text begins with, a name, and a line break that a transfer as text would change.
const MAGIC: [u8; 8] = *b"\x9auVMsn\r\n";

/// What is described here.
const FORMAT: u32 = 1;

/// The architecture by its number in an ELF file (`e_machine`).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 62;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 183;

/// Why a file is not the state of a machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is something else.
    #[error("not a snapshot")]
    NotASnapshot,
    /// A file from another time.
    #[error("snapshot of format {0}, not {FORMAT}")]
    Format(u32),
    /// A file from another world.
    #[error("snapshot of a machine of ELF architecture {0}, not {ARCHITECTURE}")]
    Architecture(u32),
    /// Its beginning was changed.
    #[error("the snapshot's header is damaged")]
    Header,
    /// It is longer than any machine's state.
    #[error("snapshot of {0} bytes, over the limit of {MAX_BYTES}")]
    TooLong(usize),
    /// It has more sections than any machine has parts.
    #[error("snapshot of {0} sections, over the limit of {MAX_SECTIONS}")]
    TooManySections(usize),
    /// It ends too early.
    #[error("the snapshot ends in section {index}{}", named(.kind))]
    Cut {
        /// Counted from 0.
        index: usize,
        /// What it said it is, if that much is there.
        kind: String,
    },
    /// A section says it is longer than one can be.
    #[error("section {kind} of {bytes} bytes, over the limit of {MAX_SECTION_BYTES}")]
    SectionTooLong {
        /// What it says it is.
        kind: String,
        /// Its length.
        bytes: usize,
    },
    /// A section was changed.
    #[error("section {index}{} is damaged", named(.kind))]
    Damaged {
        /// Counted from 0.
        index: usize,
        /// What it says it is.
        kind: String,
    },
    /// Something stands behind the last section.
    #[error("{0} bytes behind the snapshot's last section")]
    Behind(usize),
}

fn named(kind: &str) -> String {
    if kind.is_empty() { String::new() } else { format!(", {}", kind.escape_default()) }
}

/// Writes a file of `sections`.
pub fn write(sections: &[Section]) -> Vec<u8> {
    let mut file = Vec::from(MAGIC);
    for word in [FORMAT, ARCHITECTURE, sections.len() as u32] {
        file.extend(word.to_le_bytes());
    }
    file.extend(crc32fast::hash(&file).to_le_bytes());
    for section in sections {
        file.extend((section.kind.len() as u16).to_le_bytes());
        file.extend(section.version.to_le_bytes());
        file.extend((section.bytes.len() as u32).to_le_bytes());
        file.extend(checksum(section).to_le_bytes());
        file.extend(section.kind.as_bytes());
        file.extend(&section.bytes);
    }
    file
}

/// Reads a file back.
pub fn read(file: &[u8]) -> Result<Vec<Section>, FormatError> {
    if file.len() > MAX_BYTES {
        return Err(FormatError::TooLong(file.len()));
    }
    let mut rest = file;
    if take(&mut rest) != Some(MAGIC) {
        return Err(FormatError::NotASnapshot);
    }
    let mut word = || take(&mut rest).map(u32::from_le_bytes).ok_or(FormatError::NotASnapshot);
    let [format, architecture, count, said] = [word()?, word()?, word()?, word()?];
    // Said first: whatever another format has behind it is not ours to call damaged.
    if format != FORMAT {
        return Err(FormatError::Format(format));
    }
    if said != crc32fast::hash(&file[..HEADER_BYTES]) {
        return Err(FormatError::Header);
    }
    if architecture != ARCHITECTURE {
        return Err(FormatError::Architecture(architecture));
    }
    let count = count as usize;
    if count > MAX_SECTIONS {
        return Err(FormatError::TooManySections(count));
    }
    let sections = (0..count).map(|index| section(index, &mut rest)).collect::<Result<_, _>>()?;
    if rest.is_empty() { Ok(sections) } else { Err(FormatError::Behind(rest.len())) }
}

/// What the header's checksum is taken of.
const HEADER_BYTES: usize = MAGIC.len() + 3 * 4;

fn section(index: usize, rest: &mut &[u8]) -> Result<Section, FormatError> {
    let cut = |kind: &str| FormatError::Cut { index, kind: kind.to_owned() };
    let kind_bytes = usize::from(take(rest).map(u16::from_le_bytes).ok_or_else(|| cut(""))?);
    let version = take(rest).map(u16::from_le_bytes).ok_or_else(|| cut(""))?;
    let bytes = take(rest).map(u32::from_le_bytes).ok_or_else(|| cut(""))? as usize;
    let said = take(rest).map(u32::from_le_bytes).ok_or_else(|| cut(""))?;
    let damaged = |kind: &str| FormatError::Damaged { index, kind: kind.to_owned() };
    if kind_bytes > MAX_KIND_BYTES {
        return Err(damaged(""));
    }
    let kind = take_slice(rest, kind_bytes).ok_or_else(|| cut(""))?;
    let kind = std::str::from_utf8(kind).map_err(|_| damaged(""))?.to_owned();
    if bytes > MAX_SECTION_BYTES {
        return Err(FormatError::SectionTooLong { kind, bytes });
    }
    let bytes = take_slice(rest, bytes).ok_or_else(|| cut(&kind))?.to_vec();
    let section = Section { kind, version, bytes };
    if checksum(&section) == said { Ok(section) } else { Err(damaged(&section.kind)) }
}

fn checksum(section: &Section) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(section.kind.as_bytes());
    hasher.update(&section.version.to_le_bytes());
    hasher.update(&section.bytes);
    hasher.finalize()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

fn take_slice<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (first, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(first)
}
