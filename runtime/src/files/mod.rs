//! Files between containers, the host and tar archives.
//!
//! What a container's agent says of files is a stranger's: [`transfer`] and the tar reader of `image` judge
//! it. On the host, files of a container's are nobody's but the caller's, have no set-user-ID, and are never
//! devices.

mod copy;
mod tar;

use std::io;
use std::path::PathBuf;

use proto::files::{Bytes, Entry};
use transfer::{PutError, ReceiveError, SendError, WalkError};

use crate::visit::{Carrier, VisitError};

pub(crate) use self::copy::{Manner, from_container, from_tar, into_container, to_tar};
pub(crate) use self::tar::{Naming, layer, tar};

/// What a tree is heard from.
pub(crate) type Heard = transfer::Receiver<io::BufReader<std::os::unix::net::UnixStream>>;

/// Why files do not get where they should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error("in the container: {0}")]
    Said(#[source] ReceiveError),
    #[error("in the container: {word:?} does not exist")]
    Nothing { word: String },
    #[error("in the container: {word:?} is no directory")]
    NoDirectory { word: String },
    #[error("a directory does not take the place of {word:?}, which is none")]
    DirectoryOverFile { word: String },
    #[error("{}", path.display())]
    Host { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Walk { path: PathBuf, source: WalkError },
    #[error("{}: {source}", path.display())]
    Put { path: PathBuf, source: PutError },
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the archive")]
    Write(#[source] io::Error),
    #[error("the archive")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Tar(#[from] image::TarError),
    #[error(transparent)]
    Packing(#[from] image::UnknownPacking),
    #[error("the archive: {path:?} leads out of it")]
    Climbs { path: Bytes },
    #[error("{path:?} cannot be in a layer, where such names mean something else")]
    Whiteout { path: Bytes },
}

/// What a carrier says, entry by entry.
pub(crate) fn heard(carrier: &Carrier) -> Result<Heard, CopyError> {
    let output =
        carrier.output.try_clone().map_err(|error| CopyError::Said(ReceiveError::Broken(error)))?;
    let output = io::BufReader::with_capacity(64 << 10, output);
    Ok(transfer::Receiver::new(output, transfer::MOST_ENTRIES))
}

/// The next entry that a container says.
pub(crate) fn next(heard: &mut Heard) -> Result<Option<Entry>, CopyError> {
    heard.entry().map_err(CopyError::Said)
}

/// One end of a copy, in the words of `cp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A path in a container.
    Container {
        /// The container.
        name: String,
        /// The path, from its root.
        path: String,
    },
    /// A path of this machine.
    Host(PathBuf),
    /// Standard input or output, as a tar archive.
    Stream,
}

impl From<&str> for End {
    /// As docker reads it: what begins with `/` or `.` is of this machine, whatever stands in it.
    fn from(word: &str) -> Self {
        match word.split_once(':') {
            _ if word == "-" => Self::Stream,
            Some((name, path)) if !word.starts_with(['/', '.']) => {
                Self::Container { name: name.to_owned(), path: path.to_owned() }
            }
            _ => Self::Host(PathBuf::from(word)),
        }
    }
}

/// A path as `cp` takes it apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word<'a> {
    /// Without what stands at its end to say something.
    path: &'a str,
    /// Not the directory is meant, but all in it: `dir/.`, or the root.
    contents: bool,
    /// It is to be a directory: `dir/`.
    directory: bool,
}

impl<'a> Word<'a> {
    fn of(word: &'a str) -> Self {
        let bare = word.trim_end_matches('/');
        if bare.is_empty() {
            return Self { path: "/", contents: true, directory: true };
        }
        let directory = bare.len() < word.len();
        match bare.strip_suffix("/.") {
            Some(path) => {
                let path = path.trim_end_matches('/');
                let path = if path.is_empty() { "/" } else { path };
                Self { path, contents: true, directory: true }
            }
            None if bare == "." => Self { path: ".", contents: true, directory: true },
            None => Self { path: bare, contents: false, directory },
        }
    }

    /// What it is called, if that is a name.
    fn name(&self) -> Option<&'a str> {
        let name = self.path.rsplit('/').next();
        name.filter(|name| !matches!(*name, "" | "." | ".."))
    }

    /// The directory it is in.
    fn parent(&self) -> &'a str {
        match self.path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => ".",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_of_this_machine_unless_it_names_a_container() {
        let container =
            |name: &str, path: &str| End::Container { name: name.into(), path: path.into() };
        for (word, end) in [
            ("-", End::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:a:b", container("web", "a:b")),
            ("web:", container("web", "")),
            ("./web:/etc", End::Host("./web:/etc".into())),
            ("/a:b", End::Host("/a:b".into())),
            ("file", End::Host("file".into())),
        ] {
            assert_eq!(End::from(word), end);
        }
    }

    #[test]
    fn what_stands_at_the_end_of_a_path_says_what_is_meant() {
        for (word, path, contents, directory, name, parent) in [
            ("/a/b", "/a/b", false, false, Some("b"), "/a"),
            ("/a/b/", "/a/b", false, true, Some("b"), "/a"),
            ("a/b/.", "a/b", true, true, Some("b"), "a"),
            ("a", "a", false, false, Some("a"), "."),
            ("/a", "/a", false, false, Some("a"), "/"),
            (".", ".", true, true, None, "."),
            ("/.", "/", true, true, None, "/"),
            ("/", "/", true, true, None, "/"),
            ("", "/", true, true, None, "/"),
            ("a/..", "a/..", false, false, None, "a"),
        ] {
            let of = Word::of(word);
            assert_eq!(of, Word { path, contents, directory }, "{word}");
            assert_eq!((of.name(), of.parent()), (name, parent), "{word}");
        }
    }
}
