//! Packet headers (virtio 1.2, 5.10.6): as the guest wrote them, and as we believe them.

/// Operations (5.10.6, `op::*`).
mod op {
    pub(super) const REQUEST: u16 = 1;
    pub(super) const RESPONSE: u16 = 2;
    pub(super) const RST: u16 = 3;
    pub(super) const SHUTDOWN: u16 = 4;
    pub(super) const RW: u16 = 5;
    pub(super) const CREDIT_UPDATE: u16 = 6;
    pub(super) const CREDIT_REQUEST: u16 = 7;
}

/// `VIRTIO_VSOCK_TYPE_STREAM`.
const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`.
const SHUTDOWN_RECEIVE: u32 = 1 << 0;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`.
const SHUTDOWN_SEND: u32 = 1 << 1;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;

/// The most data in one packet: what Linux sends at most (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub(super) const MAX_DATA_BYTES: usize = 64 << 10;

/// The host's context id.
pub(super) const HOST_CID: u64 = 2;

/// The two ports of a stream, which name it: there are only ever the same two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Response,
    Reset,
    Shutdown(Halves),
    /// So many bytes of data follow the header.
    Data(usize),
    CreditUpdate,
    CreditRequest,
}

/// Which directions of a stream, as seen by one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Halves {
    /// It will receive no more.
    pub(super) receive: bool,
    /// It will send no more.
    pub(super) send: bool,
}

impl Halves {
    pub(super) const BOTH: Self = Self { receive: true, send: true };

    pub(super) fn both(self) -> bool {
        self == Self::BOTH
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { receive: self.receive || other.receive, send: self.send || other.send }
    }
}

/// What a side says of the data it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// Bytes it buffers.
    pub(super) buf_alloc: u32,
    /// Bytes it has passed on since the stream began, wrapping.
    pub(super) fwd_cnt: u32,
}

/// A header that makes sense, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ports: Ports,
    pub(super) operation: Operation,
    pub(super) credit: Credit,
}

/// What is wrong with a packet from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPacket {
    /// It is shorter than a header, or not between this guest and its host: it is dropped.
    Meaningless,
    /// It names a stream and is of a kind we do not have, or says something untrue about its length.
    /// Whoever sent it is told that there is no such stream.
    Refused(Ports),
}

/// A header as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawHeader(pub(super) [u8; HEADER_BYTES]);

impl RawHeader {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Believes it, if it came from the guest `guest_cid` with `room` bytes behind it.
    pub(super) fn check(&self, guest_cid: u64, room: usize) -> Result<Header, BadPacket> {
        let ports = Ports { guest: self.u32(16), host: self.u32(20) };
        if self.u64(0) != guest_cid || self.u64(8) != HOST_CID {
            return Err(BadPacket::Meaningless);
        }
        if self.u16(28) != TYPE_STREAM {
            return Err(BadPacket::Refused(ports));
        }
        let operation = match self.u16(30) {
            op::REQUEST => Operation::Request,
            op::RESPONSE => Operation::Response,
            op::RST => Operation::Reset,
            op::SHUTDOWN => Operation::Shutdown(Halves {
                receive: self.u32(32) & SHUTDOWN_RECEIVE != 0,
                send: self.u32(32) & SHUTDOWN_SEND != 0,
            }),
            op::RW => match self.u32(24) as usize {
                bytes if bytes <= room && bytes <= MAX_DATA_BYTES => Operation::Data(bytes),
                _ => return Err(BadPacket::Refused(ports)),
            },
            op::CREDIT_UPDATE => Operation::CreditUpdate,
            op::CREDIT_REQUEST => Operation::CreditRequest,
            _ => return Err(BadPacket::Refused(ports)),
        };
        let credit = Credit { buf_alloc: self.u32(36), fwd_cnt: self.u32(40) };
        Ok(Header { ports, operation, credit })
    }
}

impl Header {
    /// The bytes of it on the way from the host to the guest `guest_cid`.
    pub(super) fn to_bytes(self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let (operation, length, flags) = match self.operation {
            Operation::Request => (op::REQUEST, 0, 0),
            Operation::Response => (op::RESPONSE, 0, 0),
            Operation::Reset => (op::RST, 0, 0),
            Operation::Shutdown(halves) => {
                let receive = if halves.receive { SHUTDOWN_RECEIVE } else { 0 };
                let send = if halves.send { SHUTDOWN_SEND } else { 0 };
                (op::SHUTDOWN, 0, receive | send)
            }
            Operation::Data(bytes) => (op::RW, bytes as u32, 0),
            Operation::CreditUpdate => (op::CREDIT_UPDATE, 0, 0),
            Operation::CreditRequest => (op::CREDIT_REQUEST, 0, 0),
        };
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &HOST_CID.to_le_bytes());
        put(8, &guest_cid.to_le_bytes());
        put(16, &self.ports.host.to_le_bytes());
        put(20, &self.ports.guest.to_le_bytes());
        put(24, &length.to_le_bytes());
        put(28, &TYPE_STREAM.to_le_bytes());
        put(30, &operation.to_le_bytes());
        put(32, &flags.to_le_bytes());
        put(36, &self.credit.buf_alloc.to_le_bytes());
        put(40, &self.credit.fwd_cnt.to_le_bytes());
        bytes
    }
}
