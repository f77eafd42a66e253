//! Which name is whose: `names.json`, a map from canonical references to image ids.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{FindError, read_bounded, replace};
use crate::{Digest, Reference};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    ids: BTreeMap<Reference, Digest>,
}

impl Names {
    /// What the file `path` says; nothing if there is none.
    pub(super) fn read(path: &Path) -> Result<Self, FindError> {
        let damaged = |why| FindError::Damaged { path: path.to_owned(), why };
        let json = match read_bounded(path) {
            Ok(Some(json)) => json,
            Ok(None) => return Err(damaged("it is longer than any list of names")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(FindError::Io { path: path.to_owned(), source }),
        };
        let words: BTreeMap<String, String> = serde_json::from_slice(&json)
            .map_err(|_| damaged("it is no JSON object of names and ids"))?;
        let mut ids = BTreeMap::new();
        for (name, id) in words {
            let name = name.parse().map_err(|_| damaged("it holds a name that is none"))?;
            let id = id.parse().map_err(|_| damaged("it holds an id that is none"))?;
            ids.insert(name, id);
        }
        Ok(Self { ids })
    }

    /// Writes them to the file `path`.
    pub(super) fn write(&self, path: &Path, tmp: &Path) -> Result<(), (PathBuf, io::Error)> {
        let words: BTreeMap<String, String> =
            self.ids.iter().map(|(name, id)| (name.canonical(), id.to_string())).collect();
        let mut json = serde_json::to_vec_pretty(&words).unwrap_or_default();
        json.push(b'\n');
        replace(path, &json, tmp).map_err(|source| (path.to_owned(), source))
    }

    pub(super) fn get(&self, name: &Reference) -> Option<Digest> {
        self.ids.get(name).copied()
    }

    /// The names of an image, in order.
    pub(super) fn of(&self, id: Digest) -> impl Iterator<Item = &Reference> {
        self.ids.iter().filter(move |&(_, &whose)| whose == id).map(|(name, _)| name)
    }

    /// Gives `name` to an image, whoever had it.
    pub(super) fn give(&mut self, name: Reference, id: Digest) {
        self.ids.insert(name, id);
    }

    pub(super) fn take(&mut self, name: &Reference) {
        self.ids.remove(name);
    }
}
