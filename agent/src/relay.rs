//! Carrying bytes between a connection to the host and a descriptor of a process.
//!
//! A process never holds the connection itself: it gets a pipe or a terminal, as programs expect
//! (`/dev/stdout` can be opened, a full pipe blocks the writer). One relay joins one connection with
//! the agent's end of that. Each direction holds at most one buffer and reads again only when it is
//! empty, so a slow reader slows the writer down and memory stays bounded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

/// Bytes a direction holds at most: what a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes it holds to begin with. Most streams carry a line or two, and every page counts.
const FIRST_BYTES: usize = 4 << 10;

/// Buffers a direction carries before others get their turn.
const TURN: usize = 16;

/// A connection and a pipe's or terminal's end, joined.
pub(crate) struct Relay {
    connection: OwnedFd,
    local: OwnedFd,
    inward: Option<Flow>,
    outward: Option<Flow>,
}

/// What a relay is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Its turn was over before its work was: it wants another.
    pub(crate) again: bool,
    /// Everything that came from the process was given to the host and its stream closed, or the
    /// host has gone. True from the beginning for a relay that only carries input.
    pub(crate) drained: bool,
    /// Nothing is left to carry: drop it.
    pub(crate) over: bool,
}

impl Relay {
    /// Standard input: from the connection to the pipe. `first` came with the connection's first
    /// frame.
    pub(crate) fn input(connection: OwnedFd, pipe: OwnedFd, first: Vec<u8>) -> Self {
        Self { connection, local: pipe, inward: Some(Flow::new(first)), outward: None }
    }

    /// Standard output or error: from the pipe to the connection.
    pub(crate) fn output(connection: OwnedFd, pipe: OwnedFd) -> Self {
        let outward = Some(Flow::new(Vec::new()));
        Self { connection, local: pipe, inward: None, outward }
    }

    /// Both ways between the connection and a terminal's master, or a socket.
    pub(crate) fn both_ways(connection: OwnedFd, local: OwnedFd, first: Vec<u8>) -> Self {
        let outward = Some(Flow::new(Vec::new()));
        Self { connection, local, inward: Some(Flow::new(first)), outward }
    }

    /// Both descriptors, to be watched.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.connection.as_fd(), self.local.as_fd()]
    }

    /// Whether it carries anything to the host.
    pub(crate) fn is_output(&self) -> bool {
        self.outward.is_some()
    }

    /// The process's side: the master of a terminal.
    pub(crate) fn local(&self) -> BorrowedFd<'_> {
        self.local.as_fd()
    }

    /// The process has ended: nobody reads its input any more. If it `left_others` behind that can
    /// go on writing, only what is there already will be carried; if not, everything is, to the end
    /// of file that is sure to come.
    pub(crate) fn process_ended(&mut self, left_others: bool) -> Turn {
        self.inward = None;
        if let Some(flow) = self.outward.as_mut().filter(|_| left_others) {
            // A terminal hands over what was written a moment later; asking whether it is readable
            // waits for that. The answer itself comes from the reads.
            let mut ask = [PollFd::new(&self.local, PollFlags::IN)];
            let _ = rustix::event::poll(&mut ask, Some(&rustix::event::Timespec::default()));
            let held = rustix::pipe::fcntl_getpipe_size(&self.local).unwrap_or(BUFFER_BYTES);
            flow.allowance = Some(held);
        }
        self.turn()
    }

    /// Carries what can be carried.
    pub(crate) fn turn(&mut self) -> Turn {
        let mut again = false;
        if let Some(flow) = &mut self.inward {
            match flow.carry(self.connection.as_fd(), self.local.as_fd()) {
                Carried::UntilBlocked => {}
                Carried::TurnOver => again = true,
                Carried::SourceEnded | Carried::SinkGone => {
                    // A pipe ends with its writer, so dropping it says it all; a terminal stays, and a
                    // socket is told.
                    let _ = rustix::net::shutdown(&self.local, Shutdown::Write);
                    self.inward = None;
                }
            }
        }
        let outlet = self
            .outward
            .as_mut()
            .map(|flow| flow.carry(self.local.as_fd(), self.connection.as_fd()));
        match outlet {
            None | Some(Carried::UntilBlocked) => {}
            Some(Carried::TurnOver) => again = true,
            Some(Carried::SourceEnded) => {
                // If it fails the host has gone, which is as good an end.
                let _ = rustix::net::shutdown(&self.connection, Shutdown::Write);
                self.outward = None;
            }
            Some(Carried::SinkGone) => {
                self.outward = None;
                self.inward = None;
            }
        }
        let drained = self.outward.is_none();
        Turn { again, drained, over: drained && self.inward.is_none() }
    }
}

/// One direction.
struct Flow {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How much more may be read, once the process has ended.
    allowance: Option<usize>,
}

/// How far a direction came.
enum Carried {
    UntilBlocked,
    TurnOver,
    SourceEnded,
    SinkGone,
}

impl Flow {
    fn new(first: Vec<u8>) -> Self {
        Self { start: 0, end: first.len(), buffer: first, allowance: None }
    }

    fn carry(&mut self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Carried {
        for _ in 0..TURN {
            while self.start < self.end {
                match rustix::io::write(sink, &self.buffer[self.start..self.end]) {
                    Ok(written) => self.start += written,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Carried::UntilBlocked,
                    Err(_) => return Carried::SinkGone,
                }
            }
            if self.allowance == Some(0) {
                return Carried::SourceEnded;
            }
            // The last read filled it: the source has more than fits.
            let size = if self.end == self.buffer.len() { self.end * 2 } else { self.buffer.len() };
            self.buffer.resize(size.clamp(FIRST_BYTES, BUFFER_BYTES), 0);
            let room = self.allowance.unwrap_or(BUFFER_BYTES).min(self.buffer.len());
            match rustix::io::read(source, &mut self.buffer[..room]) {
                Ok(0) => return Carried::SourceEnded,
                Ok(bytes) => {
                    (self.start, self.end) = (0, bytes);
                    if let Some(allowance) = &mut self.allowance {
                        *allowance -= bytes;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.allowance.is_none() => return Carried::UntilBlocked,
                // Nothing left of a process that has ended, the other side of a terminal closed
                // (EIO), or a connection that broke: all are the end.
                Err(_) => return Carried::SourceEnded,
            }
        }
        Carried::TurnOver
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pair() -> (UnixStream, OwnedFd) {
        let (host, agent) = UnixStream::pair().unwrap();
        agent.set_nonblocking(true).unwrap();
        (host, agent.into())
    }

    fn pipe() -> (std::fs::File, std::fs::File) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (reader.into(), writer.into())
    }

    #[test]
    fn a_host_that_does_not_read_stops_the_writer_and_memory_stays_bounded() {
        let (mut host, connection) = pair();
        let (reader, mut writer) = pipe();
        let mut relay = Relay::output(connection, reader.into());
        let mut written = 0;
        while let Ok(length) = writer.write(&[1; 4096]) {
            written += length;
            relay.turn();
            assert!(written < 4 << 20, "nothing stops the writer");
        }
        let flow = relay.outward.as_ref().unwrap();
        assert!(flow.buffer.len() <= BUFFER_BYTES);

        drop(writer);
        let reading = std::thread::spawn(move || host.read_to_end(&mut Vec::new()).unwrap());
        while !relay.turn().over {
            let mut ask = [PollFd::new(&relay.connection, PollFlags::OUT)];
            rustix::event::poll(&mut ask, None).unwrap();
        }
        drop(relay);
        assert_eq!(reading.join().unwrap(), written);
    }

    #[test]
    fn a_stream_that_goes_on_and_on_gives_others_their_turn() {
        let zeroes = std::fs::File::open("/dev/zero").unwrap();
        let nowhere = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut relay = Relay::output(nowhere.into(), zeroes.into());
        let more = Turn { again: true, drained: false, over: false };
        assert_eq!([relay.turn(), relay.turn()], [more; 2]);
    }

    #[test]
    fn what_came_with_the_first_frame_is_the_beginning_of_the_input() {
        let (mut host, connection) = pair();
        let (mut reader, writer) = pipe();
        let mut relay = Relay::input(connection, writer.into(), b"first ".to_vec());
        host.write_all(b"second").unwrap();
        drop(host);
        assert!(relay.turn().over);
        drop(relay);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first second");
    }

    #[test]
    fn after_its_process_only_what_is_there_is_carried_if_others_still_hold_the_pipe() {
        let (mut host, connection) = pair();
        let (reader, mut writer) = pipe();
        let mut relay = Relay::output(connection, reader.into());
        writer.write_all(b"early").unwrap();
        assert!(relay.process_ended(true).over);
        drop(relay);
        assert!(writer.write_all(b"late").is_err());
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "early");
    }
}
