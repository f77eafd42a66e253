//! The line between the agent and a process it is making.
//!
//! A pair of `SOCK_SEQPACKET` sockets. A child in a user namespace of its own waits until it was said
//! there who is who. The child says that it is ready (with its terminal, if it has one) or why it cannot
//! be; before that, what its root is made of, if that has layers, and the file by which it knows others. It then
//! waits for a word to go on, and calls `execve`, which closes its end: end of file is the news that the program
//! runs. If `execve` fails it says why instead.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::frame;
use proto::message::Fault;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Room for one packet. A [`Fault`] is a sentence with a path or two in it.
const PACKET_BYTES: usize = 16 << 10;

/// What a child says, with descriptors; or why it cannot be.
type Word = Result<u8, Fault>;
/// That it is ready, with its terminal.
const READY: u8 = 0;
/// What its root is made of.
const LAYERS: u8 = 1;
/// The file by which its container knows others.
const ACQUAINTANCES: u8 = 2;

/// The two directories that a root from a disk is made of.
#[derive(Debug)]
pub(crate) struct Layers {
    /// What the container has written.
    pub(crate) upper: OwnedFd,
    /// The image.
    pub(crate) lower: OwnedFd,
}

/// Both ends of a new line.
pub(crate) fn pair() -> Result<(AgentEnd, ChildEnd), Errno> {
    let (agent, child) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    Ok((AgentEnd(agent), ChildEnd(child)))
}

/// The agent's end.
pub(crate) struct AgentEnd(OwnedFd);

/// What the agent hears.
pub(crate) enum News {
    /// The process is set up and waits for [`AgentEnd::go`].
    Ready {
        /// The master of its terminal.
        terminal: Option<OwnedFd>,
    },
    /// What its root is made of, for who asks what was changed in it. More follows.
    Layers(Layers),
    /// The file by which its container knows others. More follows.
    Acquaintances(OwnedFd),
    /// It could not be set up, or its program not be executed. It ends now.
    Fault(Fault),
    /// Its end is closed: the program runs, or the process is dead.
    Closed,
}

impl AgentEnd {
    /// The next piece of news, `None` if there is none yet.
    pub(crate) fn hear(&self) -> Option<News> {
        let mut bytes = vec![0; PACKET_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let packet = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(&self.0, packet, &mut ancillary, flags) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => 0,
        };
        if length == 0 {
            return Some(News::Closed);
        }
        let mut descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => vec![],
        });
        let json = bytes.get(frame::PREFIX_BYTES..length).unwrap_or_default();
        Some(match frame::decode::<Word>(json) {
            Ok(Ok(READY)) => News::Ready { terminal: descriptors.next() },
            Ok(Ok(LAYERS)) => match (descriptors.next(), descriptors.next()) {
                (Some(upper), Some(lower)) => News::Layers(Layers { upper, lower }),
                _ => News::Closed,
            },
            Ok(Ok(ACQUAINTANCES)) => descriptors.next().map_or(News::Closed, News::Acquaintances),
            Ok(Err(fault)) => News::Fault(fault),
            // The child is this very program: what it says can only be cut short by its death.
            Ok(Ok(_)) | Err(_) => News::Closed,
        })
    }

    /// Lets the process go. If it is dead, its end is reported elsewhere.
    pub(crate) fn go(&self) {
        let _ = rustix::net::send(&self.0, b"!", SendFlags::NOSIGNAL);
    }
}

impl AsFd for AgentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The child's end; closed by a successful `execve`.
pub(crate) struct ChildEnd(OwnedFd);

impl ChildEnd {
    /// The same under a number that is not below `first`.
    pub(crate) fn above(self, first: usize) -> Result<Self, Errno> {
        let first = i32::try_from(first).map_err(|_| Errno::MFILE)?;
        rustix::io::fcntl_dupfd_cloexec(&self.0, first).map(Self)
    }

    /// Says that the process is ready, and waits to be let go. Returns whether it was: the agent
    /// may end first.
    pub(crate) fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> bool {
        let descriptors: Vec<_> = terminal.into_iter().collect();
        self.say(&Ok(READY), &descriptors).is_ok() && self.waits()
    }

    /// Hands over what its root is made of.
    pub(crate) fn hand_over(&self, layers: &Layers) -> Result<(), Errno> {
        self.say(&Ok(LAYERS), &[layers.upper.as_fd(), layers.lower.as_fd()])
    }

    /// Hands over the file by which its container knows others.
    pub(crate) fn introduce(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.say(&Ok(ACQUAINTANCES), &[file])
    }

    /// Waits for a word to go on. Returns whether it came.
    pub(crate) fn waits(&self) -> bool {
        matches!(rustix::io::read(&self.0, &mut [0]), Ok(1))
    }

    /// Says why the process cannot be.
    pub(crate) fn fault(&self, fault: Fault) {
        // Nobody else could be told if this fails; the agent then sees the end of the process.
        let _ = self.say(&Err(fault), &[]);
    }

    fn say(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let bytes = frame::encode(word).map_err(|_| Errno::MSGSIZE)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let packet = &[IoSlice::new(&bytes)];
        sendmsg(&self.0, packet, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proto::message::FaultKind;

    use super::*;

    #[test]
    fn a_terminal_arrives_with_the_news_that_its_process_is_ready() {
        let (agent, child) = pair().unwrap();
        assert!(agent.hear().is_none());
        agent.go();
        let (near, far) = rustix::pipe::pipe().unwrap();
        assert!(child.ready(Some(far.as_fd())));
        let Some(News::Ready { terminal: Some(terminal) }) = agent.hear() else {
            panic!("no terminal")
        };
        rustix::io::write(terminal, b"x").unwrap();
        assert_eq!(rustix::io::read(near, &mut [0]), Ok(1));
    }

    #[test]
    fn a_fault_of_any_length_a_path_can_have_comes_whole_and_before_the_end() {
        let (agent, child) = pair().unwrap();
        let message = "/long".repeat(800);
        let fault = Fault { kind: FaultKind::InvalidSpec, message };
        child.fault(fault.clone());
        drop(child);
        assert!(matches!(agent.hear(), Some(News::Fault(heard)) if heard == fault));
        assert!(matches!(agent.hear(), Some(News::Closed)));
    }

    #[test]
    fn a_child_whose_agent_is_gone_is_not_let_go() {
        let (agent, child) = pair().unwrap();
        drop(agent);
        assert!(!child.ready(None));
    }
}
