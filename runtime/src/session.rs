//! A session with the guest's agent, over any byte stream.
//!
//! What the other side says is a hostile guest's: frames are bounded by `proto`, answers to calls
//! that were never made are dropped, and a guest that does not read cannot hold a caller up.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proto::frame::{self, Decoder, FrameError};
use proto::message::{Answer, Call, Fault, Hello, Reply, Request};

/// How long the agent may leave what we say unread, or a question unanswered that needs no time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes taken from the stream at once.
const READ_BYTES: usize = 4096;

/// A session as the host holds it.
pub(crate) struct Session {
    stream: UnixStream,
    decoder: Decoder,
    greeted: bool,
    next_id: u64,
}

/// What the agent said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Its greeting, of our version: from here on it answers calls.
    Hello(Hello),
    /// An answer.
    Answer(Answer),
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The agent closed the connection, or its VM is gone.
    #[error("the guest's agent hung up")]
    HungUp,
    /// The agent does not answer, or does not read.
    #[error("the guest's agent does not answer")]
    Silent,
    /// The connection broke.
    #[error("connection to the guest's agent")]
    Broken(#[source] io::Error),
    /// What the agent said is not in our language.
    #[error("the guest's agent does not make sense")]
    Nonsense(#[from] FrameError),
    /// The agent is another version's.
    #[error(
        "the guest's agent ({name}) speaks protocol {theirs}, this microvm speaks {}",
        proto::VERSION
    )]
    Version {
        /// What it calls itself.
        name: String,
        /// The version it speaks.
        theirs: u32,
    },
    /// The agent answered, but not what was asked.
    #[error("the guest's agent answered something else than it was asked: {reply:?}")]
    WrongReply {
        /// What it said.
        reply: Reply,
    },
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] Fault),
}

impl Session {
    /// Begins a session on `stream` by greeting; whoever is at the other end may come later.
    pub(crate) fn greet(stream: UnixStream) -> Result<Self, SessionError> {
        stream.set_write_timeout(Some(PATIENCE)).map_err(SessionError::Broken)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(SessionError::Broken)?;
        let mut session = Self { stream, decoder: Decoder::default(), greeted: false, next_id: 1 };
        session.send(&Hello {
            version: proto::VERSION,
            name: concat!("microvm ", env!("CARGO_PKG_VERSION")).to_owned(),
            agent_started_ns: None,
        })?;
        Ok(session)
    }

    /// Asks for `request` without waiting, and tells the number its answer will have.
    pub(crate) fn call(&mut self, request: Request) -> Result<u64, SessionError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&Call { id, request })?;
        Ok(id)
    }

    /// Asks for `request` and waits for its answer, passing over every other.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, SessionError> {
        let id = self.call(request)?;
        self.answer_to(id)
    }

    /// Waits for the answer to call `id`, passing over every other.
    pub(crate) fn answer_to(&mut self, id: u64) -> Result<Reply, SessionError> {
        loop {
            while let Some(heard) = self.take()? {
                match heard {
                    Heard::Answer(answer) if answer.id == id => return Ok(answer.result?),
                    Heard::Answer(_) | Heard::Hello(_) => {}
                }
            }
            self.read()?;
        }
    }

    /// Takes in what has arrived; waits if nothing has.
    pub(crate) fn read(&mut self) -> Result<(), SessionError> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(SessionError::HungUp),
            Ok(count) => {
                self.decoder.push(&bytes[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }

    /// The next thing said in what has arrived, if it is whole.
    pub(crate) fn take(&mut self) -> Result<Option<Heard>, SessionError> {
        if self.greeted {
            return Ok(self.decoder.next()?.map(Heard::Answer));
        }
        let Some(hello) = self.decoder.next::<Hello>()? else { return Ok(None) };
        if hello.version != proto::VERSION {
            return Err(SessionError::Version {
                name: printable(&hello.name),
                theirs: hello.version,
            });
        }
        self.greeted = true;
        Ok(Some(Heard::Hello(hello)))
    }

    fn send(&mut self, value: &impl serde::Serialize) -> Result<(), SessionError> {
        self.stream.write_all(&frame::encode(value)?).map_err(broken)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn broken(error: io::Error) -> SessionError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => SessionError::HungUp,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SessionError::Silent,
        _ => SessionError::Broken(error),
    }
}

/// What a guest says, fit for a terminal: no control characters, and not long.
pub(crate) fn printable(words: &str) -> String {
    words.chars().filter(|character| !character.is_control()).take(512).collect()
}

#[cfg(test)]
mod tests {
    use proto::message::FaultKind;

    use super::*;

    fn hello(version: u32) -> Vec<u8> {
        let hello = Hello { version, name: "agent\x1b[2J".to_owned(), agent_started_ns: Some(1) };
        frame::encode(&hello).unwrap()
    }

    fn answer(id: u64, result: Result<Reply, Fault>) -> Vec<u8> {
        frame::encode(&Answer { id, result }).unwrap()
    }

    #[test]
    fn an_answer_finds_its_call_among_others_and_in_pieces() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::greet(ours).unwrap();
        let said = [
            hello(proto::VERSION),
            answer(77, Ok(Reply::Done)),
            answer(2, Ok(Reply::Done)),
            answer(1, Ok(Reply::Created { pid: 9 })),
        ]
        .concat();
        let writer = std::thread::spawn(move || {
            said.iter().for_each(|&byte| theirs.write_all(&[byte]).unwrap());
            theirs
        });
        let reply = session.ask(Request::PowerOff).unwrap();
        assert_eq!(reply, Reply::Created { pid: 9 });
        writer.join().unwrap();
    }

    #[test]
    fn an_agent_of_another_version_is_refused_in_words_fit_for_a_terminal() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::greet(ours).unwrap();
        theirs.write_all(&hello(999)).unwrap();
        let refused = session.ask(Request::PowerOff).unwrap_err().to_string();
        assert!(refused.contains("agent[2J) speaks protocol 999"), "{refused}");
    }

    #[test]
    fn a_guest_that_announces_a_gigabyte_is_not_believed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::greet(ours).unwrap();
        theirs.write_all(&(1u32 << 30).to_le_bytes()).unwrap();
        assert!(matches!(session.ask(Request::PowerOff), Err(SessionError::Nonsense(_))));
    }

    #[test]
    fn a_hang_up_and_a_refusal_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::greet(ours).unwrap();
        let fault = Fault { kind: FaultKind::System, message: "no".to_owned() };
        theirs.write_all(&[hello(proto::VERSION), answer(1, Err(fault))].concat()).unwrap();
        assert!(matches!(session.ask(Request::PowerOff), Err(SessionError::Refused(_))));
        drop(theirs);
        assert!(matches!(session.ask(Request::PowerOff), Err(SessionError::HungUp)));
    }
}
