//! Frames between a driver's queues and a wire (virtio 1.2, 5.1.6).
//!
//! In front of each frame stands a header, which says what its sender has left to whoever comes next:
//!
//! ```text
//!   flags u8 · gso_type u8 · hdr_len u16 · gso_size u16 · csum_start u16 · csum_offset u16 · num_buffers u16
//! ```
//!
//! A header of the guest's is copied once and judged against the frame's length and what was agreed on; what
//! goes to the wire is that copy. The frame behind it is never looked at: it goes from guest memory to the
//! wire in one call, and may say what it likes. One that is a lie is lost, as on any wire.
//!
//! A frame from the wire lies in as many of the driver's buffers as it takes ("mergeable"), which come back
//! to it at one moment.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use virtio_bindings::virtio_net as net;
use virtio_queue::{Queue, QueueT};

use super::feature;
use crate::memory::Memory;
use crate::virtio::buffers::Buffers;
use crate::virtio::chain::{self, Lie};

/// `struct virtio_net_hdr_v1`.
pub(crate) const HEADER: usize = 12;

/// Where it says over how many buffers its frame goes.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

/// Ethernet's header.
pub(super) const ETHERNET: usize = 14;

/// The longest frame: the longest IP packet, Ethernet's header and the tag of a VLAN.
pub(crate) const MAX_FRAME: usize = 65_535 + ETHERNET + 4;

/// A wire: frames with a header in front, each whole or not at all. Neither way waits.
pub(crate) trait Wire: AsFd + Send {
    /// Sends a frame. [`io::ErrorKind::WouldBlock`] is that it has taken nothing of it now; its descriptor says
    /// when it does again. With any other error the frame is lost.
    fn send(&mut self, header: &[u8; HEADER], frame: Buffers<'_>) -> io::Result<()>;
    /// Goes on with a frame that it has taken and not passed on yet, now that its descriptor can be written to.
    fn go_on(&mut self) {}
    /// Takes a frame with its header, and gives the length of both.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// From now on it may leave this to whoever receives from it.
    fn offload(&mut self, offloads: Offloads) -> io::Result<()>;
    /// From now on frames may come by it, or have to come by another of the same card.
    fn attend(&mut self, _: bool) {}
}

/// What a wire may leave undone, as `TUN_F_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads(pub(super) u32);

impl Offloads {
    /// What a driver has agreed to do.
    pub(super) fn agreed(features: u64) -> Self {
        // The second needs the first, and the third the second (5.1.3.1).
        if features & feature::GUEST_CSUM == 0 {
            return Self(0);
        }
        let segments = [
            (feature::GUEST_TSO4, libc::TUN_F_TSO4),
            (feature::GUEST_TSO6, libc::TUN_F_TSO6),
            (feature::GUEST_ECN, libc::TUN_F_TSO_ECN),
        ];
        let agreed = segments.iter().filter(|(feature, _)| features & feature != 0);
        let mut offloads = agreed.fold(libc::TUN_F_CSUM, |all, (_, offload)| all | offload);
        if offloads & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
            offloads &= !libc::TUN_F_TSO_ECN;
        }
        Self(offloads)
    }
}

/// What is wrong with a frame of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameLie {
    /// There is no header, or less than Ethernet's behind it.
    TooShort,
    /// No packet is that long.
    TooLong,
    /// It leaves something to us that was not agreed on.
    NotAgreed,
    /// A checksum that is not in the frame.
    Checksum,
    /// Segments that cannot be.
    Segments,
}

/// What a frame's sender has left to do, as the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawHeader {
    flags: u8,
    gso_type: u8,
    /// `hdr_len`, `gso_size`, `csum_start`, `csum_offset`.
    numbers: [u16; 4],
}

impl RawHeader {
    fn of(bytes: &[u8; HEADER]) -> Self {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self { flags: bytes[0], gso_type: bytes[1], numbers: [2, 4, 6, 8].map(number) }
    }

    /// The header as the wire gets it, for a frame of `bytes` bytes.
    fn check(self, bytes: usize, features: u64) -> Result<[u8; HEADER], FrameLie> {
        let Self { flags, gso_type, numbers } = self;
        let [headers, segment, start, offset] = numbers.map(usize::from);
        let agreed = |feature: u64| features & feature != 0;
        let mut header = [0; HEADER];
        let has_checksum = flags & net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8 != 0;
        if has_checksum {
            if !agreed(feature::CSUM) {
                return Err(FrameLie::NotAgreed);
            }
            // Two bytes behind Ethernet's header and within the frame.
            if start < ETHERNET || start + offset + 2 > bytes {
                return Err(FrameLie::Checksum);
            }
            header[0] = net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
            header[6..8].copy_from_slice(&numbers[2].to_le_bytes());
            header[8..10].copy_from_slice(&numbers[3].to_le_bytes());
        }
        const ECN: u8 = net::VIRTIO_NET_HDR_GSO_ECN as u8;
        let needed = match u32::from(gso_type & !ECN) {
            net::VIRTIO_NET_HDR_GSO_NONE if gso_type == 0 => return Ok(header),
            net::VIRTIO_NET_HDR_GSO_TCPV4 => feature::HOST_TSO4,
            net::VIRTIO_NET_HDR_GSO_TCPV6 => feature::HOST_TSO6,
            _ => return Err(FrameLie::NotAgreed),
        };
        if !agreed(needed) || gso_type & ECN != 0 && !agreed(feature::HOST_ECN) {
            return Err(FrameLie::NotAgreed);
        }
        // Each segment needs a checksum of its own (5.1.6.2.1), some data, and all of the headers.
        if !has_checksum || segment == 0 || headers > bytes {
            return Err(FrameLie::Segments);
        }
        header[1] = gso_type;
        header[2..4].copy_from_slice(&numbers[0].to_le_bytes());
        header[4..6].copy_from_slice(&numbers[1].to_le_bytes());
        Ok(header)
    }
}

/// What became of an attempt to send a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way, or lost.
    Gone,
    /// The wire has no room for it now.
    NoRoom,
}

/// What became of an attempt to bring the driver a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// It has one, or there was one that no driver could take.
    Frame,
    /// There is one, and no room for it in as many buffers as were seen.
    NoRoom {
        /// How many.
        seen: u16,
    },
    /// There is none.
    Nothing,
}

/// Carries frames.
pub(super) struct Core {
    wire: Option<Box<dyn Wire>>,
    /// A frame that has come, with its header.
    frame: Vec<u8>,
    /// How long it is; 0 if there is none.
    held: usize,
}

impl Core {
    pub(super) fn new(wire: Option<Box<dyn Wire>>) -> Self {
        let room = if wire.is_some() { HEADER + MAX_FRAME } else { 0 };
        Self { wire, frame: vec![0; room], held: 0 }
    }

    /// Begins with a driver that has agreed to `features`.
    pub(super) fn agree(&mut self, features: u64) -> io::Result<()> {
        self.held = 0;
        match &mut self.wire {
            Some(wire) => wire.offload(Offloads::agreed(features)),
            None => Ok(()),
        }
    }

    /// Sends a frame of the guest's.
    pub(super) fn send(&mut self, mut frame: Buffers<'_>, features: u64) -> Result<Sent, FrameLie> {
        let header = frame.take_array().ok_or(FrameLie::TooShort)?;
        match frame.len() {
            0..ETHERNET => return Err(FrameLie::TooShort),
            ETHERNET..=MAX_FRAME => {}
            _ => return Err(FrameLie::TooLong),
        }
        let header = RawHeader::of(&header).check(frame.len(), features)?;
        let sent = self.wire.as_mut().map(|wire| wire.send(&header, frame));
        Ok(match sent {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Sent::NoRoom,
            // Lost, if the wire is down.
            _ => Sent::Gone,
        })
    }

    /// Frames may come by this wire, or have to come by another.
    pub(super) fn attend(&mut self, attends: bool) {
        if let Some(wire) = &mut self.wire {
            wire.attend(attends);
        }
    }

    /// The wire can be written to.
    pub(super) fn go_on(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.go_on();
        }
    }

    /// The length of the next frame, if there is one.
    pub(super) fn next_bytes(&mut self) -> Option<usize> {
        (self.held > 0 || self.take()).then(|| self.held - HEADER)
    }

    /// Brings the driver the next frame. A buffer that is a lie breaks the queue: a frame is counted by its
    /// buffers, and without one of them the driver would take the next frame's.
    pub(super) fn bring(
        &mut self,
        queue: &mut Queue,
        memory: &Memory,
        features: u64,
    ) -> Result<Brought, Lie> {
        if self.held == 0 && !self.take() {
            return Ok(Brought::Nothing);
        }
        let most = if features & feature::MRG_RXBUF == 0 { 1 } else { usize::from(queue.size()) };
        let (mut buffers, mut heads, mut room) = (vec![], vec![], 0);
        while room < self.held && heads.len() < most {
            let Some(chain) = chain::next(queue, memory)? else {
                heads.iter().for_each(|_| chain::put_back(queue));
                return Ok(Brought::NoRoom { seen: heads.len() as u16 });
            };
            let head = chain.head();
            let (_, writable) = chain.open()?;
            room += writable.len();
            heads.push(head);
            buffers.push(writable);
        }
        let frame = &mut self.frame[..std::mem::take(&mut self.held)];
        if room < frame.len() {
            heads.iter().for_each(|_| chain::put_back(queue));
            return Ok(Brought::Frame);
        }
        if features & feature::GUEST_CSUM == 0 {
            // "Its checksum is right" is for those who agreed to hear it.
            frame[0] = 0;
        }
        // As many as the queue's descriptors at most.
        frame[NUM_BUFFERS].copy_from_slice(&(heads.len() as u16).to_le_bytes());
        let mut rest = &*frame;
        let written: Vec<_> = (heads.into_iter().zip(&mut buffers))
            .map(|(head, buffer)| {
                let written = buffer.copy_from(rest);
                rest = &rest[written..];
                (head, written)
            })
            .collect();
        chain::complete_together(queue, memory, &written)?;
        Ok(Brought::Frame)
    }

    /// Takes a frame off the wire.
    fn take(&mut self) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        match wire.receive(&mut self.frame) {
            Ok(bytes) if bytes > HEADER => self.held = bytes.min(self.frame.len()),
            // There is none; or the interface is gone, and none will ever come.
            Ok(_) | Err(_) => {}
        }
        self.held > 0
    }

    /// What says that there is a frame.
    pub(super) fn wire(&self) -> Option<BorrowedFd<'_>> {
        self.wire.as_ref().map(|wire| wire.as_fd())
    }
}
