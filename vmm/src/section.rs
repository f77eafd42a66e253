//! How the state of a device stands in a snapshot.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One part of a snapshot: bytes that say what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// What it is the state of: `virtio-rng`.
    pub kind: String,
    /// Which edition of that state's shape.
    pub version: u16,
    /// The state, in JSON.
    pub bytes: Vec<u8>,
}

/// A state that can stand in a [`Section`]. Its `Default` is power-on.
pub trait State: Serialize + DeserializeOwned + Default {
    /// What [`Section::kind`] says.
    const KIND: &'static str;
    /// What [`Section::version`] says.
    const VERSION: u16;

    /// Writes it down.
    fn to_section(&self) -> Section {
        Section {
            kind: Self::KIND.into(),
            version: Self::VERSION,
            // A state is numbers, lists and texts: there is nothing JSON could refuse.
            bytes: serde_json::to_vec(self).unwrap_or_default(),
        }
    }

    /// Reads it back. What it says is judged by the constructor that takes it.
    fn from_section(section: &Section) -> Result<Self, SectionError> {
        let (kind, version) = (section.kind.clone(), section.version);
        if kind != Self::KIND {
            return Err(SectionError::Kind { kind, wanted: Self::KIND });
        }
        if version != Self::VERSION {
            return Err(SectionError::Version { kind, version, wanted: Self::VERSION });
        }
        serde_json::from_slice(&section.bytes)
            .map_err(|source| SectionError::Malformed { kind, source })
    }
}

/// Why a section is not the state it was taken for.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// It is the state of something else.
    #[error("section of kind {kind} where {wanted} belongs")]
    Kind {
        /// What it says it is.
        kind: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is of another edition.
    #[error("section {kind} of version {version}, not {wanted}")]
    Version {
        /// Whose.
        kind: String,
        /// What it says.
        version: u16,
        /// What is known here.
        wanted: u16,
    },
    /// It is no such state.
    #[error("section {kind}: {source}")]
    Malformed {
        /// Whose.
        kind: String,
        /// Where.
        source: serde_json::Error,
    },
    /// It is one, and says something impossible.
    #[error("section {kind}: {what}")]
    Impossible {
        /// Whose.
        kind: &'static str,
        /// What cannot be.
        what: String,
    },
}
