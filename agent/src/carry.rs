//! A child that never becomes another program: it carries files between a container and the host.
//!
//! It stands in the container's mounts (and users), and nowhere else of its. Paths come from the host and lead
//! through links of the container's, so they are resolved in its root; what is below is the host's to say,
//! and there no link is followed at all ([`transfer`]).

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proto::files::{BadPath, Bytes, Work, parts};
use proto::message::Fault;
use rustix::fs::{FileType, Mode, OFlags, fstat, readlinkat};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use transfer::{Layer, MOST_ENTRIES, Put, PutError, Receiver, Rules, Sender, WalkError, walk};

use crate::birth::Guest;
use crate::childhood::{Join, shed};
use crate::container::namespaces;
use crate::container::within::Within;
use crate::container::{copy_of_one, is_directory};
use crate::control::{ChildEnd, Layers};
use crate::faults::refused;
use crate::sys;
use crate::words::words;

/// As many symbolic links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// What comes from the host is put as it is: the container is the wall.
const AS_SAID: Rules = Rules { owners: true, powers: true };

/// Why files cannot be carried.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error("{}: {}", path.display(), words(*.errno))]
    Path { path: PathBuf, errno: Errno },
    #[error("{} is no directory", path.display())]
    NoDirectory { path: PathBuf },
    #[error("its root is no image's, so there are no changes to one")]
    NoLayers,
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Put(#[from] PutError),
}

impl Guest {
    /// The child's whole life.
    pub(crate) fn carry(
        &self,
        work: &Work,
        join: Join<'_>,
        layers: Option<&Layers>,
        ends: &[OwnedFd],
        control: ChildEnd,
    ) -> ! {
        match self.settle_in(join, layers, ends, &control) {
            Err(fault) => control.fault(fault),
            Ok(()) if control.ready(None) => {
                // Closed, it says that the work has begun.
                drop(control);
                sys::exit_now(i32::from(!carry_out(work, layers)));
            }
            Ok(()) => {}
        }
        sys::exit_now(1)
    }

    fn settle_in(
        &self,
        Join { pidfd, users }: Join<'_>,
        layers: Option<&Layers>,
        ends: &[OwnedFd],
        control: &ChildEnd,
    ) -> Result<(), Fault> {
        let [upper, lower] = match layers {
            Some(Layers { upper, lower }) => [Some(upper.as_fd()), Some(lower.as_fd())],
            None => [None, None],
        };
        shed(ends, &[], &[Some(control.as_fd()), Some(pidfd), upper, lower])?;
        let mut kinds = ThreadNameSpaceType::MOUNT;
        kinds.set(ThreadNameSpaceType::USER, users);
        move_into_thread_name_spaces(pidfd, kinds).map_err(refused("namespaces"))?;
        if users {
            namespaces::take_root().map_err(refused("user namespace"))?;
        }
        rustix::process::umask(Mode::empty());
        Ok(())
    }
}

/// Does the work on standard input and output, and says there if it cannot be done.
fn carry_out(work: &Work, layers: Option<&Layers>) -> bool {
    let Ok(output) = rustix::stdio::stdout().try_clone_to_owned() else { return false };
    let mut sink = Sender::new(BufWriter::with_capacity(64 << 10, File::from(output)));
    match begin(work, layers, &mut sink) {
        Ok(()) => sink.end().is_ok(),
        Err(error) => {
            // In the middle of a file nobody hears it, and the stream ends too early, which is heard.
            let _ = sink.failed(&error.to_string());
            false
        }
    }
}

fn begin<W: Write>(
    work: &Work,
    layers: Option<&Layers>,
    sink: &mut Sender<W>,
) -> Result<(), CarryError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |errno| CarryError::Path { path, errno }
    };
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(at(Path::new("/")))?;
    let (root, merged) = (Within::new(&root), root.as_fd());
    match work {
        Work::Look { path } => {
            let path = from_root(path);
            match root.find(&path) {
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                found => look(&found.map_err(at(&path))?, sink),
            }
        }
        Work::Read { path, follow } => {
            let path = from_root(path);
            let (parent, name) = place(&root, &path, *follow).map_err(at(&path))?;
            Ok(walk(parent, &name, None, sink)?)
        }
        Work::Write { directory, name, follow } => {
            let directory = from_root(directory);
            let (into, name) = match name {
                Some(name) => {
                    if parts(name).map_err(PutError::from)?.len() != 1 {
                        let path = name.clone();
                        return Err(PutError::from(BadPath { path }).into());
                    }
                    let path = directory.join(std::ffi::OsStr::from_bytes(&name.0));
                    let (into, name) = place(&root, &path, *follow).map_err(at(&path))?;
                    (into, Some(name))
                }
                None => (root.find(&directory).map_err(at(&directory))?, None),
            };
            if !is_directory(&into).map_err(at(&directory))? {
                return Err(CarryError::NoDirectory { path: directory });
            }
            let Ok(input) = rustix::stdio::stdin().try_clone_to_owned() else {
                return Err(at(&directory)(Errno::BADF));
            };
            let source = BufReader::with_capacity(64 << 10, File::from(input));
            Ok(Put::new(into, name, AS_SAID)?.all(&mut Receiver::new(source, MOST_ENTRIES))?)
        }
        Work::Root => {
            let path = Path::new("/");
            let tree = copy_of_one(path).map_err(at(path))?;
            Ok(walk(tree, b".", None, sink)?)
        }
        Work::Changes { names_only } => {
            let Layers { upper, lower } = layers.ok_or(CarryError::NoLayers)?;
            let layer = Layer { lower: lower.as_fd(), root: merged, names_only: *names_only };
            Ok(walk(upper, b".", Some(&layer), sink)?)
        }
    }
}

/// Says what it is, and nothing that is in it.
fn look<W: Write>(found: &OwnedFd, sink: &mut Sender<W>) -> Result<(), CarryError> {
    use proto::files::{Entry, Kind};
    let stat = fstat(found).map_err(|errno| CarryError::Path { path: PathBuf::new(), errno })?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory { opaque: false },
        _ => Kind::File { bytes: 0 },
    };
    let entry = Entry {
        path: Bytes::default(),
        kind,
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, 0),
        xattrs: vec![],
        covers: false,
    };
    Ok(sink.entry(entry).map_err(WalkError::from)?)
}

fn from_root(path: &Bytes) -> PathBuf {
    Path::new("/").join(std::ffi::OsStr::from_bytes(&path.0))
}

/// The directory that `path` is in, and what it is called there. With `follow`, a link that stands there is
/// followed, also to where nothing is yet.
fn place(root: &Within<'_>, path: &Path, follow: bool) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root, or something that ends in `..`: a directory, by any name.
            return Ok((root.find(&path)?, b".".to_vec()));
        };
        let directory = root.find(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = rustix::fs::openat(&directory, name, flags, Mode::empty());
        let is_link = match there {
            Err(Errno::NOENT) => false,
            there => FileType::from_raw_mode(fstat(there?)?.st_mode) == FileType::Symlink,
        };
        if !(follow && is_link) {
            return Ok((directory, name.as_bytes().to_vec()));
        }
        let to = readlinkat(&directory, name, Vec::new())?;
        path = parent.join(std::ffi::OsStr::from_bytes(to.as_bytes()));
    }
    Err(Errno::LOOP)
}
