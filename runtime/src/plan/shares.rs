//! What of the host a container sees, and where; and what else is mounted in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::spec::Mount;
use serde::{Deserialize, Serialize};

use super::places::{Asked, BadMount, What};
use super::{PlanError, defaults};
use crate::volumes::Name;
use crate::wishes::Wishes;

/// What a directory that is the root is called in the VM's file share.
pub(crate) const ROOT: &str = "root";

/// The most volumes an image may have of its own accord: each is a directory of the host's.
const MOST_OF_IMAGE: usize = 64;

/// A directory or file of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Its name in the VM's file share.
    pub(crate) name: String,
    /// Where it is on the host.
    pub(crate) path: PathBuf,
    /// What holds for it on the host's side.
    pub(crate) holds: Holds,
    /// With what is mounted below it.
    pub(crate) recursive: bool,
}

/// What holds for a share on the host's side, whatever the guest believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds {
    /// The guest cannot write to it.
    pub(crate) read_only: Extent,
    /// When it was read last is not written down.
    pub(crate) no_access_times: Extent,
    /// The same of its directories alone.
    pub(crate) no_directory_access_times: Extent,
}

impl Holds {
    /// It is for reading only, with all that is mounted below it, or nothing holds for it.
    pub(crate) fn read_only_if(read_only: bool) -> Self {
        let read_only = if read_only { Extent::All } else { Extent::Nothing };
        Self { read_only, ..Self::default() }
    }
}

/// How much of a share something holds for, the more the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Extent {
    /// None of it.
    #[default]
    Nothing,
    /// It, but not what is mounted below.
    Top,
    /// It and all below.
    All,
}

/// A volume that is to be shared, and made before that if it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// What it is called in the VM's file share.
    pub(crate) share: String,
    /// Its own name.
    pub(crate) name: Name,
    /// Nobody named it: it is this container's alone.
    pub(crate) anonymous: bool,
    /// For one that is made now.
    pub(crate) labels: BTreeMap<String, String>,
    /// The guest cannot write to it.
    pub(crate) read_only: bool,
}

/// Everything that is mounted in a container, and what that needs of the host.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// In order: what is mounted in something else comes behind it.
    pub(super) mounts: Vec<Mount>,
    pub(super) shares: Vec<Shared>,
    pub(super) volumes: Vec<Volume>,
}

/// Decides on all mounts. `own` is the name of volumes that nobody named, but for a number.
pub(super) fn mounts(image: &[String], wishes: &Wishes, own: &str) -> Result<Mounts, PlanError> {
    let asked = asked(image, wishes)?;
    let has = |place: &str| asked.iter().any(|asked| asked.destination == Path::new(place));
    // Whoever brings a `/dev` brings all that is in it.
    let takes_dev = has("/dev");
    let mut decided = Mounts { mounts: defaults::mounts(), ..Mounts::default() };
    decided.mounts.retain(|usual| {
        let destination = &usual.destination;
        let is_replaced = asked.iter().any(|asked| asked.destination == *destination);
        let goes_along = takes_dev && destination.starts_with("/dev");
        !is_replaced && !goes_along
    });
    for (number, asked) in asked.into_iter().enumerate() {
        decided.add(number, asked, own);
    }
    Ok(decided)
}

/// What a person asks for and then what the image does, parents before what is in them.
fn asked(image: &[String], wishes: &Wishes) -> Result<Vec<Asked>, PlanError> {
    let volumes = wishes.volumes.iter().map(|word| Asked::by_volume(word));
    let keys = wishes.mounts.iter().map(|word| Asked::by_keys(word));
    let memory = wishes.tmpfs.iter().map(|word| Asked::by_tmpfs(word));
    let mut asked: Vec<Asked> =
        volumes.chain(keys).chain(memory).collect::<Result<_, BadMount>>()?;
    for (at, one) in asked.iter().enumerate() {
        if asked[..at].iter().any(|other| other.destination == one.destination) {
            return Err(PlanError::SamePlace { place: one.destination.clone() });
        }
    }
    if image.len() > MOST_OF_IMAGE {
        return Err(PlanError::ManyVolumes { count: image.len(), most: MOST_OF_IMAGE });
    }
    for word in image {
        let one = Asked::by_image(word)?;
        if !asked.iter().any(|other| other.destination == one.destination) {
            asked.push(one);
        }
    }
    asked.sort_by_key(|asked| asked.destination.components().count());
    Ok(asked)
}

impl Mounts {
    fn add(&mut self, number: usize, asked: Asked, own: &str) {
        let Asked { destination, what, read_only, recursive, mut options } = asked;
        if read_only {
            // As docker has it: with all that is mounted below.
            let word = if matches!(what, What::Memory) { "ro" } else { "rro" };
            options.push(word.to_owned());
        }
        let share = format!("volume{number}");
        let mount = match what {
            What::Memory => Mount {
                destination,
                kind: Some("tmpfs".to_owned()),
                source: Some("tmpfs".to_owned()),
                options,
                ..Mount::default()
            },
            What::Host(path) => {
                let holds = Holds::read_only_if(read_only);
                self.shares.push(Shared { name: share.clone(), path, holds, recursive });
                Mount { destination, share: Some(share), options, ..Mount::default() }
            }
            What::Volume { name, labels, copies_up } => {
                let anonymous = name.is_none();
                let count = self.volumes.len();
                let name = name.unwrap_or_else(|| Name::of_container(own, count));
                let volume = Volume { share: share.clone(), name, anonymous, labels, read_only };
                self.volumes.push(volume);
                // What cannot be written to cannot be filled either.
                let copies_up = copies_up && !read_only;
                Mount { destination, share: Some(share), options, copies_up, ..Mount::default() }
            }
        };
        self.mounts.push(mount);
    }
}
