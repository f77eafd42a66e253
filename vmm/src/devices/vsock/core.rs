//! All streams, behind packets in and packets out.
//!
//! Knows no descriptor, thread, queue or interrupt: the worker feeds it what a driver sent and what
//! sockets are ready for, and asks it for packets as long as the driver has room.
//!
//! Bounds against a hostile guest: it opens a stream only to ports it was given, once each; a stream
//! holds back [`BACKLOG_BYTES`](super::connection::BACKLOG_BYTES) at most; and answers to packets that
//! belong to no stream are kept up to [`MAX_RESETS`], beyond which no packet is taken.

use std::collections::{BTreeMap, VecDeque};

use super::connection::{Connection, Stream, Violation};
use super::packet::{BadPacket, Credit, HEADER_BYTES, Header, Operation, Ports, RawHeader};
use crate::event_loop::Readiness;
use crate::virtio::buffers::Buffers;

/// Streams there can be at once, clients of the listener that have not said where to among them.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// Answers owed to packets that belong to no stream.
const MAX_RESETS: usize = 256;

/// Ports we dial from: far from those that are given out by name.
const FIRST_DIALLING_PORT: u32 = 1 << 30;

/// Names a connection to the event loop; not used again for 4 billion more.
pub(super) type Id = u32;

pub(super) struct Core<S> {
    guest_cid: u64,
    connections: BTreeMap<Id, Connection<S>>,
    by_ports: BTreeMap<Ports, Id>,
    /// Connections that may have something to send, in the order of their turns.
    senders: VecDeque<Id>,
    resets: VecDeque<Ports>,
    host_ports: BTreeMap<u32, S>,
    next_dialling_port: u32,
}

impl<S: Stream> Core<S> {
    pub(super) fn new(guest_cid: u64, host_ports: BTreeMap<u32, S>) -> Self {
        Self {
            guest_cid,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            senders: VecDeque::new(),
            resets: VecDeque::new(),
            host_ports,
            next_dialling_port: FIRST_DIALLING_PORT,
        }
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// The socket of a connection.
    pub(super) fn stream(&self, id: Id) -> Option<&S> {
        self.connections.get(&id).map(Connection::stream)
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.connections.len()
    }

    /// The host dials `guest_port`, over `stream` and under the name `id`.
    pub(super) fn dial(&mut self, id: Id, guest_port: u32, stream: S) {
        let ports = Ports { host: self.dialling_port(guest_port), guest: guest_port };
        self.insert(id, Connection::to_guest(ports, stream));
    }

    /// There is room for the answer to another packet.
    pub(super) fn takes_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// The guest sends a packet, with `data` behind its header. If it opens a connection, that gets
    /// the name `id`, and the host's port it dialled is given back.
    pub(super) fn packet(&mut self, raw: RawHeader, data: Buffers<'_>, id: Id) -> Option<u32> {
        match raw.check(self.guest_cid, data.len()) {
            Ok(Header { ports, operation: Operation::Request, credit }) => {
                return self.request(ports, credit, id);
            }
            Ok(header) => self.on_connection(header, data),
            Err(BadPacket::Meaningless) => {}
            Err(BadPacket::Refused(ports)) => self.reset(ports),
        }
        None
    }

    /// A connection's socket is ready for something.
    pub(super) fn ready(&mut self, id: Id, readiness: Readiness) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ready(readiness);
            self.settle(id);
        }
    }

    /// There may be a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.senders.is_empty()
    }

    /// Puts the next packet for the guest into `header` and `room`, and gives its length. `None` when
    /// there is none after all: then neither was touched.
    pub(super) fn next_packet(
        &mut self,
        header: Buffers<'_>,
        mut room: Buffers<'_>,
    ) -> Option<usize> {
        if let Some(ports) = self.resets.pop_front() {
            return Some(self.write(header, ports, Operation::Reset, Credit::default()));
        }
        while let Some(id) = self.senders.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = false;
            if let Some(operation) = connection.next_packet(&mut room) {
                let (ports, credit) = (connection.ports, connection.credit());
                self.settle(id);
                return Some(self.write(header, ports, operation, credit));
            }
        }
        None
    }

    /// Everything the guest sent has reached the host's sockets.
    pub(super) fn is_drained(&self) -> bool {
        self.connections.values().all(Connection::is_drained)
    }

    /// The driver is gone. What it sent before still goes out.
    pub(super) fn orphan_all(&mut self) {
        self.by_ports.clear();
        self.senders.clear();
        self.resets.clear();
        self.connections.values_mut().for_each(Connection::orphan);
        self.connections.retain(|_, connection| !connection.is_over());
    }

    fn request(&mut self, ports: Ports, credit: Credit, id: Id) -> Option<u32> {
        let taken = self.by_ports.contains_key(&ports) || self.count() >= MAX_CONNECTIONS;
        match self.host_ports.remove(&ports.host) {
            Some(stream) if !taken => {
                let mut connection = Connection::from_guest(ports, stream);
                connection.set_guest_credit(credit);
                self.insert(id, connection);
                Some(ports.host)
            }
            stream => {
                stream.and_then(|stream| self.host_ports.insert(ports.host, stream));
                self.reset(ports);
                None
            }
        }
    }

    fn on_connection(&mut self, header: Header, data: Buffers<'_>) {
        let Header { ports, operation, credit } = header;
        let found = self.by_ports.get(&ports).copied();
        let Some((id, connection)) =
            found.and_then(|id| Some((id, self.connections.get_mut(&id)?)))
        else {
            if operation != Operation::Reset {
                self.reset(ports);
            }
            return;
        };
        connection.set_guest_credit(credit);
        let outcome = match operation {
            Operation::Request => Err(Violation),
            Operation::Response => connection.response(),
            Operation::Data(bytes) => {
                let mut data = data;
                connection.data(data.split_to(bytes))
            }
            Operation::Shutdown(halves) => {
                connection.shutdown(halves);
                Ok(())
            }
            Operation::CreditRequest => {
                connection.credit_request();
                Ok(())
            }
            Operation::CreditUpdate => Ok(()),
            Operation::Reset => {
                self.by_ports.remove(&ports);
                connection.orphan();
                Ok(())
            }
        };
        match outcome {
            Ok(()) => self.settle(id),
            Err(Violation) => self.reset(ports),
        }
    }

    fn insert(&mut self, id: Id, connection: Connection<S>) {
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.settle(id);
    }

    /// Lists a connection that has something to send; drops one that is over.
    fn settle(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.is_over() {
            let ports = connection.ports;
            self.connections.remove(&id);
            // An orphan is not found by its ports any more, and nobody waits for an answer.
            if self.by_ports.get(&ports) == Some(&id) {
                self.reset(ports);
            }
        } else if connection.has_packet() && !connection.listed {
            connection.listed = true;
            self.senders.push_back(id);
        }
    }

    /// Ends the stream between `ports`, if there is one, and tells the guest that there is none.
    fn reset(&mut self, ports: Ports) {
        if let Some(id) = self.by_ports.remove(&ports) {
            self.connections.remove(&id);
        }
        self.resets.push_back(ports);
    }

    fn write(
        &self,
        mut header: Buffers<'_>,
        ports: Ports,
        operation: Operation,
        credit: Credit,
    ) -> usize {
        let data = if let Operation::Data(bytes) = operation { bytes } else { 0 };
        header.copy_from(&Header { ports, operation, credit }.to_bytes(self.guest_cid));
        HEADER_BYTES + data
    }

    /// A port of ours that is free for a stream to `guest_port`.
    fn dialling_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_dialling_port;
            self.next_dialling_port = host.checked_add(1).unwrap_or(FIRST_DIALLING_PORT);
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }
}
