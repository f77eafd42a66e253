//! `mounts`: what the guest mounts by itself, and what it is lent of the host's files.

use std::path::{Path, PathBuf};

use oci_spec::runtime;
use proto::spec::Mount;

use super::plan::Refused;
use crate::plan::{Extent, Holds, ROOT, Shared};
use crate::shares::{Share, ShareError};

/// The guest's mounts in order, and what they need of the host. Relative sources are the bundle's.
pub(super) fn mounts(
    asked: &[runtime::Mount],
    bundle: &Path,
) -> Result<(Vec<Mount>, Vec<Shared>), Refused> {
    let (mut mounts, mut lent) = (Vec::with_capacity(asked.len()), Vec::new());
    for (index, mount) in asked.iter().enumerate() {
        let options = mount.options().clone().unwrap_or_default();
        let has = |word: &str| options.iter().any(|option| option == word);
        let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        if mapped || has("idmap") || has("ridmap") {
            let field = format!("mounts[{index}]");
            return Err(Refused::new(field, "is to have its ids mapped, which is not supported"));
        }
        let binds = mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
        let (source, share) = if binds {
            let source = mount.source().as_deref().ok_or_else(|| {
                Refused::new(format!("mounts[{index}].source"), "is missing for a bind")
            })?;
            let name = index.to_string();
            lent.push(Shared {
                name: name.clone(),
                path: bundle.join(source),
                holds: Holds {
                    read_only: extent(&options, "ro", &["rw"]),
                    no_access_times: extent(
                        &options,
                        "noatime",
                        &["atime", "relatime", "strictatime"],
                    ),
                    no_directory_access_times: extent(&options, "nodiratime", &["diratime"]),
                },
                recursive: has("rbind"),
            });
            (None, Some(name))
        } else {
            (mount.source().as_deref().map(text), None)
        };
        mounts.push(Mount {
            // Older bundles say it without the slash in front (runtime specification, "Mounts").
            destination: Path::new("/").join(mount.destination()),
            kind: if binds { Some("bind".to_owned()) } else { mount.typ().clone() },
            source,
            share,
            options,
            ..Mount::default()
        });
    }
    Ok((mounts, lent))
}

/// How much of a mount a word is said of, unless one of its opposites is said later: with an `r` before it of all
/// below, too.
fn extent(options: &[String], word: &str, opposites: &[&str]) -> Extent {
    let is_known = |said: &&str| *said == word || opposites.contains(said);
    let mut extent = Extent::Nothing;
    for option in options {
        // `ro` and `relatime` begin with an `r` of their own.
        let (said, of) = match option.strip_prefix('r').filter(is_known) {
            Some(said) => (said, Extent::All),
            None => (option.as_str(), Extent::Top),
        };
        if said == word {
            extent = extent.max(of);
        } else if is_known(&said) {
            extent = Extent::Nothing;
        }
    }
    extent
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A field of `config.json` names what cannot be lent.
#[derive(Debug, thiserror::Error)]
#[error("{field}")]
pub(crate) struct LendError {
    field: String,
    source: ShareError,
}

/// Opens what is lent.
pub(super) fn open(lent: &[Shared]) -> Result<Vec<Share>, LendError> {
    let field = |name: &str| match name {
        ROOT => "root.path".to_owned(),
        index => format!("mounts[{index}].source"),
    };
    let open = |lent: &Shared| {
        Share::open(lent).map_err(|source| LendError { field: field(&lent.name), source })
    };
    lent.iter().map(open).collect()
}

/// The root, lent as a whole. It can be written to on the host's side even if the container cannot:
/// places for mounts are made in it.
pub(super) fn root(path: PathBuf) -> Shared {
    Shared { name: ROOT.to_owned(), path, holds: Holds::default(), recursive: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<(Vec<Mount>, Vec<Shared>), Refused> {
        mounts(&serde_json::from_str::<Vec<runtime::Mount>>(json).unwrap(), Path::new("/bundle"))
    }

    #[test]
    fn a_bind_is_lent_and_everything_else_is_the_guests_own() {
        let (mounts, lent) = plan(
            r#"[{"destination":"/proc","type":"proc","source":"proc"},
                {"destination":"data","source":"vol","options":["rbind","ro"]},
                {"destination":"/f","type":"bind","source":"/etc/hosts"}]"#,
        )
        .unwrap();
        assert_eq!(mounts[0].source.as_deref(), Some("proc"));
        assert_eq!((mounts[1].share.as_deref(), mounts[1].source.as_deref()), (Some("1"), None));
        assert_eq!(mounts[1].destination, Path::new("/data"));
        assert_eq!(lent[0].path, Path::new("/bundle/vol"));
        assert_eq!((lent[0].holds.read_only, lent[0].recursive), (Extent::Top, true));
        assert_eq!(lent[1].path, Path::new("/etc/hosts"));
        assert_eq!((lent[1].holds, lent[1].recursive), (Holds::default(), false));
    }

    #[test]
    fn a_word_holds_for_what_it_was_said_of_last() {
        let said = |words: &str| {
            let options: Vec<_> = words.split(',').map(str::to_owned).collect();
            extent(&options, "ro", &["rw"])
        };
        assert_eq!(["bind", "ro", "rro"].map(said), [Extent::Nothing, Extent::Top, Extent::All]);
        assert_eq!(
            ["ro,rw", "rw,ro", "rro,ro", "rro,rw"].map(said),
            [Extent::Nothing, Extent::Top, Extent::All, Extent::Nothing]
        );
        let times = |words: &str| {
            let options: Vec<_> = words.split(',').map(str::to_owned).collect();
            extent(&options, "noatime", &["atime", "relatime", "strictatime"])
        };
        assert_eq!(
            ["noatime", "rnoatime", "noatime,relatime"].map(times),
            [Extent::Top, Extent::All, Extent::Nothing]
        );
    }

    #[test]
    fn mapped_ids_and_a_bind_of_nothing_are_refused_by_place() {
        let said = |json: &str| plan(json).unwrap_err().to_string();
        let idmap = r#"[{"destination":"/a","source":"/b","options":["bind","idmap"]}]"#;
        assert!(said(idmap).starts_with("mounts[0] is to have its ids mapped"));
        assert!(said(r#"[{"destination":"/a","type":"bind"}]"#).starts_with("mounts[0].source is"));
    }
}
