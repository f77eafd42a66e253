//! The one frame that begins a stdio connection.
//!
//! The host dials [`STDIO_PORT`](crate::STDIO_PORT) once per stream, writes one [`Attach`], and from
//! then on the connection carries plain bytes: towards the guest for standard input, towards the host
//! for output, both ways for a terminal. Half-close means end of file. Streams and the call that
//! creates their process may arrive in any order; the process is created when all are there.

use serde::{Deserialize, Serialize};

use crate::message::ProcessId;
use crate::spec::{Preserved, Process, Stdio};

/// Says which stream of which process this connection is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// [`crate::VERSION`] of the side that dials.
    pub version: u32,
    /// The process, which may not exist yet.
    pub process: ProcessId,
    /// Which of its streams.
    pub stream: Stream,
}

impl Process {
    /// The streams it has, in the order they are connected.
    pub fn streams(&self) -> Vec<Stream> {
        let mut streams = match self.stdio {
            Stdio::Terminal { .. } => vec![Stream::Terminal],
            Stdio::Pipes { stdin, stdout, stderr } => {
                let wanted =
                    [(stdin, Stream::Stdin), (stdout, Stream::Stdout), (stderr, Stream::Stderr)];
                wanted.into_iter().filter_map(|(is, stream)| is.then_some(stream)).collect()
            }
        };
        let preserved = (0..).zip(&self.preserved).filter(|(_, kind)| **kind != Preserved::Null);
        streams.extend(preserved.map(|(number, _)| Stream::Preserved(number)));
        streams
    }
}

/// A stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Bytes to descriptor 0.
    Stdin,
    /// Bytes from descriptor 1.
    Stdout,
    /// Bytes from descriptor 2.
    Stderr,
    /// Both ways, to and from the terminal that is descriptors 0, 1 and 2.
    Terminal,
    /// Descriptor 3 and so many more, in the directions that [`crate::spec::Preserved`] has.
    Preserved(u32),
}
