//! Trees of files on their way between host and guest.
//!
//! A process that the agent makes for it ([`Request::Carry`](crate::message::Request::Carry)) says a tree on
//! its standard output, or hears one on its standard input: one frame for each [`Item`], and behind the frame
//! of a file as many bytes as that says. Parents come before what is in them. A stream that breaks off before
//! [`Item::End`] is not whole.
//!
//! Names are relative to the tree's top, which has the empty name itself. Who hears one judges it by
//! [`parts`]: there is no way to say a name that leads out of the tree.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a file, and the longest path, that Linux takes.
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 4095;

/// What such a process does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// Says what is at a path of the container's, and nothing of what is in it; says nothing if nothing is
    /// there. A link at the end is followed.
    Look {
        /// The path, as a process of the container's would use it from the root.
        path: Bytes,
    },
    /// Says what is at a path of the container's, and all in it.
    Read {
        /// The path.
        path: Bytes,
        /// It may be a link at its end, which is followed.
        follow: bool,
    },
    /// Puts what it hears into a directory of the container's. Says [`Item::End`] when all of it is there.
    Write {
        /// The directory.
        directory: Bytes,
        /// What the tree's top is to be called in it; without a name the top is the directory itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Bytes>,
        /// If a link is called that, what it leads to is meant.
        #[serde(default)]
        follow: bool,
    },
    /// Says the container's root file system, without what is mounted in it.
    Root,
    /// Says what the container has changed in its image.
    Changes {
        /// What only the names are wanted of: every file is said to be empty.
        names_only: bool,
    },
}

/// One thing said about a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Item {
    /// A file, directory or link.
    Entry(Box<Entry>),
    /// That was all.
    End,
    /// There will be no more, for this reason.
    Failed {
        /// A sentence for a person.
        message: String,
    },
}

/// A file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, from the top.
    pub path: Bytes,
    /// What it is.
    pub kind: Kind,
    /// Its permissions, with the bits for set-user-ID, set-group-ID and sticky.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(Bytes, Bytes)>,
    /// Of a change: the image has something of this name.
    #[serde(default, skip_serializing_if = "crate::is_false")]
    pub covers: bool,
}

/// What something in a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Kind {
    /// A file. Its bytes follow the frame.
    File {
        /// How many.
        bytes: u64,
    },
    /// A directory.
    Directory {
        /// Of a change: nothing is left in it of what the image has there.
        #[serde(default, skip_serializing_if = "crate::is_false")]
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        to: Bytes,
    },
    /// Another name for a file that was said before.
    HardLink {
        /// That one's name, from the top.
        to: Bytes,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    Character {
        /// Its numbers.
        major: u32,
        /// The second.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Its numbers.
        major: u32,
        /// The second.
        minor: u32,
    },
    /// Of a change: what the image has of this name is gone.
    Gone,
}

/// Bytes that are mostly text. In JSON each is the character of its number.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|&byte| char::from(byte)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Letters;
        impl Visitor<'_> for Letters {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("characters below 256")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                let byte = |letter: char| u8::try_from(u32::from(letter));
                let bytes: Result<Vec<u8>, _> = text.chars().map(byte).collect();
                bytes.map(Bytes).map_err(|_| E::custom("a character that is no byte"))
            }
        }
        deserializer.deserialize_str(Letters)
    }
}

/// A name that leads out of its tree, or to nothing that Linux could hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is no name in a tree")]
pub struct BadPath {
    /// The name.
    pub path: Bytes,
}

/// The parts of a name from the top: none of the top's own.
pub fn parts(path: &Bytes) -> Result<Vec<&[u8]>, BadPath> {
    if path.0.is_empty() {
        return Ok(Vec::new());
    }
    let good = |part: &&[u8]| {
        (1..=MAX_NAME_BYTES).contains(&part.len())
            && !matches!(*part, b"." | b"..")
            && !part.contains(&0)
    };
    let parts: Vec<&[u8]> = path.0.split(|&byte| byte == b'/').collect();
    match path.0.len() <= MAX_PATH_BYTES && parts.iter().all(good) {
        true => Ok(parts),
        false => Err(BadPath { path: path.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_its_tree() {
        let of = |path: &[u8]| parts(&Bytes::from(path)).map(|parts| parts.len()).ok();
        assert_eq!(of(b""), Some(0));
        assert_eq!(of(b"a/b c/\xff"), Some(3));
        for bad in [
            &b"/"[..],
            b"/etc/passwd",
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b".",
            b"./a",
            b"a//b",
            b"a/",
            b"a\0b",
            &[b'a'; 256],
            &b"a/".repeat(2048),
        ] {
            assert_eq!(of(bad), None, "{:?}", Bytes::from(bad));
        }
    }

    #[test]
    fn bytes_of_any_kind_come_back_as_they_were() {
        let all = Bytes((0..=255).collect());
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), all);
        assert!(serde_json::from_str::<Bytes>("\"\u{100}\"").is_err());
    }
}
