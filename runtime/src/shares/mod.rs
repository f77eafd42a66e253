//! Directories and files of the host in a guest: the supervisor's side of a file server.
//!
//! The server is a process of its own beside the VMM ([`server`]), since the VMM opens no path and
//! what serves files to a hostile guest should be able to reach nothing else. The supervisor opens
//! what is shared and sends it over the socket on which the server will then hear the guest's
//! requests; when the server stands in its jail it says so, and the other end of the socket is ready
//! to be given to the VMM.

mod jail;
mod server;
mod sys;
mod view;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::vm::THIS_PROGRAM;

pub(crate) use self::server::be_the_server;

/// The hidden verb behind which this program is a file server.
pub(crate) const VERB: &str = "files";

/// What the guest mounts all shares by; each is a directory or a file in it.
pub(crate) const TAG: &str = "shares";

/// The longest word said before there are requests: a share's name, or why the server cannot serve.
const MAX_WORD_BYTES: usize = 4 << 10;

/// What may be under way in one direction before the sender has to wait.
const SOCKET_BYTES: usize = 1 << 20;

/// A directory or file of the host.
#[derive(Debug)]
pub(crate) struct Share {
    /// Its name in the guest's file share: one component of a path.
    pub(crate) name: String,
    /// The directory or file, opened in any way.
    pub(crate) source: OwnedFd,
    /// The guest cannot write to it.
    pub(crate) read_only: bool,
    /// With everything mounted below it.
    pub(crate) recursive: bool,
}

/// Why nothing can be shared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// It cannot be opened.
    #[error("{}", path.display())]
    Open {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Two have the same name, or one has none.
    #[error("share {name:?} is not a name of its own in a directory")]
    Name {
        /// The name.
        name: String,
    },
    /// There is no process for the server.
    #[error("process of the file server")]
    Process(#[source] io::Error),
    /// The server does not come up, in its own words.
    #[error("file server: {message}")]
    Refused {
        /// The words.
        message: String,
    },
}

impl Share {
    /// What is at `path`, which may be a symbolic link to it.
    pub(crate) fn open(name: &str, path: &Path, read_only: bool) -> Result<Self, ShareError> {
        let source = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| ShareError::Open { path: path.to_owned(), source: errno.into() })?;
        Ok(Self { name: name.to_owned(), source, read_only, recursive: true })
    }

    fn is_name(&self) -> bool {
        let name = self.name.as_str();
        (1..=255).contains(&name.len())
            && !matches!(name, "." | "..")
            && !name.contains(['/', '\0'])
    }
}

/// What the server is told of a share; the descriptor comes along.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    name: String,
    read_only: bool,
    recursive: bool,
}

/// What the server is told before there are requests.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Share(Wanted),
    Serve,
}

/// A file server. It ends when the other end of its socket is closed, at the latest when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a server for `shares`. The descriptor is what the VMM is given.
    pub(crate) fn start(shares: &[Share]) -> Result<(Self, OwnedFd), ShareError> {
        for (at, share) in shares.iter().enumerate() {
            if !share.is_name() || shares[..at].iter().any(|other| other.name == share.name) {
                return Err(ShareError::Name { name: share.name.clone() });
            }
        }
        let (server, socket) = Self::spawn(shares).map_err(ShareError::Process)?;
        let mut word = [0; MAX_WORD_BYTES];
        let (length, _) = recv(&socket, &mut word[..], RecvFlags::empty())
            .map_err(|errno| ShareError::Process(errno.into()))?;
        match serde_json::from_slice(&word[..length]) {
            Ok(Ok(())) => Ok((server, socket)),
            Ok(Err(message)) => Err(ShareError::Refused { message }),
            Err(_) => Err(ShareError::Refused { message: "ended without a word".to_owned() }),
        }
    }

    fn spawn(shares: &[Share]) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&ours, &theirs] {
            // Without the right to it there is the usual, which holds two of the longest messages.
            let _ = set_socket_send_buffer_size_force(end, SOCKET_BYTES);
        }
        let mut command = Command::new(THIS_PROGRAM);
        // In a process group of its own: Ctrl-C is for the container.
        command.arg0("microvm").arg(VERB).process_group(0);
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn()? };
        // It has the server's end of the socket, which must be nobody else's.
        drop(command);
        for share in shares {
            let wanted = Wanted {
                name: share.name.clone(),
                read_only: share.read_only,
                recursive: share.recursive,
            };
            send(&ours, &Order::Share(wanted), Some(&share.source))?;
        }
        send(&ours, &Order::Serve, None)?;
        Ok((server, ours))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What the guest was told is written has been given to the host's kernel.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(socket: &OwnedFd, order: &Order, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let word = serde_json::to_vec(order)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
    if !descriptors.is_empty() {
        along.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // A server that is gone is an error of the call and no signal.
    sendmsg(socket, &[IoSlice::new(&word)], &mut along, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(names: &[&str]) -> Vec<Share> {
        let open = |name: &&str| Share::open(name, Path::new("/"), true).unwrap();
        names.iter().map(open).collect()
    }

    #[test]
    fn a_share_has_a_name_of_its_own() {
        for names in [&[""][..], &["."], &[".."], &["a/b"], &["a\0"], &["a", "b", "a"]] {
            let error = Server::start(&shares(names)).unwrap_err();
            assert!(matches!(error, ShareError::Name { .. }), "{names:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = Share::open("x", Path::new("/no/such/thing"), false).unwrap_err();
        assert_eq!(error.to_string(), "/no/such/thing");
    }
}
