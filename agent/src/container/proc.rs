//! A container's own `/proc`, as its processes see it.
//!
//! Everything below a container's root is the container's to make. What is read here is on the proc file
//! system that is mounted there, and nothing that was put over a part of it: neither a pipe that never
//! says anything nor a link that leads elsewhere.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags, fstatfs, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::process::Pid;

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const MAGIC: i64 = 0x9fa0;

/// The most that is read of a file.
const FILE_BYTES: usize = 4 << 10;

/// What there is to read of a process, but for its link.
const FILES: [&str; 3] = ["stat", "status", "cmdline"];

/// It, opened.
pub(crate) struct Proc(OwnedFd);

impl Proc {
    /// Of the container whose first process is `first`.
    pub(crate) fn of(first: Pid) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = format!("/proc/{}/root", first.as_raw_nonzero());
        let root = openat(rustix::fs::CWD, root, flags, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let proc = openat2(&root, "proc", flags, Mode::empty(), resolve)?;
        if fstatfs(&proc)?.f_type as i64 != MAGIC {
            return Err(Errno::NOENT);
        }
        Ok(Self(proc))
    }

    /// What `path` says, see [`proto::message::Request::ReadProc`]. `None` if it is not there, or not for
    /// asking.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        if path == "." {
            return self.numbers().ok();
        }
        if path == "stat" {
            return self.content(path).ok();
        }
        let (number, file) = path.split_once('/')?;
        is_number(number).then_some(())?;
        match file {
            "ns/pid" => readlinkat(&self.0, path, []).ok()?.into_string().ok(),
            file if FILES.contains(&file) => self.content(path).ok(),
            _ => None,
        }
    }

    fn content(&self, path: &str) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        let mut bytes = vec![0; FILE_BYTES];
        let mut length = 0;
        while length < bytes.len() {
            match rustix::io::read(&file, &mut bytes[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn numbers(&self) -> Result<String, Errno> {
        let mut space = Vec::with_capacity(8 << 10);
        let mut entries = RawDir::new(&self.0, space.spare_capacity_mut());
        let mut numbers = String::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if is_number(&name) {
                numbers.push_str(&name);
                numbers.push('\n');
            }
        }
        Ok(numbers)
    }
}

/// As `/proc` writes them.
fn is_number(word: &str) -> bool {
    (1..=10).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}
