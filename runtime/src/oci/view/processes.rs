//! A `/proc` of the guest's processes, for those who look for them on the host: `podman top` reads it in
//! the mount namespace of the container's process.
//!
//! It is a FUSE file system whose answers are the guest's, file by file, as it is asked. Nothing is kept
//! and nobody is asked as long as nobody looks. What the guest says is text for a reader, who has to
//! expect anything from a container's `/proc` in any case.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{FsOptions, OpenOptions, stat64};
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem, ZeroCopyWriter};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::threads;

/// The longest request: nothing is written here (`FUSE_MIN_READ_BUFFER`).
const REQUEST_BYTES: usize = 8 << 10;

/// The longest reply: what a kernel reads at once, and a header.
const REPLY_BYTES: usize = (1 << 20) + (4 << 10);

/// Reads files of the container's `/proc`, see [`proto::message::Request::ReadProc`].
pub(in crate::oci) trait Ask:
    Fn(Vec<String>) -> io::Result<Vec<(String, String)>> + Send + Sync
{
}

impl<F: Fn(Vec<String>) -> io::Result<Vec<(String, String)>> + Send + Sync> Ask for F {}

/// Mounts it, in no place yet, and answers those who look, with a thread that ends with the mount.
pub(super) fn mount(ask: impl Ask + 'static) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = openat(CWD, "/dev/fuse", flags, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", "guest"),
        ("fd", &device.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_set_flag(&context, "allow_other")?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, flags, attributes)?;
    let server = Server::new(Processes { ask, kept: Mutex::default(), last: AtomicU64::new(0) });
    threads::small("processes").spawn(move || serve(&server, &device))?;
    Ok(mount)
}

fn serve(server: &Server<Processes<impl Ask>>, device: &OwnedFd) {
    let mut request = vec![0; REQUEST_BYTES];
    let mut reply = Vec::new();
    loop {
        let bytes = match rustix::io::read(device, &mut request) {
            Ok(bytes) => bytes,
            // Whoever asked has left meanwhile.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(_) => return,
        };
        // Only when somebody looks: most containers are never looked at.
        reply.resize(REPLY_BYTES, 0);
        let Ok(reader) = Reader::<()>::from_fuse_buffer(FuseBuf::new(&mut request[..bytes])) else {
            continue;
        };
        if let Ok(writer) = FuseDevWriter::<()>::new(device.as_raw_fd(), &mut reply) {
            let _ = server.handle_message(reader, writer.into(), None, None);
        }
    }
}

/// The file system.
struct Processes<A> {
    ask: A,
    /// What was read when somebody opened it, until he closes it: it is read in pieces, and has to be of
    /// one moment.
    kept: Mutex<BTreeMap<u64, String>>,
    last: AtomicU64,
}

/// Files of a process, in the order of their numbers.
const FILES: [&str; 3] = ["stat", "status", "cmdline"];

/// What there is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Top,
    /// When the guest was started, among other things.
    Stat,
    Process(u32),
    File(u32, usize),
    Namespaces(u32),
    PidNamespace(u32),
}

/// Places in a process's numbers behind those of [`FILES`].
const NAMESPACES: u64 = 4;
const PID_NAMESPACE: u64 = 5;

impl Node {
    /// Its inode's number: 1 is the top, as FUSE has it; eight are a process's.
    fn number(self) -> u64 {
        let of = |pid: u32, place: u64| u64::from(pid) << 3 | place;
        match self {
            Self::Top => 1,
            Self::Stat => 2,
            Self::Process(pid) => of(pid, 0),
            Self::File(pid, file) => of(pid, 1 + file as u64),
            Self::Namespaces(pid) => of(pid, NAMESPACES),
            Self::PidNamespace(pid) => of(pid, PID_NAMESPACE),
        }
    }

    fn of(number: u64) -> Option<Self> {
        let pid = u32::try_from(number >> 3).ok()?;
        Some(match (pid, number & 7) {
            (0, 1) => Self::Top,
            (0, 2) => Self::Stat,
            (0, _) => return None,
            (pid, 0) => Self::Process(pid),
            (pid, NAMESPACES) => Self::Namespaces(pid),
            (pid, PID_NAMESPACE) => Self::PidNamespace(pid),
            (pid, file @ 1..=3) => Self::File(pid, file as usize - 1),
            _ => return None,
        })
    }

    fn below(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Top, "stat") => Some(Self::Stat),
            (Self::Top, name) => match name.parse() {
                Ok(pid) if pid > 0 && !name.starts_with(['+', '0']) => Some(Self::Process(pid)),
                _ => None,
            },
            (Self::Process(pid), "ns") => Some(Self::Namespaces(pid)),
            (Self::Process(pid), name) => {
                let file = FILES.iter().position(|file| *file == name)?;
                Some(Self::File(pid, file))
            }
            (Self::Namespaces(pid), "pid") => Some(Self::PidNamespace(pid)),
            _ => None,
        }
    }

    /// Where the guest has it.
    fn path(self) -> String {
        match self {
            Self::Top => ".".to_owned(),
            Self::Stat => "stat".to_owned(),
            Self::Process(pid) => pid.to_string(),
            Self::File(pid, file) => format!("{pid}/{}", FILES[file]),
            Self::Namespaces(pid) => format!("{pid}/ns"),
            Self::PidNamespace(pid) => format!("{pid}/ns/pid"),
        }
    }

    fn kind(self) -> u32 {
        match self {
            Self::Top | Self::Process(_) | Self::Namespaces(_) => libc::S_IFDIR | 0o555,
            Self::Stat | Self::File(..) => libc::S_IFREG | 0o444,
            Self::PidNamespace(_) => libc::S_IFLNK | 0o777,
        }
    }

    fn attributes(self) -> stat64 {
        // SAFETY: numbers alone, for which zero is a value.
        let mut attributes: stat64 = unsafe { std::mem::zeroed() };
        attributes.st_ino = self.number();
        attributes.st_mode = self.kind();
        attributes.st_nlink = 1;
        attributes.st_blksize = 4096;
        attributes
    }
}

impl<A: Ask> Processes<A> {
    fn read(&self, node: Node) -> io::Result<String> {
        let mut said = (self.ask)(vec![node.path()])?;
        let (_, text) = said.pop().ok_or(Errno::NOENT)?;
        Ok(text)
    }

    /// The names in a directory, one in a line.
    fn names(&self, node: Node) -> io::Result<String> {
        match node {
            Node::Top => self.read(node).map(|numbers| numbers + "stat\n"),
            Node::Process(_) => Ok(FILES.join("\n") + "\nns\n"),
            Node::Namespaces(_) => Ok("pid\n".to_owned()),
            Node::Stat | Node::File(..) | Node::PidNamespace(_) => Err(Errno::NOTDIR.into()),
        }
    }

    fn keep(&self, text: String) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, text);
        handle
    }

    fn forget(&self, handle: u64) -> io::Result<()> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        Ok(())
    }
}

fn node(number: u64) -> io::Result<Node> {
    Node::of(number).ok_or_else(|| Errno::NOENT.into())
}

impl<A: Ask> FileSystem for Processes<A> {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::empty())
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = name.to_str().map_err(|_| Errno::NOENT)?;
        let found = node(parent)?.below(name).ok_or(Errno::NOENT)?;
        // Nothing is believed for any time: processes come and go.
        Ok(Entry {
            inode: found.number(),
            generation: 0,
            attr: found.attributes(),
            attr_flags: 0,
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        })
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((node(inode)?.attributes(), Duration::ZERO))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.read(node(inode)?).map(String::into_bytes)
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let handle = self.keep(self.read(node(inode)?)?);
        // Its length is not known before: it is read to its end.
        Ok((Some(handle), OpenOptions::DIRECT_IO, None))
    }

    fn read(
        &self,
        _: &Context,
        _: u64,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = kept.get(&handle).ok_or(Errno::BADF)?.as_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..));
        let rest = rest.unwrap_or_default();
        let piece = &rest[..rest.len().min(size as usize)];
        to.write_all(piece)?;
        Ok(piece.len())
    }

    fn release(
        &self,
        _: &Context,
        _: u64,
        _: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        self.forget(handle)
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let handle = self.keep(self.names(node(inode)?)?);
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        _: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let directory = node(inode)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let names = kept.get(&handle).ok_or(Errno::BADF)?;
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, name) in names.lines().enumerate().skip(first) {
            // A guest may call its processes what it likes; what is no number is none.
            let Some(found) = directory.below(name) else { continue };
            let entry = DirEntry {
                ino: found.number(),
                offset: at as u64 + 1,
                type_: (found.kind() & libc::S_IFMT) >> 12,
                name: name.as_bytes(),
            };
            if add_entry(entry)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, _: &Context, _: u64, _: u32, handle: u64) -> io::Result<()> {
        self.forget(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_found_again_by_its_number() {
        for node in [
            Node::Top,
            Node::Stat,
            Node::Process(1),
            Node::File(7, 0),
            Node::File(u32::MAX, 2),
            Node::Namespaces(7),
            Node::PidNamespace(4_194_304),
        ] {
            assert_eq!(Node::of(node.number()), Some(node));
        }
        assert_eq!([0, 3, 14, 15, u64::MAX].map(Node::of), [None; 5]);
    }

    #[test]
    fn names_that_are_no_processes_lead_nowhere() {
        assert_eq!(Node::Top.below("12"), Some(Node::Process(12)));
        for name in ["", "0", "+1", "01", "-1", "1x", "4294967296", "self", "..", "ns"] {
            assert_eq!(Node::Top.below(name), None, "{name}");
        }
        assert_eq!(Node::Process(1).below("environ"), None);
        assert_eq!(Node::Process(1).below("cmdline").unwrap().path(), "1/cmdline");
    }
}
