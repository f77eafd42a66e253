//! Carrying bytes between a process's streams and ours, one thread for each direction.
//!
//! The threads only block on the bytes. That all output has arrived is seen from outside: each output
//! thread holds the writing end of a pipe, which hangs up when the last of them is done.

use std::fs::File;
use std::io::{self, Read, Write, stderr, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use proto::spec::Preserved;
use proto::stream::Stream;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::log::{Channel, LogWriter};
use crate::threads;

/// Bytes carried at once: what a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;

/// What is at our end of the streams.
pub(crate) enum Front {
    /// Our own standard streams; standard input only if it was asked for.
    Caller {
        /// Connect standard input.
        interactive: bool,
        /// Further descriptors that the process has doubles of.
        preserved: Vec<(Preserved, OwnedFd)>,
    },
    /// A log, opened for appending. Standard input stays open and says nothing.
    Log(File),
}

/// What there is at most between an ended process and a pipe of ours: a pipe in the guest, the buffers of
/// the agent, of two sockets and of our own, and room.
const ON_ITS_WAY_BYTES: usize = 4 << 20;

/// Streams under way.
pub(crate) struct Relays {
    front: Vec<OwnedFd>,
    /// Hangs up when all output has arrived.
    pub(crate) drained: OwnedFd,
    /// Standard input that nobody writes to, kept open.
    _held: Vec<UnixStream>,
}

impl Relays {
    /// Starts carrying the bytes of `streams`.
    pub(crate) fn start(streams: Vec<(Stream, UnixStream)>, front: &Front) -> io::Result<Self> {
        let (drained, done) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut held = Vec::new();
        let ours = match front {
            Front::Caller { preserved, .. } => {
                let (out, err) = (stdout(), stderr());
                let more = preserved.iter().filter(|(kind, _)| *kind == Preserved::Output);
                let more = more.map(|(_, descriptor)| descriptor.as_fd());
                let all = [out.as_fd(), err.as_fd()].into_iter().chain(more);
                all.map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?
            }
            Front::Log(_) => vec![],
        };
        for (stream, socket) in streams {
            match (stream, front) {
                (Stream::Stdin, Front::Caller { .. }) => carry_input(stdin().as_fd(), socket)?,
                (Stream::Stdin, Front::Log(_)) => held.push(socket),
                (Stream::Terminal, Front::Caller { interactive: true, .. }) => {
                    carry_input(stdin().as_fd(), socket.try_clone()?)?;
                    carry_output(stream, socket, front, done.try_clone()?)?;
                }
                (Stream::Preserved(number), Front::Caller { preserved, .. }) => {
                    let preserved = usize::try_from(number).ok().and_then(|at| preserved.get(at));
                    if let Some(preserved) = preserved {
                        carry_preserved(preserved, socket, done.try_clone()?)?;
                    }
                }
                (Stream::Preserved(_), Front::Log(_)) => {}
                (Stream::Stdout | Stream::Stderr | Stream::Terminal, _) => {
                    carry_output(stream, socket, front, done.try_clone()?)?;
                }
            }
        }
        Ok(Self { front: ours, drained, _held: held })
    }

    /// The process has ended. What it wrote is its readers', and whether they take it is no matter of its
    /// end: as on any machine it can stand in the pipe, which is made large enough for all of it.
    pub(crate) fn make_room(&self) {
        for ours in &self.front {
            // What is no pipe takes it as fast as it likes, and without the right to a large pipe there is
            // a smaller one.
            let sizes = [ON_ITS_WAY_BYTES, 1 << 20];
            let _ = sizes.into_iter().any(|size| fcntl_setpipe_size(ours, size).is_ok());
        }
    }
}

fn carry_output(
    stream: Stream,
    socket: UnixStream,
    front: &Front,
    done: OwnedFd,
) -> io::Result<()> {
    match front {
        Front::Caller { .. } => {
            let ours = match stream {
                Stream::Stderr => stderr().as_fd().try_clone_to_owned()?,
                Stream::Stdout | Stream::Terminal | Stream::Stdin | Stream::Preserved(_) => {
                    stdout().as_fd().try_clone_to_owned()?
                }
            };
            output(socket, File::from(ours), done)
        }
        Front::Log(log) => {
            let channel = if stream == Stream::Stderr { Channel::Stderr } else { Channel::Stdout };
            output(socket, LogWriter::new(log.try_clone()?, channel), done)
        }
    }
}

fn output(
    mut from: UnixStream,
    mut to: impl Write + Send + 'static,
    done: OwnedFd,
) -> io::Result<()> {
    spawn("output", move || {
        if carry(&mut from, &mut to).is_err() {
            // Our reader has left: the writer inside hears it as it would outside, by its next write.
            let _ = from.shutdown(Shutdown::Both);
        }
        drop(done);
    })
}

fn carry_preserved(
    (kind, ours): &(Preserved, OwnedFd),
    socket: UnixStream,
    done: OwnedFd,
) -> io::Result<()> {
    match kind {
        Preserved::Null => Ok(()),
        Preserved::Input => carry_input(ours.as_fd(), socket),
        Preserved::Output => output(socket, File::from(ours.try_clone()?), done),
        Preserved::Socket => {
            carry_input(ours.as_fd(), socket.try_clone()?)?;
            output(socket, HalfClosing(UnixStream::from(ours.try_clone()?)), done)
        }
    }
}

/// A socket whose other side hears that nothing more will be said to it, though it may say more itself.
struct HalfClosing(UnixStream);

impl Write for HalfClosing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for HalfClosing {
    fn drop(&mut self) {
        // Whoever has gone need not hear it.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

fn carry_input(ours: BorrowedFd<'_>, mut socket: UnixStream) -> io::Result<()> {
    let mut ours = File::from(ours.try_clone_to_owned()?);
    spawn("input", move || {
        // Ends at our end of file, or when the process inside has closed its standard input.
        let _ = carry(&mut ours, &mut socket);
        let _ = socket.shutdown(Shutdown::Write);
    })
}

/// Copies to the end of file. Not `io::copy`: that splices, and a splice from an idle socket into a
/// pipe holds the pipe's lock, so that nobody else can write to it or read from it meanwhile, our
/// own standard error on the same pipe among them.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    threads::small(name).spawn(work)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn is_drained(relays: &Relays, wait: bool) -> bool {
        let mut fds = [PollFd::new(&relays.drained, PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, if wait { None } else { Some(&at_once) }).unwrap() > 0
    }

    #[test]
    fn output_is_drained_when_the_last_stream_has_ended_and_not_before() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let file = || File::options().append(true).open(log.path()).unwrap();
        let (out, mut guest_out) = UnixStream::pair().unwrap();
        let (err, mut guest_err) = UnixStream::pair().unwrap();
        let streams = vec![(Stream::Stdout, out), (Stream::Stderr, err)];
        let relays = Relays::start(streams, &Front::Log(file())).unwrap();
        guest_out.write_all(b"last words\n").unwrap();
        drop(guest_out);
        assert!(!is_drained(&relays, false));
        guest_err.write_all(b"after them\n").unwrap();
        drop(guest_err);
        assert!(is_drained(&relays, true));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        crate::log::replay(File::open(log.path()).unwrap(), &mut out, &mut err).unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"last words\n"[..], &b"after them\n"[..]));
    }

    #[test]
    fn a_process_nobody_talks_to_has_its_input_open_and_silent() {
        let log = tempfile::tempfile().unwrap();
        let (stdin, mut guest) = UnixStream::pair().unwrap();
        let relays = Relays::start(vec![(Stream::Stdin, stdin)], &Front::Log(log)).unwrap();
        guest.set_nonblocking(true).unwrap();
        assert_eq!(guest.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(relays);
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_writer_whose_reader_has_left_hears_of_it() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (drained, done) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        output(ours, File::from(writer), done).unwrap();
        guest.write_all(b"y\n").unwrap();
        let relays = Relays { front: Vec::new(), drained, _held: Vec::new() };
        assert!(is_drained(&relays, true));
        assert_eq!(guest.write(b"y\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_idle_stream_does_not_hold_up_another_into_the_same_pipe() {
        let (idle, _guest_idle) = UnixStream::pair().unwrap();
        let (busy, mut guest_busy) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_drained, done) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        for stream in [idle, busy] {
            let to = File::from(writer.try_clone().unwrap());
            output(stream, to, done.try_clone().unwrap()).unwrap();
        }
        guest_busy.write_all(b"through").unwrap();
        let mut through = [0; 7];
        File::from(reader).read_exact(&mut through).unwrap();
        assert_eq!(&through, b"through");
    }
}
