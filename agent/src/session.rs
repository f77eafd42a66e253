//! One session: hello both ways, then calls in and answers out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::frame::{self, Decoder, FrameError};
use proto::message::{Answer, Call, FaultKind, Hello};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::faults::fault;
use crate::words::words;

/// Bytes taken from a connection at a time.
const READ_BYTES: usize = 4 << 10;

/// A connection on which calls are made.
pub struct Session {
    socket: OwnedFd,
    decoder: Decoder,
    unsent: Vec<u8>,
    greeted: bool,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// In order, between two frames or in one.
    #[error("the host closed the session")]
    Closed,
    /// What a vsock says when the whole transport was reset, as a restore does.
    #[error("the connection was reset")]
    Reset,
    /// The socket failed otherwise.
    #[error("{}", words(*.0))]
    Broken(Errno),
    /// The host says hello in a version this agent does not speak.
    #[error("the host speaks version {theirs}, this agent version {}", proto::VERSION)]
    Version {
        /// The host's.
        theirs: u32,
    },
    /// What came is no frame, or not the one that belongs here.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Session {
    /// Says hello on a new connection.
    pub fn open(socket: OwnedFd, hello: &Hello) -> Result<Self, SessionEnd> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(SessionEnd::Broken)?;
        let decoder = Decoder::default();
        let mut session = Self { socket, decoder, unsent: Vec::new(), greeted: false };
        session.say(frame::encode(hello)?)?;
        Ok(session)
    }

    /// The calls that have arrived. The end of the session may stand behind some of them.
    pub(crate) fn calls(&mut self) -> (Vec<Call>, Option<SessionEnd>) {
        let mut calls = Vec::new();
        let end = self.collect(&mut calls).err();
        (calls, end)
    }

    fn collect(&mut self, calls: &mut Vec<Call>) -> Result<(), SessionEnd> {
        self.flush()?;
        let mut bytes = [0; READ_BYTES];
        loop {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return Err(SessionEnd::Closed),
                Ok(length) => self.decoder.push(&bytes[..length]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                // The second is what Linux's vsock says of a connection whose transport was reset: it is
                // none any more, and nobody has ended it in order.
                Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(SessionEnd::Reset),
                Err(errno) => return Err(SessionEnd::Broken(errno)),
            }
            if !self.greeted {
                match self.decoder.next::<Hello>()? {
                    None => continue,
                    Some(hello) if hello.version == proto::VERSION => self.greeted = true,
                    Some(hello) => return Err(SessionEnd::Version { theirs: hello.version }),
                }
            }
            while let Some(call) = self.decoder.next()? {
                calls.push(call);
            }
        }
    }

    /// Answers a call, at once or as soon as the host reads again. How much there is to say can be
    /// a container's doing, so an answer that is too long becomes a fault and not the session's end.
    pub(crate) fn answer(&mut self, answer: &Answer) -> Result<(), SessionEnd> {
        let frame = frame::encode(answer).or_else(|error| {
            let fault = fault(FaultKind::System, format!("answer: {error}"));
            frame::encode(&Answer { id: answer.id, result: Err(fault) })
        });
        self.say(frame?)
    }

    fn say(&mut self, frame: Vec<u8>) -> Result<(), SessionEnd> {
        self.unsent.extend(frame);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SessionEnd> {
        while !self.unsent.is_empty() {
            match rustix::net::send(&self.socket, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(SessionEnd::Broken(errno)),
            }
        }
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
