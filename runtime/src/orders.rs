//! What other processes order a supervisor to do: one packet asks, one answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::state::Dir;

/// The longest packet: an answer with a guest's last words in it.
const MAX_BYTES: usize = 64 << 10;

/// How long a client may take to say what it wants. It has said so before it is accepted.
const PATIENCE: Duration = Duration::from_secs(1);

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Let a created container's first process go.
    Start,
    /// Stop a running container's virtual CPUs.
    Pause,
    /// Let them go on.
    Resume,
}

/// Where orders come in.
pub(crate) struct Orders(OwnedFd);

/// An order, and the way to answer it.
pub(crate) struct Ordered {
    /// What is to be done.
    pub(crate) order: Order,
    client: OwnedFd,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// Nobody hears it.
    #[error("supervisor of container {name}")]
    Unheard {
        /// The container.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The supervisor could not do it, or would not.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The supervisor ended on it.
    #[error("the supervisor of container {name} ended over it")]
    Silent {
        /// The container.
        name: String,
    },
}

impl Orders {
    /// Listens in a container's directory.
    pub(crate) fn listen(dir: &Dir) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(dir.orders_path())?)?;
        listen(&socket, 16)?;
        Ok(Self(socket))
    }

    /// The next order, if there is one and whoever came with it can say it.
    pub(crate) fn next(&self) -> io::Result<Option<Ordered>> {
        let client = match accept_with(&self.0, SocketFlags::CLOEXEC) {
            Ok(client) => client,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        set_socket_timeout(&client, Timeout::Recv, Some(PATIENCE))?;
        let mut packet = [0; 256];
        let order = match recv(&client, packet.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => serde_json::from_slice(&packet[..length]).ok(),
            Err(_) => None,
        };
        Ok(order.map(|order| Ordered { order, client }))
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ordered {
    /// Tells whoever ordered it how it went.
    pub(crate) fn answer(self, answer: Result<(), Failure>) {
        let packet = serde_json::to_vec(&answer).unwrap_or_default();
        // Whoever asked may be gone.
        let _ = send(&self.client, &packet, SendFlags::NOSIGNAL);
    }
}

/// Gives a supervisor an order and waits until it is carried out.
pub(crate) fn order(dir: &Dir, order: Order) -> Result<(), OrderError> {
    let name = || dir.name().to_string();
    let answer = || -> io::Result<Vec<u8>> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(dir.orders_path())?)?;
        send(&socket, &serde_json::to_vec(&order)?, SendFlags::NOSIGNAL)?;
        let mut packet = vec![0; MAX_BYTES];
        let (length, _) = recv(&socket, packet.as_mut_slice(), RecvFlags::empty())?;
        packet.truncate(length);
        Ok(packet)
    };
    let answer = answer().map_err(|source| OrderError::Unheard { name: name(), source })?;
    match serde_json::from_slice(&answer) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(OrderError::Refused(failure)),
        Err(_) => Err(OrderError::Silent { name: name() }),
    }
}
