use std::io::Write;

use clap::Args;
use proto::files::{Bytes, Entry, Kind, Work};
use serde_json::{Value, json};

use super::Format;
use crate::exit::Failure;
use crate::files::{self, CopyError};
use crate::run;
use crate::settings::Settings;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(super) struct Diff {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The container's name, or the beginning of its id.
    name: String,
}

impl Diff {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        run::visit(settings, &self.name, |container| self.print(container))?;
        Ok(0)
    }

    fn print(&self, container: &Visited) -> Result<(), Failure> {
        let carrier = container.carry(Work::Changes { names_only: true })?;
        let mut heard = files::heard(&carrier)?;
        let mut changes: [Vec<String>; 3] = Default::default();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        while let Some(entry) = files::next(&mut heard)? {
            // The root itself is always there.
            if entry.path.0.is_empty() {
                continue;
            }
            let change = change(&entry);
            let path = shown(&entry.path);
            match self.format {
                Format::Table => {
                    writeln!(out, "{} {path}", change.letter()).map_err(CopyError::Write)?;
                }
                Format::Json => changes[change as usize].push(path),
            }
        }
        if self.format == Format::Json {
            let [added, changed, deleted] = changes;
            let shown: Value = json!({ "added": added, "changed": changed, "deleted": deleted });
            writeln!(out, "{shown:#}").map_err(CopyError::Write)?;
        }
        out.flush().map_err(CopyError::Write)?;
        Ok(())
    }
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Changed,
    Deleted,
}

impl Change {
    fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

fn change(entry: &Entry) -> Change {
    match (&entry.kind, entry.covers) {
        (Kind::Gone, _) => Change::Deleted,
        (_, true) => Change::Changed,
        (_, false) => Change::Added,
    }
}

/// A path on one line, without what would move the cursor.
fn shown(path: &Bytes) -> String {
    let text = String::from_utf8_lossy(&path.0);
    format!("/{}", text.replace(|letter: char| letter.is_control(), "?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_something_has_changed_it_and_what_is_gone_is_deleted() {
        let entry = |kind, covers| Entry {
            path: b"a\n"[..].into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: vec![],
            covers,
        };
        let directory = || Kind::Directory { opaque: false };
        let letters = [(Kind::Gone, true), (directory(), true), (directory(), false)]
            .map(|(kind, covers)| change(&entry(kind, covers)).letter());
        assert_eq!(letters, ['D', 'C', 'A']);
        assert_eq!(shown(&entry(Kind::Fifo, false).path), "/a?");
    }
}
