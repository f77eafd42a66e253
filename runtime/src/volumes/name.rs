//! What volumes are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most characters in a name: it is a directory's name.
const MAX_NAME_LEN: usize = 200;

/// A volume's name: letters, digits, `_`, `.` and `-`, a letter or digit first, two at least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name(String);

/// A word is no name of a volume.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a volume's name: 2 to {MAX_NAME_LEN} letters, digits, '_', '.' or '-', a letter or digit first"
)]
pub(crate) struct BadName(String);

impl Name {
    /// The name of the volume with this number that nobody named, of a container with this id.
    pub(crate) fn of_container(id: &str, number: usize) -> Self {
        Self(format!("{id}-{number}"))
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(word: &str) -> Result<Self, BadName> {
        let good = word.starts_with(|first: char| first.is_ascii_alphanumeric())
            && (2..=MAX_NAME_LEN).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_a_directory_and_never_leaves_its_place() {
        let own = Name::of_container(&"ab".repeat(32), 63);
        for good in ["data", "a0", "A.b_c-d", "0-", own.as_ref(), &"f".repeat(200)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a", ".", "..", ".lock", "-x", "_x", "a/b", "a b", "a\n", "éé", "a:b"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
