//! Standard input and output: from a connection's first frame to pipes in a process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::frame::{Decoder, FrameError};
use proto::message::ProcessId;
use proto::spec::{Preserved, Process, Stdio};
use proto::stream::{Attach, Stream};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::relay::Relay;
use crate::words::words;

/// Bytes taken at a time while looking for the end of the first frame.
const READ_BYTES: usize = 4 << 10;

/// A connection that has not said yet which stream it is.
pub(crate) struct Caller {
    socket: OwnedFd,
    decoder: Decoder,
}

/// A connection that has.
pub(crate) struct Attached {
    /// Whose stream it is, and which.
    pub(crate) attach: Attach,
    pub(crate) line: Line,
}

/// A connection to the host and the bytes that came right behind its first frame.
pub(crate) struct Line {
    socket: OwnedFd,
    first: Vec<u8>,
}

/// Why a connection for a stream is dropped before it became one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("closed before it said which stream it is")]
    Closed,
    #[error("{}", words(*.0))]
    Broken(Errno),
    #[error("attach of version {theirs}, this agent speaks version {}", proto::VERSION)]
    Version { theirs: u32 },
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Caller {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, AttachError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(AttachError::Broken)?;
        Ok(Self { socket, decoder: Decoder::default() })
    }

    /// Reads on. Gives the stream once its frame is whole, itself back as long as it is not.
    pub(crate) fn read(mut self) -> Result<Result<Attached, Self>, AttachError> {
        let mut bytes = [0; READ_BYTES];
        loop {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return Err(AttachError::Closed),
                Ok(length) => self.decoder.push(&bytes[..length]),
                Err(Errno::AGAIN) => return Ok(Err(self)),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(AttachError::Broken(errno)),
            }
            if let Some(attach) = self.decoder.next::<Attach>()? {
                if attach.version != proto::VERSION {
                    return Err(AttachError::Version { theirs: attach.version });
                }
                let line = Line { socket: self.socket, first: self.decoder.into_rest() };
                return Ok(Ok(Attached { attach, line }));
            }
        }
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Line {
    /// Whoever dialled it is gone, and nobody will ask for its process. Nothing is sent, but asked whether
    /// it could be: one that has ended its input early still reads. Polling does not tell these two apart
    /// on a vsock whose last bytes had not been read when the end came.
    pub(crate) fn is_abandoned(&self) -> bool {
        send(&self.socket, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err()
    }
}

/// Streams that arrived before the call that creates their process.
pub(crate) type Lines = BTreeMap<(ProcessId, Stream), Line>;

/// Descriptors 0, 1, 2 and on of a process about to be made, and what is at their other ends.
pub(crate) struct Laid {
    /// For the process. `/dev/null` where it has no stream, or has a terminal that it will open
    /// itself.
    pub(crate) ends: Vec<OwnedFd>,
    /// For the agent.
    pub(crate) relays: Vec<Relay>,
    /// The connection that waits for the terminal's master.
    pub(crate) terminal: Option<Line>,
}

/// Makes the pipes of process `id` and joins them to its lines, which must all be there.
pub(crate) fn lay(id: &ProcessId, process: &Process, lines: &mut Lines) -> Result<Laid, Errno> {
    let mut take = |stream| lines.remove(&(id.clone(), stream));
    let mut relays = Vec::new();
    let mut end = |kind, line: Option<Line>| match (kind, line) {
        (Preserved::Null, _) | (_, None) => null(),
        (Preserved::Input, Some(line)) => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&writer, true)?;
            relays.push(Relay::input(line.socket, writer, line.first));
            Ok(reader)
        }
        (Preserved::Output, Some(line)) => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&reader, true)?;
            relays.push(Relay::output(line.socket, reader));
            Ok(writer)
        }
        (Preserved::Socket, Some(line)) => {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            relays.push(Relay::both_ways(line.socket, ours, line.first));
            Ok(theirs)
        }
    };
    let mut ends = vec![
        end(Preserved::Input, take(Stream::Stdin))?,
        end(Preserved::Output, take(Stream::Stdout))?,
        end(Preserved::Output, take(Stream::Stderr))?,
    ];
    for (number, kind) in (0..).zip(&process.preserved) {
        ends.push(end(*kind, take(Stream::Preserved(number)))?);
    }
    let terminal = match process.stdio {
        Stdio::Terminal { .. } => take(Stream::Terminal),
        Stdio::Pipes { .. } => None,
    };
    Ok(Laid { ends, relays, terminal })
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Line {
    /// Joins the line to a terminal.
    pub(crate) fn join_terminal(self, master: OwnedFd) -> Result<Relay, Errno> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Relay::both_ways(self.socket, master, self.first))
    }
}

fn null() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}
