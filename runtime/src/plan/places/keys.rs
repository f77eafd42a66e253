//! `--mount KEY=VALUE,…`.

use std::path::PathBuf;

use super::{Asked, BadMount, What, Word, place, volume, word};
use crate::plan::values;

/// The kinds that `type=` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bind,
    Volume,
    Tmpfs,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
        }
    }
}

impl Asked {
    /// `--mount type=bind|volume|tmpfs,src=…,dst=…,…`; a volume if no type is given.
    pub(in crate::plan) fn by_keys(said: &str) -> Result<Self, BadMount> {
        Self::parse(said).map_err(|why| BadMount { option: "--mount", word: said.to_owned(), why })
    }

    fn parse(said: &str) -> Result<Self, String> {
        let fields = fields(said)?;
        let pairs: Vec<(&str, Option<&str>)> = fields
            .iter()
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            })
            .collect();
        let last = |names: &[&str]| {
            let found = pairs.iter().rev().find(|(key, _)| names.contains(key));
            found.map(|(key, value)| value.ok_or_else(|| format!("{key} has no value"))).transpose()
        };
        let kind = match last(&["type"])? {
            None | Some("volume") => Kind::Volume,
            Some("bind") => Kind::Bind,
            Some("tmpfs") => Kind::Tmpfs,
            Some(other) => return Err(format!("type {other:?} is not bind, volume or tmpfs")),
        };
        let destination = last(&["destination", "dst", "target"])?;
        let destination = place(destination.ok_or("there is no destination")?)?;
        let source = last(&["source", "src"])?;
        let what = match (kind, source) {
            (Kind::Bind, Some(path)) if path.starts_with(['/', '.']) => What::Host(path.into()),
            (Kind::Bind, Some(path)) => What::Host(PathBuf::from(".").join(path)),
            (Kind::Bind, None) => return Err("a bind has a source".to_owned()),
            (Kind::Volume, None | Some("")) => volume(None),
            (Kind::Volume, Some(name)) => {
                volume(Some(name.parse().map_err(|bad| format!("{bad}"))?))
            }
            (Kind::Tmpfs, None) => What::Memory,
            (Kind::Tmpfs, Some(_)) => return Err("a tmpfs has no source".to_owned()),
        };
        let mut asked = Self::new(destination, what);
        for (key, value) in pairs {
            asked.key(kind, key, value)?;
        }
        Ok(asked)
    }

    fn key(&mut self, kind: Kind, key: &str, value: Option<&str>) -> Result<(), String> {
        let has = || value.ok_or_else(|| format!("{key} has no value"));
        let is = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{key}={other:?} is not true or false")),
        };
        let elsewhere = || Err(format!("{key} is not for type {}", kind.name()));
        let refused = |why: &str| Err(format!("{key}: {why}"));
        match (key, kind) {
            ("type" | "source" | "src" | "destination" | "dst" | "target", _) => {}
            ("readonly" | "ro", _) => self.read_only = is()?,
            ("rw", _) => self.read_only = !is()?,
            ("consistency", _) => drop(has()?),
            ("bind-propagation", Kind::Bind) => match has()? {
                "private" | "rprivate" => {}
                other => match word(other) {
                    Some(Word::Refused(why)) => return Err(format!("{key}={other}: {why}")),
                    _ => return Err(format!("{key}={other:?} is no propagation")),
                },
            },
            ("bind-nonrecursive", Kind::Bind) => self.recursive = !is()?,
            ("bind-recursive", Kind::Bind) => match has()? {
                "enabled" | "readonly" => self.recursive = true,
                "disabled" => self.recursive = false,
                "writable" => return refused("what is read-only is so with all below it"),
                other => return Err(format!("{key}={other:?} is not enabled or disabled")),
            },
            ("relabel", Kind::Bind) => match has()? {
                "shared" | "private" => {}
                other => return Err(format!("{key}={other:?} is not shared or private")),
            },
            ("volume-nocopy", Kind::Volume) => {
                let copies = !is()?;
                if let What::Volume { copies_up, .. } = &mut self.what {
                    *copies_up = copies;
                }
            }
            ("volume-label", Kind::Volume) => {
                let (name, text) = has()?.split_once('=').unwrap_or((has()?, ""));
                if let What::Volume { labels, .. } = &mut self.what {
                    labels.insert(name.to_owned(), text.to_owned());
                }
            }
            ("volume-driver", Kind::Volume) => match has()? {
                "" | "local" => {}
                other => return Err(format!("there is no volume driver {other:?} but local")),
            },
            ("volume-opt", Kind::Volume) => return refused("the local driver has no options"),
            ("volume-subpath" | "subpath", Kind::Volume) => {
                return refused("a volume is mounted as a whole");
            }
            ("tmpfs-size", Kind::Tmpfs) => {
                let said = has()?;
                let bytes =
                    values::size(said).ok_or_else(|| format!("{key}={said:?} is no size"))?;
                self.options.push(format!("size={bytes}"));
            }
            ("tmpfs-mode", Kind::Tmpfs) => self.take_for_memory(&format!("mode={}", has()?))?,
            ("tmpcopyup" | "notmpcopyup", Kind::Tmpfs) => {
                // podman's second word is the first one's opposite.
                match is()? == (key == "tmpcopyup") {
                    true => self.options.push("tmpcopyup".to_owned()),
                    false => self.options.retain(|option| option != "tmpcopyup"),
                }
            }
            ("nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec", _) if value.is_none() => {
                self.options.push(key.to_owned());
            }
            ("U" | "chown" | "idmap", _) => match word(key) {
                Some(Word::Refused(why)) => return refused(why),
                _ => return elsewhere(),
            },
            (key, _) if KEYS.contains(&key) => return elsewhere(),
            _ => return Err(format!("{key:?} is no key of a mount")),
        }
        Ok(())
    }
}

/// Keys that are for one kind alone.
const KEYS: [&str; 13] = [
    "bind-nonrecursive",
    "bind-propagation",
    "bind-recursive",
    "notmpcopyup",
    "relabel",
    "subpath",
    "tmpcopyup",
    "tmpfs-mode",
    "tmpfs-size",
    "volume-driver",
    "volume-label",
    "volume-nocopy",
    "volume-subpath",
];

/// The fields of a line of comma-separated values (RFC 4180): one in quotes may have commas in it, and two
/// quotes for one.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut letters = line.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => return Err("a quote is not closed".to_owned()),
                }
            }
        } else {
            while let Some(letter) = letters.next_if(|letter| *letter != ',') {
                field.push(letter);
            }
        }
        fields.push(field);
        match letters.next() {
            None => return Ok(fields),
            Some(',') => {}
            Some(_) => return Err("something stands behind a closed quote".to_owned()),
        }
    }
}
