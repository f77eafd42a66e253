//! `--preserve-fds` and `LISTEN_FDS`: descriptors of the caller's that the process is to have, from 3 on.
//!
//! A descriptor cannot go into a VM. What bytes go through can be had there as a double: a pipe for a pipe's end
//! and for a file that is read or written from where it stands, a socket for a stream socket, `/dev/null` for
//! that. Bytes are carried between the two. What is no stream (directories, devices, sockets that listen) is
//! refused by its number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use proto::spec::Preserved;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, major, minor};
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};

use crate::descriptors::{STANDARD, pass_on};

/// Linux's number of `/dev/null` (Documentation/admin-guide/devices.txt).
const NULL: (u32, u32) = (1, 3);

/// Why a descriptor is not handed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreserveError {
    /// Nobody left it to us.
    #[error("--preserve-fds or LISTEN_FDS: descriptor {0} is not open")]
    NotOpen(u32),
    /// Bytes are not all there is to it.
    #[error(
        "--preserve-fds or LISTEN_FDS: descriptor {number} is {what}, which cannot be had in a VM: pipes, connected stream \
         sockets, /dev/null and files that are either read or written can"
    )]
    NoStream {
        /// Its number.
        number: u32,
        /// What it is.
        what: &'static str,
    },
    /// The kernel does not say.
    #[error("--preserve-fds or LISTEN_FDS: descriptor {number}")]
    Io {
        /// Its number.
        number: u32,
        /// Why not.
        source: io::Error,
    },
}

/// How many sockets systemd has handed to this very process (sd_listen_fds(3)).
pub(crate) fn listened() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS").filter(|_| ours).unwrap_or(0)
}

/// What a process is told of so many of them, as runc has it: it is the first of its namespace.
pub(crate) fn told(listened: u32) -> Vec<String> {
    match listened {
        0 => Vec::new(),
        count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
    }
}

/// Takes the first `count` behind the standard ones, which whoever started this process left to it. To be
/// called before anything else is opened, and once.
pub(crate) fn take(count: u32) -> Result<Vec<(Preserved, OwnedFd)>, PreserveError> {
    let numbers = STANDARD..STANDARD.saturating_add(count);
    // All are looked at before one is owned: what is not there may be somebody else's soon.
    for number in numbers.clone() {
        is_left_to_us(number)?;
    }
    let take = |number| {
        // SAFETY: it is open, and was so before this process opened anything: nobody here owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
        pass_on(&descriptor, false).map_err(at(number))?;
        Ok((judge(number, descriptor.as_fd())?, descriptor))
    };
    numbers.map(take).collect()
}

/// Those of ours are closed by `execve`, those that were left to us are not.
fn is_left_to_us(number: u32) -> Result<(), PreserveError> {
    // SAFETY: it is only asked about, and not known to be open by anything but the answer.
    let flags = unsafe { libc::fcntl(number as RawFd, libc::F_GETFD) };
    match flags {
        0 => Ok(()),
        _ => Err(PreserveError::NotOpen(number)),
    }
}

fn at<E: Into<io::Error>>(number: u32) -> impl Fn(E) -> PreserveError {
    move |error| PreserveError::Io { number, source: error.into() }
}

/// What its double is.
fn judge(number: u32, descriptor: BorrowedFd<'_>) -> Result<Preserved, PreserveError> {
    let about = fstat(descriptor).map_err(at(number))?;
    let no_stream = |what| Err(PreserveError::NoStream { number, what });
    match FileType::from_raw_mode(about.st_mode) {
        FileType::Fifo | FileType::RegularFile => {
            match fcntl_getfl(descriptor).map_err(at(number))? & OFlags::ACCMODE {
                OFlags::RDONLY => Ok(Preserved::Input),
                OFlags::WRONLY => Ok(Preserved::Output),
                _ => no_stream("open for reading and writing"),
            }
        }
        FileType::Socket => {
            let listens = socket_acceptconn(descriptor).map_err(at(number))?;
            match socket_type(descriptor).map_err(at(number))? {
                SocketType::STREAM if !listens => Ok(Preserved::Socket),
                SocketType::STREAM => no_stream("a socket that listens"),
                _ => no_stream("a socket of messages"),
            }
        }
        FileType::CharacterDevice if (major(about.st_rdev), minor(about.st_rdev)) == NULL => {
            Ok(Preserved::Null)
        }
        FileType::CharacterDevice | FileType::BlockDevice => no_stream("a device"),
        FileType::Directory => no_stream("a directory"),
        _ => no_stream("no file"),
    }
}

/// Their numbers, for whoever starts a process that is to have them.
pub(crate) fn kinds(preserved: &[(Preserved, OwnedFd)]) -> Vec<Preserved> {
    preserved.iter().map(|(kind, _)| *kind).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn judged(descriptor: impl Into<OwnedFd>) -> Result<Preserved, String> {
        judge(7, descriptor.into().as_fd()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_bytes_go_through_has_a_double() {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(judged(reader), Ok(Preserved::Input));
        assert_eq!(judged(writer), Ok(Preserved::Output));
        assert_eq!(judged(UnixStream::pair().unwrap().0), Ok(Preserved::Socket));
        assert_eq!(judged(File::open("/dev/null").unwrap()), Ok(Preserved::Null));
        assert_eq!(judged(File::open("/proc/self/exe").unwrap()), Ok(Preserved::Input));
    }

    #[test]
    fn what_is_no_stream_is_refused_by_its_number() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        let both = tempfile::tempfile().unwrap();
        for (refused, what) in [
            (judged(listener), "a socket that listens"),
            (judged(datagrams), "a socket of messages"),
            (judged(File::open("/").unwrap()), "a directory"),
            (judged(File::open("/dev/zero").unwrap()), "a device"),
            (judged(both), "open for reading and writing"),
        ] {
            let error = refused.unwrap_err();
            assert!(
                error.starts_with(&format!("--preserve-fds or LISTEN_FDS: descriptor 7 is {what}")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_descriptor_of_our_own_is_not_taken_for_one_that_was_left_to_us() {
        let ours = File::open("/dev/null").unwrap();
        let number = u32::try_from(ours.as_raw_fd()).unwrap();
        assert!(matches!(is_left_to_us(number), Err(PreserveError::NotOpen(_))));
        pass_on(&ours.into(), true).unwrap();
    }
}
