//! What is written down about a container, and read back with suspicion.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proto::spec::{Hook, Process};
use serde::{Deserialize, Serialize};

use crate::network::Trace;
use crate::oci::cgroup::Group;
use crate::storage;
use crate::volumes;
use crate::wishes::Wishes;

/// Version of [`Record`]'s shape. A record of another version is named, not guessed at.
const VERSION: u32 = 1;

/// Characters of an id.
const ID_LEN: usize = 64;

/// Characters of an id that people see.
pub(crate) const SHORT_ID_LEN: usize = 12;

/// Most characters in a name: it is a directory's name, here and in cgroup hierarchies.
const MAX_NAME_LEN: usize = 200;

/// One container, as `state.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// 64 hexadecimal digits, unique in the world.
    pub(crate) id: Id,
    /// Unique under one root, and the name of the container's directory.
    pub(crate) name: Name,
    /// The process that looks after it, and is alive as long as the directory's lock is held.
    pub(crate) supervisor: u32,
    /// What its root was made from, in the words it was asked for with.
    pub(crate) image: String,
    /// The id of that image, if it was one: its name may be another's by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_id: Option<String>,
    /// The volumes it has, which nobody removes while they are written down here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<volumes::Name>,
    /// Those of them that nobody named, made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) own_volumes: Vec<volumes::Name>,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// Nothing of it is kept once it has ended.
    pub(crate) remove: bool,
    /// Its output is in its log, not on somebody's terminal.
    pub(crate) detached: bool,
    /// Its first process, from which an `exec` takes user, environment and directory.
    pub(crate) process: Process,
    /// The signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// How far it is, if it was made from a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) oci: Option<Oci>,
    /// Where the disk is that it writes to, if it has one that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<PathBuf>,
    /// In what words it was asked for, unless it was made from a bundle: it can be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wishes: Option<Wishes>,
    /// How it ended; `None` before that, and for ever when its supervisor was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The exit code of the `run` that started it.
    pub(crate) exit_code: u8,
    /// When, RFC 3339.
    pub(crate) finished: String,
    /// What went wrong, when the container did not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What is known of a container that was made from a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Oci {
    /// How far it is. Once its supervisor is gone it is stopped, whatever stands here.
    pub(crate) status: Status,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// Its root's directory.
    pub(crate) rootfs: PathBuf,
    /// `annotations`.
    pub(crate) annotations: BTreeMap<String, String>,
    /// `hooks.poststart`.
    pub(crate) poststart: Vec<Hook>,
    /// `hooks.poststop`.
    pub(crate) poststop: Vec<Hook>,
    /// Its cgroup on the host, to be removed with it.
    pub(crate) cgroup: Option<Group>,
    /// Bytes of memory its VM has.
    pub(crate) ram_bytes: u64,
    /// Where its VM is on the network, if others keep that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<Trace>,
}

impl Oci {
    /// What stands for it where a container was made of an image, in this directory.
    pub(crate) fn of_image(directory: &Path) -> Self {
        Self {
            status: Status::Running,
            bundle: directory.to_owned(),
            rootfs: PathBuf::new(),
            annotations: BTreeMap::new(),
            poststart: vec![],
            poststop: vec![],
            cgroup: None,
            ram_bytes: 0,
            network: None,
        }
    }
}

/// How far a container of a bundle is (OCI runtime specification, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// It is being made.
    Creating,
    /// It is made, and its process is held.
    Created,
    /// Its process was let go.
    Running,
    /// Its virtual CPUs are stopped.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl Record {
    /// A container that has not ended.
    pub(crate) fn new(id: Id, name: Name, image: String, process: Process) -> Self {
        Self {
            version: VERSION,
            id,
            name,
            supervisor: std::process::id(),
            image,
            image_id: None,
            volumes: vec![],
            own_volumes: vec![],
            created: now(),
            remove: false,
            detached: false,
            process,
            stop_signal: 15,
            oci: None,
            storage: None,
            wishes: None,
            outcome: None,
        }
    }

    /// The same, looked after by another process.
    pub(crate) fn of_supervisor(&self, supervisor: u32) -> Self {
        Self { supervisor, ..self.clone() }
    }

    /// The record in `json`, if it is whole and stands in the directory called `name`.
    pub(super) fn parse(json: &[u8], name: &Name) -> Result<Self, BadRecord> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(BadRecord::Version { version });
        }
        let record: Self = serde_json::from_slice(json)?;
        if record.name != *name {
            return Err(BadRecord::OtherName { name: record.name });
        }
        if let Some(path) = &record.storage
            && !storage::can_be_of(path, &record.id)
        {
            return Err(BadRecord::OtherStorage { path: path.clone() });
        }
        Ok(record)
    }
}

/// Why a record is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRecord {
    /// It is no JSON, or a field is missing or wrong.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    /// It is of another microvm's version.
    #[error("version {version}, this microvm knows {VERSION}")]
    Version {
        /// The version it has.
        version: u32,
    },
    /// It is about another container.
    #[error("name {name:?} is not its directory's")]
    OtherName {
        /// The name in it.
        name: Name,
    },
    /// It says that another's disk is its own.
    #[error("storage {} is not this container's", path.display())]
    OtherStorage {
        /// The path in it.
        path: PathBuf,
    },
}

/// Now, as records and logs write it.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string()
}

/// A container's name: letters, digits, `_`, `.`, `+` and `-`, a letter, digit or `_` first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name(String);

/// A word is no container name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a container name: 1 to {MAX_NAME_LEN} letters, digits, '_', '.', '+' or '-', none of the last three first"
)]
pub(crate) struct BadName(String);

impl FromStr for Name {
    type Err = BadName;

    fn from_str(word: &str) -> Result<Self, BadName> {
        let good = word.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && word.len() <= MAX_NAME_LEN
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte));
        if good { Ok(Self(word.to_owned())) } else { Err(BadName(word.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(word: String) -> Result<Self, BadName> {
        word.parse()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Id(String);

/// A word is no container id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a container id of {ID_LEN} hexadecimal digits")]
pub(crate) struct BadId(String);

impl Id {
    /// An id made of 256 random bits.
    pub(crate) fn from_bits(bits: [u8; ID_LEN / 2]) -> Self {
        Self(bits.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits people see, which also are a name.
    pub(crate) fn short(&self) -> &str {
        &self.0[..SHORT_ID_LEN]
    }

    /// The name of a container that was given none.
    pub(crate) fn as_name(&self) -> Name {
        Name(self.short().to_owned())
    }
}

impl TryFrom<String> for Id {
    type Error = BadId;

    fn try_from(word: String) -> Result<Self, BadId> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if word.len() == ID_LEN && word.bytes().all(digit) {
            Ok(Self(word))
        } else {
            Err(BadId(word))
        }
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_a_directory_and_never_leaves_its_root() {
        for good in ["a", "web-1", "A.b_c", "0", "_a+b", &"f".repeat(64)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".lock", "-x", "a/b", "a b", "a\n", "é", &"a".repeat(201)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_is_its_bits_and_begins_with_its_short_form() {
        let id = Id::from_bits([0xab; 32]);
        assert_eq!(id.as_ref(), "ab".repeat(32));
        assert_eq!(id.short(), "abababababab");
        assert!(Id::try_from("AB".repeat(32)).is_err());
        assert!(Id::try_from("ab".repeat(31)).is_err());
    }
}
