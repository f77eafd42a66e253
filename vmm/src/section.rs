//! How a part of a machine stands in a snapshot: bytes that say whose state they are.
//!
//! `docs/snapshot-format.md` has the file around them.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// What it is the state of: `virtio-rng`.
    pub kind: String,
    /// Which edition of that state's shape.
    pub version: u16,
    /// The state, in postcard's encoding.
    pub bytes: Vec<u8>,
}

/// A state that can stand in a [`Section`]. That of a device has a `Default`, which is power-on.
pub trait State: Serialize + DeserializeOwned {
    /// What [`Section::kind`] says.
    const KIND: &'static str;
    /// What [`Section::version`] says.
    const VERSION: u16;

    /// Writes it down.
    fn to_section(&self) -> Section {
        Section {
            kind: Self::KIND.into(),
            version: Self::VERSION,
            // A state is numbers, lists and texts: there is nothing the encoding could refuse.
            bytes: postcard::to_allocvec(self).unwrap_or_default(),
        }
    }

    /// Reads it back, to its last byte. What it says is judged by the constructor that takes it.
    fn from_section(section: &Section) -> Result<Self, SectionError> {
        let (kind, version) = (section.kind.clone(), section.version);
        if kind != Self::KIND {
            return Err(SectionError::Kind { kind, wanted: Self::KIND });
        }
        if version != Self::VERSION {
            return Err(SectionError::Version { kind, version, wanted: Self::VERSION });
        }
        match postcard::take_from_bytes(&section.bytes) {
            Ok((state, [])) => Ok(state),
            Ok((_, rest)) => Err(SectionError::TooLong { kind, bytes: rest.len() }),
            Err(source) => Err(SectionError::Malformed { kind, source }),
        }
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
        /// What is wrong with the bytes.
        source: postcard::Error,
    },
    /// More stands behind the state.
    #[error("section {kind}: {bytes} bytes too many")]
    TooLong {
        /// Whose.
        kind: String,
        /// How many.
        bytes: usize,
    },
    /// It is one, and says something impossible.
    #[error("section {kind}: {what}")]
    Impossible {
        /// Whose.
        kind: &'static str,
        /// What cannot be.
        what: String,
    },
    /// There is none.
    #[error("no section where {wanted} belongs")]
    Missing {
        /// What it should be.
        wanted: &'static str,
    },
    /// Everything has its state, and here is another.
    #[error("section {kind} belongs to nothing")]
    Extra {
        /// What it says it is.
        kind: String,
    },
}

/// Where a machine's states come from, in the order in which it is put together: a snapshot, or power-on.
#[derive(Debug)]
pub struct States(Option<VecDeque<Section>>);

impl States {
    /// Everything is as it is when the power comes on.
    pub fn power_on() -> Self {
        Self(None)
    }

    /// Everything goes on where it was saved.
    pub fn saved(sections: Vec<Section>) -> Self {
        Self(Some(sections.into()))
    }

    /// The state of the next device.
    pub fn take<S: State + Default>(&mut self) -> Result<S, SectionError> {
        Ok(self.take_saved()?.unwrap_or_default())
    }

    /// The next state of something that is readied in another way at power-on; `None` then.
    pub fn take_saved<S: State>(&mut self) -> Result<Option<S>, SectionError> {
        let Some(sections) = &mut self.0 else { return Ok(None) };
        match sections.pop_front() {
            Some(section) => S::from_section(&section).map(Some),
            None => Err(SectionError::Missing { wanted: S::KIND }),
        }
    }

    /// Makes sure that none is left.
    pub fn end(self) -> Result<(), SectionError> {
        match self.0.and_then(|mut left| left.pop_front()) {
            Some(Section { kind, .. }) => Err(SectionError::Extra { kind }),
            None => Ok(()),
        }
    }
}
