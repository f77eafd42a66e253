//! Machines that were booted once, up to the moment where a container can be made in them, and saved.
//!
//! ```text
//! <root>/.templates/<name>/state, memory   the saved machine
//! <root>/.templates/<name>/working-set     which pages every container's beginning touches, where that is known
//! <root>/.templates/<name>/about.json      what it was made from
//! <root>/.templates/<name>.half            one that is being made
//! <root>/.templates/<name>.lock            held by whoever makes it, or takes it away
//! <root>/.templates/<name>.refused         why there is none: this machine cannot save such a VM
//! ```
//!
//! A template holds nobody's secrets: it is saved before there is a container. It is used only by whoever
//! would have made the same one ([`key`]), and only if it is whole; what is not is made again.

mod build;
pub(crate) mod key;
mod rehearse;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub(crate) use self::build::BuildError;
use self::key::Key;
use crate::attend::AttendError;
use crate::platform::Platform;
use crate::settings::Settings;
use crate::state::{Root, record};
use crate::timeline::Timeline;

/// The directory in the root of all state. No container has such a name.
const SHELF: &str = ".templates";

/// A saved machine, opened.
#[derive(Debug)]
pub(crate) struct Template {
    /// What its chips and devices were.
    pub(crate) state: File,
    /// What its memory held.
    pub(crate) memory: File,
    /// Which pages every container's beginning touches, if that is known.
    pub(crate) working_set: Option<File>,
    directory: PathBuf,
}

/// What is written about a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// What it was made from.
    pub(crate) key: Key,
    /// When, in RFC 3339.
    pub(crate) created: String,
}

/// Why there is no template, and no way around that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The file system refused.
    #[error("template {}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no such template.
    #[error("no template named {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The guest does not work, and would not without a template.
    #[error(transparent)]
    Guest(AttendError),
    /// It could not be made.
    #[error("template of {vcpus} vCPUs and {} MiB", ram_bytes >> 20)]
    Build {
        /// Its virtual CPUs.
        vcpus: u8,
        /// Its memory.
        ram_bytes: u64,
        /// Why not.
        source: BuildError,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TemplateError {
    let path = path.to_owned();
    move |source| TemplateError::Io { path, source }
}

/// Where templates are.
#[derive(Debug)]
pub(crate) struct Shelf(PathBuf);

/// The template for a machine of this size, made if there is none. `None` is what was asked for with
/// `--no-template`, and what there is where such a machine cannot be saved.
pub(crate) fn ready(
    settings: &Settings,
    root: &Root,
    platform: &Platform,
    (vcpus, ram_bytes): (u8, u64),
    timeline: &Timeline,
) -> Result<Option<Template>, TemplateError> {
    if settings.no_template {
        return Ok(None);
    }
    let key = Key::new(platform, vcpus, ram_bytes).map_err(at(Path::new("/proc/self/exe")))?;
    let shelf = Shelf::open(root)?;
    if let Some(template) = shelf.find(&key) {
        timeline.mark("template found");
        return Ok(Some(template));
    }
    let refused = shelf.path(&key.name(), ".refused");
    if refused.exists() {
        return Ok(None);
    }
    match shelf.build(&key, platform) {
        Ok(template) => {
            timeline.mark("template made");
            Ok(Some(template))
        }
        Err(TemplateError::Build { source: BuildError::Guest(error), .. }) => {
            Err(TemplateError::Guest(error))
        }
        Err(error @ (TemplateError::Io { .. } | TemplateError::NotFound { .. })) => Err(error),
        Err(error) => {
            // Said once; who wants to hear it again takes the file away, or asks for the template.
            let words = crate::exit::Failure::of(&error).message;
            eprintln!("microvm: starting without a template from now on: {words}");
            fs::write(&refused, words).map_err(at(&refused))?;
            Ok(None)
        }
    }
}

impl Shelf {
    /// The one in `root`.
    pub(crate) fn open(root: &Root) -> Result<Self, TemplateError> {
        let path = root.path().join(SHELF);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(at(&path))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.0.join(format!("{name}{ending}"))
    }

    /// The template of this key, if there is one and it is whole.
    pub(crate) fn find(&self, key: &Key) -> Option<Template> {
        let directory = self.path(&key.name(), "");
        let about: About =
            serde_json::from_slice(&fs::read(directory.join("about.json")).ok()?).ok()?;
        // A name is short for a key, and could be another's.
        (about.key == *key).then_some(())?;
        Template::open(directory)
    }

    /// Makes the template of this key, once, however many ask for it at the same time.
    pub(crate) fn build(&self, key: &Key, platform: &Platform) -> Result<Template, TemplateError> {
        let name = key.name();
        let _turn = self.turn(&name)?;
        if let Some(template) = self.find(key) {
            return Ok(template);
        }
        let (half, whole) = (self.path(&name, ".half"), self.path(&name, ""));
        for left in [&half, &whole] {
            remove(left)?;
        }
        DirBuilder::new().mode(0o700).create(&half).map_err(at(&half))?;
        let made = build::build(key, platform, &half).map_err(|source| TemplateError::Build {
            vcpus: key.vcpus,
            ram_bytes: key.ram_bytes,
            source,
        });
        if let Err(error) = made {
            remove(&half)?;
            return Err(error);
        }
        Template::rehearse(key, platform, &half)?;
        let about = About { key: key.clone(), created: record::now() };
        let json = serde_json::to_vec(&about).map_err(io::Error::from).map_err(at(&half))?;
        fs::write(half.join("about.json"), json).map_err(at(&half))?;
        fs::rename(&half, &whole).map_err(at(&whole))?;
        self.find(key).ok_or(TemplateError::NotFound { name })
    }

    /// Every template that something is known about, by name, with the room it takes.
    pub(crate) fn list(&self) -> Result<Vec<(String, About, u64)>, TemplateError> {
        let mut list = Vec::new();
        for item in fs::read_dir(&self.0).map_err(at(&self.0))? {
            let name = item.map_err(at(&self.0))?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.contains('.')) else { continue };
            if let Ok(about) = self.about(name) {
                let memory = fs::metadata(self.path(name, "").join("memory"));
                list.push((
                    name.to_owned(),
                    about,
                    memory.map_or(0, |memory| memory.blocks() * 512),
                ));
            }
        }
        list.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Ok(list)
    }

    /// What is written about a template.
    pub(crate) fn about(&self, name: &str) -> Result<About, TemplateError> {
        let not_found = || TemplateError::NotFound { name: name.to_owned() };
        if !key::is_name(name) {
            return Err(not_found());
        }
        let path = self.path(name, "").join("about.json");
        let json = fs::read(&path).map_err(|_| not_found())?;
        serde_json::from_slice(&json).map_err(io::Error::from).map_err(at(&path))
    }

    /// Takes a template away, and whatever says that there can be none. Who uses it goes on with it.
    pub(crate) fn remove(&self, name: &str) -> Result<(), TemplateError> {
        let not_found = TemplateError::NotFound { name: name.to_owned() };
        if !key::is_name(name) {
            return Err(not_found);
        }
        let _turn = self.turn(name)?;
        let [whole, refused] = ["", ".refused"].map(|ending| self.path(name, ending));
        let known = whole.exists() || refused.exists();
        remove(&whole)?;
        let _ = fs::remove_file(&refused);
        let _ = fs::remove_file(self.path(name, ".lock"));
        if known { Ok(()) } else { Err(not_found) }
    }

    /// The right to change what is called `name`.
    fn turn(&self, name: &str) -> Result<File, TemplateError> {
        let path = self.path(name, ".lock");
        loop {
            let lock = File::options().create(true).append(true).open(&path).map_err(at(&path))?;
            flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
            // Whoever had it before may have taken the file away: then it is nobody's lock any more.
            let ours = lock.metadata().map_err(at(&path))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(lock);
            }
        }
    }
}

impl Template {
    /// The one in `directory`, if it is whole.
    fn open(directory: PathBuf) -> Option<Self> {
        let file = |name: &str| File::open(directory.join(name));
        let (state, memory) = (file("state").ok()?, file("memory").ok()?);
        let working_set = match file("working-set") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            working_set => Some(working_set.ok()?),
        };
        vmm::machine::belong_together(&state, &memory, working_set.as_ref()).ok()?;
        Some(Self { state, memory, working_set, directory })
    }

    /// Learns what a container's beginning touches in the VM of the template in `directory`. Without that its
    /// containers begin slower.
    fn rehearse(key: &Key, platform: &Platform, directory: &Path) -> Result<(), TemplateError> {
        let Some(template) = Self::open(directory.to_owned()) else { return Ok(()) };
        let path = directory.join("working-set");
        let record = File::create_new(&path).map_err(at(&path))?;
        if let Err(error) = rehearse::rehearse(key, platform, template, record, directory) {
            crate::exit::warn(&error);
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(())
    }

    /// It turned out to be of no use: the next start makes another.
    pub(crate) fn discard(directory: &Path) {
        let _ = fs::remove_file(directory.join("about.json"));
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

fn remove(directory: &Path) -> Result<(), TemplateError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error)),
        _ => Ok(()),
    }
}
