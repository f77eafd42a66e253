//! What `--volume`, `--mount` and `--tmpfs` ask for, in docker's and podman's words.
//!
//! A word is honoured or refused by its name. The few that ask for nothing here are passed over: hints for
//! other systems, and labels of SELinux, which no guest is held against.

mod keys;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::values;
use crate::volumes::Name;

/// Something to be mounted at a place of the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Where: absolute, without dots, and not the root.
    pub(super) destination: PathBuf,
    pub(super) what: What,
    pub(super) read_only: bool,
    /// With what is mounted below it.
    pub(super) recursive: bool,
    /// Further words for the guest's mount.
    pub(super) options: Vec<String>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A directory or file of the host, perhaps seen from the caller's directory.
    Host(PathBuf),
    /// A volume, made if it is not there; one without a name is the container's own.
    Volume {
        name: Option<Name>,
        labels: BTreeMap<String, String>,
        /// What the image has there is copied into it while it is empty.
        copies_up: bool,
    },
    /// Memory of the guest's.
    Memory,
}

/// A mount that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} {word:?}: {why}")]
pub(crate) struct BadMount {
    option: &'static str,
    word: String,
    why: String,
}

/// What is done about a word of a mount's options.
enum Word {
    ReadOnly(bool),
    Recursive(bool),
    CopiesUp(bool),
    /// For the guest, as it is.
    Guest,
    /// There is nothing to do.
    Nothing,
    Refused(&'static str),
}

/// Words that mean the same at `--volume` and, as keys without a value, at `--mount`.
fn word(word: &str) -> Option<Word> {
    Some(match word {
        "ro" => Word::ReadOnly(true),
        "rw" => Word::ReadOnly(false),
        "rbind" => Word::Recursive(true),
        "bind" => Word::Recursive(false),
        "copy" => Word::CopiesUp(true),
        "nocopy" => Word::CopiesUp(false),
        "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" => Word::Guest,
        // What is mounted later on one side is not seen on the other, whatever is said.
        "private" | "rprivate" => Word::Nothing,
        "z" | "Z" | "consistent" | "cached" | "delegated" => Word::Nothing,
        "shared" | "rshared" | "slave" | "rslave" => {
            Word::Refused("later mounts do not cross to a virtual machine, only private does")
        }
        "U" | "chown" => Word::Refused("owners are not changed; chown the directory first"),
        "O" => Word::Refused("no overlay is put over it"),
        "idmap" => Word::Refused("ids are not mapped"),
        _ => return None,
    })
}

impl Asked {
    /// `--volume [SRC:]DST[:OPTIONS]`.
    pub(super) fn by_volume(said: &str) -> Result<Self, BadMount> {
        let wrong = |why: String| BadMount { option: "--volume", word: said.to_owned(), why };
        let parts: Vec<_> = said.split(':').collect();
        let (source, destination, options) = match parts[..] {
            [destination] => (None, destination, ""),
            [source, destination] => (Some(source), destination, ""),
            [source, destination, options] => (Some(source), destination, options),
            _ => return Err(wrong("not [SRC:]DST[:OPTIONS]".to_owned())),
        };
        let what = match source {
            None => volume(None),
            Some(path) if path.starts_with(['/', '.']) => What::Host(path.into()),
            Some(name) => volume(Some(
                name.parse()
                    .map_err(|bad| wrong(format!("{bad}, and a path begins with / or with .")))?,
            )),
        };
        let mut asked = Self::new(place(destination).map_err(wrong)?, what);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            asked.take(option).map_err(wrong)?;
        }
        Ok(asked)
    }

    /// `--tmpfs DST[:OPTIONS]`.
    pub(super) fn by_tmpfs(said: &str) -> Result<Self, BadMount> {
        let wrong = |why: String| BadMount { option: "--tmpfs", word: said.to_owned(), why };
        let (destination, options) = said.split_once(':').unwrap_or((said, ""));
        let mut asked = Self::new(place(destination).map_err(wrong)?, What::Memory);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            asked.take_for_memory(option).map_err(wrong)?;
        }
        Ok(asked)
    }

    /// A volume of the image's, which is a place for one without a name.
    pub(super) fn by_image(said: &str) -> Result<Self, BadMount> {
        let wrong =
            |why: String| BadMount { option: "the image's volume", word: said.to_owned(), why };
        let destination = place(&format!("/{said}")).map_err(wrong)?;
        Ok(Self::new(destination, volume(None)))
    }

    fn new(destination: PathBuf, what: What) -> Self {
        let options = match what {
            What::Memory => ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
            What::Host(_) | What::Volume { .. } => Vec::new(),
        };
        Self { destination, what, read_only: false, recursive: true, options }
    }

    /// Takes a word for a directory, file or volume.
    fn take(&mut self, said: &str) -> Result<(), String> {
        match (word(said), &mut self.what) {
            (None, _) => return Err(format!("{said:?} is no option of a volume")),
            (Some(Word::Refused(why)), _) => return Err(format!("{said:?}: {why}")),
            (Some(Word::Nothing), _) => {}
            (Some(Word::ReadOnly(is)), _) => self.read_only = is,
            (Some(Word::Recursive(is)), What::Host(_)) => self.recursive = is,
            (Some(Word::CopiesUp(is)), What::Volume { copies_up, .. }) => *copies_up = is,
            (Some(Word::Recursive(_) | Word::CopiesUp(_)), _) => {
                return Err(format!("{said:?} means nothing there"));
            }
            (Some(Word::Guest), _) => self.options.push(said.to_owned()),
        }
        Ok(())
    }

    /// Takes a word for a file system in memory.
    fn take_for_memory(&mut self, said: &str) -> Result<(), String> {
        let (name, value) = said.split_once('=').unwrap_or((said, ""));
        let digits =
            |digit: fn(&char) -> bool| !value.is_empty() && value.chars().all(|c| digit(&c));
        let of_memory = match name {
            // A share of the memory is the kernel's to work out.
            "size" | "nr_blocks" | "nr_inodes" => {
                let number = value.strip_suffix('%').unwrap_or(value);
                values::size(number).is_some()
            }
            "mode" => digits(|c| c.is_digit(8)) && value.len() <= 5,
            "uid" | "gid" => digits(char::is_ascii_digit),
            "tmpcopyup" => value.is_empty(),
            "notmpcopyup" if value.is_empty() => {
                self.options.retain(|option| option != "tmpcopyup");
                return Ok(());
            }
            _ => {
                return match word(said) {
                    Some(Word::ReadOnly(is)) => {
                        self.read_only = is;
                        Ok(())
                    }
                    Some(Word::Guest) => {
                        self.options.push(said.to_owned());
                        Ok(())
                    }
                    Some(Word::Nothing) => Ok(()),
                    Some(Word::Refused(why)) => Err(format!("{said:?}: {why}")),
                    Some(Word::Recursive(_) | Word::CopiesUp(_)) | None => {
                        Err(format!("{said:?} is no option of a tmpfs"))
                    }
                };
            }
        };
        if !of_memory {
            return Err(format!("{value:?} is no {name} of a tmpfs"));
        }
        self.options.push(said.to_owned());
        Ok(())
    }
}

fn volume(name: Option<Name>) -> What {
    What::Volume { name, labels: BTreeMap::new(), copies_up: true }
}

/// A place in a container, however it is written.
fn place(word: &str) -> Result<PathBuf, String> {
    if !word.starts_with('/') || word.contains('\0') {
        return Err(format!("the destination {word:?} is no absolute path"));
    }
    let mut place = PathBuf::from("/");
    for component in Path::new(word).components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => drop(place.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    match place.parent() {
        None => Err("the destination is the root".to_owned()),
        Some(_) => Ok(place),
    }
}

#[cfg(test)]
mod tests;
