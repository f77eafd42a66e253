//! Reaching a port of a guest through its VM's Unix socket.
//!
//! The convention is the one Firecracker, Cloud Hypervisor and Kata share: a client says
//! `CONNECT <port>\n`, is told `OK <number>\n` once the guest has accepted, and is through. A
//! connection that is closed instead was refused.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use proto::frame;
use proto::stream::Attach;

/// The longest answer worth reading: `OK`, a space, ten digits, a newline, and room.
const MAX_ANSWER: usize = 32;

/// How long a guest may take to accept. A busy host with a container of half a processor has been seen to
/// take ten seconds; all of it passes only if the guest hangs.
const ACCEPT: Duration = Duration::from_secs(30);

/// Why a port of a guest was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody listens at the VM's socket.
    #[error("socket of the VM")]
    Socket(#[source] io::Error),
    /// The VM or its guest closed the connection.
    #[error("the guest refused a connection to its port {port}")]
    Refused {
        /// Which port.
        port: u32,
    },
    /// The VM said something else.
    #[error("the VM answered a connection to port {port} with {answer:?}")]
    NoConvention {
        /// Which port.
        port: u32,
        /// Its words.
        answer: String,
    },
}

/// A connection on its way to a port of the guest.
pub(crate) struct Dialling {
    stream: UnixStream,
    port: u32,
}

/// Asks for `port` of the VM whose socket this is, and says `first` to it: several can be on
/// their way at once, since nothing waits here.
pub(crate) fn dial(socket: &Path, port: u32, first: &[u8]) -> Result<Dialling, DialError> {
    let mut stream = UnixStream::connect(socket).map_err(DialError::Socket)?;
    stream.set_read_timeout(Some(ACCEPT)).map_err(DialError::Socket)?;
    let mut words = format!("CONNECT {port}\n").into_bytes();
    words.extend_from_slice(first);
    stream.write_all(&words).map_err(DialError::Socket)?;
    Ok(Dialling { stream, port })
}

/// The first words of a standard stream's connection.
pub(crate) fn attach(attach: &Attach) -> Vec<u8> {
    // A few short strings: far below what a frame holds.
    frame::encode(attach).unwrap_or_default()
}

impl Dialling {
    /// Lets the guest take as long as it wants: one whose VM is stopped accepts when that goes on.
    pub(crate) fn without_haste(self) -> Result<Self, DialError> {
        self.stream.set_read_timeout(None).map_err(DialError::Socket)?;
        Ok(self)
    }

    /// Waits until the guest has accepted.
    pub(crate) fn connected(mut self) -> Result<UnixStream, DialError> {
        let port = self.port;
        let mut answer = Vec::new();
        // One byte at a time: what follows the newline is the guest's first word to somebody else.
        while answer.last() != Some(&b'\n') && answer.len() < MAX_ANSWER {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(DialError::Refused { port }),
                Ok(_) => answer.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(DialError::Refused { port });
                }
                Err(error) => return Err(DialError::Socket(error)),
            }
        }
        match answer.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b"\n")) {
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
                self.stream.set_read_timeout(None).map_err(DialError::Socket)?;
                Ok(self.stream)
            }
            _ => {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                Err(DialError::NoConvention { port, answer })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_whose_vm_is_stopped_may_take_its_time() {
        let (stream, _guest) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(ACCEPT)).unwrap();
        let dialling = Dialling { stream, port: 1 }.without_haste().unwrap();
        assert_eq!(dialling.stream.read_timeout().unwrap(), None);
    }
}
