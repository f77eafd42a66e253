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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { host: 1024, guest: 0xffff_0001 };
    const CREDIT: Credit = Credit { buf_alloc: 0x0102_0304, fwd_cnt: 0xf1f2_f3f4 };

    /// A header of the guest with id 3, `length` bytes behind it.
    fn raw(operation: u16, length: u32, flags: u32) -> RawHeader {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 3;
        bytes[8] = 2;
        bytes[16..20].copy_from_slice(&PORTS.guest.to_le_bytes());
        bytes[20..24].copy_from_slice(&PORTS.host.to_le_bytes());
        bytes[24..28].copy_from_slice(&length.to_le_bytes());
        bytes[28] = 1;
        bytes[30..32].copy_from_slice(&operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&CREDIT.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&CREDIT.fwd_cnt.to_le_bytes());
        RawHeader(bytes)
    }

    #[test]
    fn each_operation_is_understood_with_what_belongs_to_it() {
        for (number, length, flags, operation) in [
            (1, 0, 0, Operation::Request),
            (2, 0, 0, Operation::Response),
            (3, 0, 0, Operation::Reset),
            (4, 0, 3, Operation::Shutdown(Halves::BOTH)),
            (4, 0, 2, Operation::Shutdown(Halves { receive: false, send: true })),
            (5, 0, 0, Operation::Data(0)),
            (5, 65536, 0, Operation::Data(65536)),
            (6, 0, 0, Operation::CreditUpdate),
            (7, 0, 0, Operation::CreditRequest),
        ] {
            let want = Header { ports: PORTS, operation, credit: CREDIT };
            assert_eq!(raw(number, length, flags).check(3, 65536), Ok(want), "{operation:?}");
        }
    }

    #[test]
    fn a_header_that_lies_is_not_believed() {
        let change = |at: usize, to: u8| {
            let mut header = raw(5, 4, 0);
            header.0[at] = to;
            header
        };
        for (name, header, want) in [
            ("from somebody else", change(0, 4), BadPacket::Meaningless),
            ("from beyond 32 bits", change(4, 1), BadPacket::Meaningless),
            ("to a third party", change(8, 9), BadPacket::Meaningless),
            ("a seqpacket", change(28, 2), BadPacket::Refused(PORTS)),
            ("no operation", change(30, 0), BadPacket::Refused(PORTS)),
            ("an unknown operation", change(30, 8), BadPacket::Refused(PORTS)),
            ("longer than it is", raw(5, 5, 0), BadPacket::Refused(PORTS)),
            ("four gigabytes", raw(5, u32::MAX, 0), BadPacket::Refused(PORTS)),
        ] {
            assert_eq!(header.check(3, 4), Err(want), "{name}");
        }
        let too_long = raw(5, 65537, 0).check(3, 1 << 20);
        assert_eq!(too_long, Err(BadPacket::Refused(PORTS)), "longer than any driver sends");
    }

    #[test]
    fn a_header_for_the_guest_has_these_very_bytes() {
        let operation = Operation::Shutdown(Halves { receive: true, send: false });
        let bytes = Header { ports: PORTS, operation, credit: CREDIT }.to_bytes(3);
        assert_eq!(
            bytes,
            *b"\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x00\x04\0\0\x01\0\xff\xff\0\0\0\0\x01\0\x04\0\
               \x01\0\0\0\x04\x03\x02\x01\xf4\xf3\xf2\xf1"
        );
    }
}
