//! Two ends of a TCP connection: a program in a container, which does what it is told, and its peer, which tells
//! it, against the clock.
//!
//! The peer alone has a clock, so that it is the host's whatever the container is. It listens, the container's end
//! connects, and then come orders until the connection ends. An order is a byte that names the way, and how often,
//! eight bytes, the lowest first.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::race::monotonic_ns;

/// What `stopwatch talk` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the peer listens
    peer: SocketAddr,
}

/// What goes over a connection, as the container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// Mebibytes to the peer
    Send,
    /// Mebibytes from the peer
    Receive,
    /// A byte from the peer, and one back
    RoundTrip,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Send, Self::Receive, Self::RoundTrip];

    /// How often it is done for a figure.
    pub(crate) fn usual(self) -> u64 {
        match self {
            Self::Send | Self::Receive => 32,
            Self::RoundTrip => 1000,
        }
    }

    /// What is counted, and how it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "MiB to the peer",
            Self::Receive => "MiB from the peer",
            Self::RoundTrip => "round trips",
        }
    }
}

/// How long one end waits for the other. It is long: in the deterministic host a VM that boots is nothing beside
/// a second, and waiting takes no time there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is written and read at once, as iperf3 does it.
const PIECE: usize = 128 << 10;

const MIB: u64 = 1 << 20;

/// What a round trip brings there and back, and who has received all says.
const BYTE: [u8; 1] = [0x5a];

/// The container's end: does what the peer says, until the peer ends the connection.
pub(crate) fn talk(arguments: &Arguments) -> Result<()> {
    let peer = arguments.peer;
    let stream = TcpStream::connect_timeout(&peer, PATIENCE);
    let mut line = Line::new(stream.with_context(|| format!("connecting to {peer}"))?)?;
    while let Some((way, count)) = line.order()? {
        match way {
            Way::Send => line.send(count * MIB)?,
            Way::Receive => {
                line.receive(count * MIB)?;
                line.send(1)?;
            }
            Way::RoundTrip => {
                for _ in 0..count {
                    line.receive(1)?;
                    line.send(1)?;
                }
            }
        }
    }
    Ok(())
}

/// Where a container's end can connect to, at each address of the host's.
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// At a port that nobody else has.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listening")?))
    }

    /// Where it is, at this address.
    pub(crate) fn at(&self, address: Ipv4Addr) -> Result<SocketAddr> {
        Ok((address, self.0.local_addr()?.port()).into())
    }

    /// Waits for the container's end.
    pub(crate) fn peer(&self) -> Result<Peer> {
        let mut waiting = [PollFd::new(&self.0, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        ensure!(
            poll(&mut waiting, Some(&patience))? > 0,
            "nobody has connected from the container"
        );
        Ok(Peer(Line::new(self.0.accept()?.0)?))
    }
}

/// The host's end.
pub(crate) struct Peer(Line);

impl Peer {
    /// Gives an order, and gives back how many nanoseconds it took until it was done.
    pub(crate) fn time(&mut self, way: Way, count: u64) -> Result<u64> {
        let Self(line) = self;
        let began_ns = monotonic_ns();
        line.give(way, count)?;
        match way {
            Way::Send => line.receive(count * MIB)?,
            Way::Receive => {
                line.send(count * MIB)?;
                line.receive(1)?;
            }
            Way::RoundTrip => {
                for _ in 0..count {
                    line.send(1)?;
                    line.receive(1)?;
                }
            }
        }
        Ok(monotonic_ns() - began_ns)
    }
}

/// Either end of a connection.
struct Line {
    stream: TcpStream,
    piece: Vec<u8>,
}

impl Line {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, piece: BYTE.repeat(PIECE) })
    }

    fn give(&mut self, way: Way, count: u64) -> Result<()> {
        let order = [&[way as u8][..], &count.to_le_bytes()].concat();
        self.stream.write_all(&order).context("giving an order")
    }

    /// The next order, if there is one.
    fn order(&mut self) -> Result<Option<(Way, u64)>> {
        let (mut way, mut count) = ([0], [0; 8]);
        match self.stream.read_exact(&mut way) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read.context("waiting for an order")?,
        }
        self.stream.read_exact(&mut count).context("reading an order")?;
        let known = Way::ALL.into_iter().find(|known| *known as u8 == way[0]);
        let way = known.with_context(|| format!("{} is no order", way[0]))?;
        Ok(Some((way, u64::from_le_bytes(count))))
    }

    fn send(&mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let piece = &self.piece[..left.min(PIECE as u64) as usize];
            self.stream.write_all(piece).with_context(|| format!("sending, {left} bytes left"))?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    fn receive(&mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let piece = &mut self.piece[..left.min(PIECE as u64) as usize];
            let read = self.stream.read(piece);
            let read = read.with_context(|| format!("receiving, {left} bytes left"))?;
            ensure!(read > 0, "the other end is gone, {left} bytes left");
            left -= read as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_that_is_ordered_and_the_end_is_one() {
        let listener = Listener::new().unwrap();
        let peer = listener.at(Ipv4Addr::LOCALHOST).unwrap();
        std::thread::scope(|scope| {
            let container = scope.spawn(|| talk(&Arguments { peer }));
            let mut peer = listener.peer().unwrap();
            for way in Way::ALL {
                for count in [0, 3] {
                    assert!(peer.time(way, count).unwrap() > 0, "{way:?}");
                }
            }
            drop(peer);
            container.join().unwrap().unwrap();
        });
    }

    #[test]
    fn who_ends_too_early_is_told_from_who_is_done() {
        let listener = Listener::new().unwrap();
        let container = TcpStream::connect(listener.at(Ipv4Addr::LOCALHOST).unwrap()).unwrap();
        let mut peer = listener.peer().unwrap();
        drop(container);
        let error = format!("{:#}", peer.time(Way::RoundTrip, 2).unwrap_err());
        assert!(error.contains("bytes left"), "{error}");
    }
}
