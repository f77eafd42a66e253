//! Directories and files of the host in a guest: the supervisor's side of a file server.
//!
//! The server is a process of its own beside the VMM ([`server`]), since the VMM opens no path and
//! what serves files to a hostile guest should be able to reach nothing else. The supervisor opens
//! what is shared and sends it over the socket on which the server will then hear the guest's
//! requests; when the server stands in its jail it says so, and the other end of the socket is ready
//! to be given to the VMM.

mod beliefs;
mod close_to_open;
mod jail;
mod requests;
mod server;
mod submounts;
mod sys;
mod view;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proto::spec::Submount;
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use serde::{Deserialize, Serialize};

use crate::birth::Newborn;
use crate::descriptors;
use crate::plan::{Holds, Shared};
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
    /// What holds for it here.
    pub(crate) holds: Holds,
    /// With everything mounted below it.
    pub(crate) recursive: bool,
    /// What that is.
    pub(crate) submounts: Vec<Submount>,
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
    /// What is mounted below cannot be told.
    #[error("mounts below {}", path.display())]
    Submounts {
        /// Below what.
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
    /// Opens what is planned to be shared; its path may be that of a symbolic link to it.
    pub(crate) fn open(planned: &Shared) -> Result<Self, ShareError> {
        let Shared { name, path, holds, recursive } = planned;
        let source = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| ShareError::Open { path: path.clone(), source: errno.into() })?;
        let (holds, recursive) = (*holds, *recursive);
        let submounts = match recursive {
            true => submounts::below(source.as_fd())
                .map_err(|source| ShareError::Submounts { path: path.clone(), source })?,
            false => Vec::new(),
        };
        Ok(Self { name: name.clone(), source, holds, recursive, submounts })
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
    holds: Holds,
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
    process: Newborn,
}

impl Server {
    /// Starts a server for `shares`, in a cgroup or where we are. The descriptor is what the VMM is given.
    pub(crate) fn start(
        shares: &[Share],
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(Self, OwnedFd), ShareError> {
        for (at, share) in shares.iter().enumerate() {
            if !share.is_name() || shares[..at].iter().any(|other| other.name == share.name) {
                return Err(ShareError::Name { name: share.name.clone() });
            }
        }
        let (server, socket) = Self::spawn(shares, cgroup).map_err(ShareError::Process)?;
        let mut word = [0; MAX_WORD_BYTES];
        let (length, _) = recv(&socket, &mut word[..], RecvFlags::empty())
            .map_err(|errno| ShareError::Process(errno.into()))?;
        match serde_json::from_slice(&word[..length]) {
            Ok(Ok(())) => Ok((server, socket)),
            Ok(Err(message)) => Err(ShareError::Refused { message }),
            Err(_) => Err(ShareError::Refused { message: "ended without a word".to_owned() }),
        }
    }

    fn spawn(shares: &[Share], cgroup: Option<BorrowedFd<'_>>) -> io::Result<(Self, OwnedFd)> {
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
        let server = Self { process: Newborn::start(&mut command, cgroup)? };
        // It has the server's end of the socket, which must be nobody else's.
        drop(command);
        for share in shares {
            let wanted =
                Wanted { name: share.name.clone(), holds: share.holds, recursive: share.recursive };
            let order = serde_json::to_vec(&Order::Share(wanted))?;
            descriptors::send(&ours, &order, Some(share.source.as_fd()))?;
        }
        descriptors::send(&ours, &serde_json::to_vec(&Order::Serve)?, None)?;
        Ok((server, ours))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What the guest was told is written has been given to the host's kernel.
        self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(names: &[&str]) -> Vec<Share> {
        names.iter().map(|name| Share::open(&planned(name, "/")).unwrap()).collect()
    }

    fn planned(name: &str, path: &str) -> Shared {
        Shared {
            name: name.to_owned(),
            path: path.into(),
            holds: Holds::read_only_if(true),
            recursive: true,
        }
    }

    #[test]
    fn a_share_has_a_name_of_its_own() {
        for names in [&[""][..], &["."], &[".."], &["a/b"], &["a\0"], &["a", "b", "a"]] {
            let error = Server::start(&shares(names), None).unwrap_err();
            assert!(matches!(error, ShareError::Name { .. }), "{names:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = Share::open(&planned("x", "/no/such/thing")).unwrap_err();
        assert_eq!(error.to_string(), "/no/such/thing");
    }
}
