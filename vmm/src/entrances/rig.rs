//! A device behind its registers, with a guest's memory on one side and a host on the other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use vm_memory::{Bytes, GuestAddress};

use super::take;
use crate::bus::BusDevice;
use crate::devices::block::{self, Block, BlockState, Disk};
use crate::devices::fs::{self, Fs, FsState, Server};
use crate::devices::net::{self, HEADER, Net, NetState, Offloads, Wire, Wires};
use crate::devices::rng::{self, Rng, RngState};
use crate::devices::vsock::{self, Connections, Vsock, VsockState};
use crate::event_loop::EventLoop;
use crate::irq::Interrupt;
use crate::machine::BuildError;
use crate::memory::{self, Memory, Range};
use crate::section::{Section, State, States};
use crate::spec::{Limits, Rate};
use crate::virtio::buffers::Buffers;
use crate::virtio::device::{Device, Kicks};
use crate::virtio::mmio::{self, Busy, Mmio, QUEUE_NOTIFY};

const RAM_BYTES: u64 = 0x1_0000;
/// Descriptors in each queue that [`Rig::set_up`] sets up.
const QUEUE_SIZE: u16 = 16;
/// Where a queue's rings are: table, available, used.
const RINGS: [u64; 3] = [0, 0x100, 0x200];
/// Bytes for those of one queue.
const QUEUE_BYTES: u64 = 0x400;

/// The register of the steps that set a device up.
const STATUS: u64 = 0x70;

/// What a disk is full of.
const DISK: [u8; 4096] = [7; 4096];

/// What is over these waits: more than most programs ask for.
const LIMITS: Limits = Limits {
    bytes: Some(Rate { per_second: 1 << 20, burst: 1 << 16 }),
    requests: Some(Rate { per_second: 1000, burst: 50 }),
};

/// Numbers of devices.
const VSOCK: u8 = 0;
const READ_ONLY_BLOCK: u8 = 1;
const BLOCK: u8 = 2;
const RNG: u8 = 3;
const FS: u8 = 4;
pub(super) const DEVICES: u8 = 6;

/// What the section of a device's state is called.
pub(super) fn kind(device: u8) -> &'static str {
    match device % DEVICES {
        VSOCK => VsockState::KIND,
        READ_ONLY_BLOCK | BLOCK => BlockState::KIND,
        RNG => RngState::KIND,
        FS => FsState::KIND,
        _ => NetState::KIND,
    }
}

/// The other end of what a device was given.
enum Host {
    Nobody,
    Disk { image: File, read_only: bool },
    Stream(UnixStream),
    Messages(UnixDatagram),
}

pub(super) struct Rig {
    registers: Mmio,
    memory: Memory,
    kicks: Kicks,
    event_loop: EventLoop,
    host: Host,
    /// By queue: descriptors written, and chains offered.
    offered: [[u16; 2]; 8],
}

impl Rig {
    /// Plugs a device as `states` have it.
    pub(super) fn new(device: u8, states: &mut States) -> Result<Self, BuildError> {
        let memory = memory::allocate(&[Range { start: 0, bytes: RAM_BYTES }])?;
        let mut event_loop = EventLoop::new()?;
        let queues = match device % DEVICES {
            VSOCK => vsock::QUEUE_SIZES,
            READ_ONLY_BLOCK | BLOCK => block::queue_sizes(2),
            RNG => rng::QUEUE_SIZES,
            FS => fs::QUEUE_SIZES,
            _ => net::queue_sizes(2),
        };
        let kicks = mmio::kicks(queues.len())?;
        let state = states.take()?;
        let (device, host) = plug(device % DEVICES, states, kicks.clone(), &mut event_loop)?;
        let irq = Interrupt::new()?;
        let registers = Mmio::new(state, device, memory.clone(), irq, kicks.clone())?;
        let offered = Default::default();
        Ok(Self { registers, memory, kicks, event_loop, host, offered })
    }

    pub(super) fn save(&self) -> Result<[Section; 2], Busy> {
        self.registers.save()
    }

    /// Does what a driver does that keeps to the rules (virtio 1.2, 3.1.1), and agrees to everything but
    /// `without`.
    pub(super) fn set_up(&mut self, without: u64) {
        let [acknowledge, driver, driver_ok, features_ok] = [1, 2, 4, 8];
        self.set(STATUS, acknowledge);
        self.set(STATUS, acknowledge | driver);
        for page in 0..2 {
            self.set(0x14, page);
            self.set(0x24, page);
            let mut offered = [0; 4];
            self.registers.read(0x10, &mut offered);
            self.set(0x20, u32::from_le_bytes(offered) & !((without >> (32 * page)) as u32));
        }
        self.set(STATUS, acknowledge | driver | features_ok);
        for queue in 0..self.kicks.len() as u32 {
            self.set(0x30, queue);
            self.set(0x38, QUEUE_SIZE.into());
            for (register, ring) in [0x80, 0x90, 0xa0].into_iter().zip(RINGS) {
                self.set(register, queue * QUEUE_BYTES as u32 + ring as u32);
            }
            self.set(0x44, 1);
        }
        self.set(STATUS, acknowledge | driver | features_ok | driver_ok);
    }

    fn set(&mut self, register: u64, value: u32) {
        self.registers.write(register, &value.to_le_bytes());
    }

    /// How many chains of `queue` have come back.
    #[cfg(test)]
    pub(super) fn used(&self, queue: u64) -> u16 {
        self.memory.read_obj(GuestAddress(queue * QUEUE_BYTES + RINGS[2] + 2)).unwrap()
    }

    /// Does what `program` says to its end, and looks at what must not have changed.
    pub(super) fn run(&mut self, program: &mut &[u8]) {
        while self.step(program).is_some() {}
        if let Host::Disk { image, read_only } = &self.host {
            let mut bytes = [0; DISK.len()];
            assert!(image.read_exact_at(&mut bytes, 0).is_ok(), "a disk keeps its length");
            assert!(!image.read_at(&mut [0], DISK.len() as u64).is_ok_and(|more| more > 0));
            assert!(!read_only || bytes == DISK, "nobody writes to a read-only disk");
        }
    }

    fn step(&mut self, program: &mut &[u8]) -> Option<()> {
        let [action] = take(program)?;
        match action % 6 {
            // Registers lie four bytes apart; the configuration space is behind them.
            0 => {
                let ([place], [width]) = (take(program)?, take(program)?);
                let value: [u8; 8] = take(program)?;
                let bytes = [1, 2, 4, 4, 4, 4, 4, 8][usize::from(width % 8)];
                self.registers.write(u64::from(place) << 2, &value[..bytes]);
            }
            1 => {
                let [place, width] = take(program)?;
                let mut value = [0; 8];
                self.registers
                    .read(u64::from(place) << 2, &mut value[..usize::from(width % 8) + 1]);
            }
            2 => {
                let place = u16::from_le_bytes(take(program)?);
                let _ = self.memory.write_slice(text(program)?, GuestAddress(place.into()));
            }
            3 => self.offer(program)?,
            4 => {
                let [queue] = take(program)?;
                let queue = usize::from(queue) % self.kicks.len();
                self.set(QUEUE_NOTIFY, queue as u32);
                self.event_loop.turn().ok()?;
            }
            _ => {
                let said = text(program)?;
                let _ = match &self.host {
                    Host::Stream(stream) => io::Write::write(&mut &*stream, said),
                    Host::Messages(socket) => socket.send(said),
                    Host::Nobody | Host::Disk { .. } => Ok(0),
                };
            }
        }
        Some(())
    }

    /// Offers a chain of up to eight descriptors, each of them what it likes.
    fn offer(&mut self, program: &mut &[u8]) -> Option<()> {
        let [queue, parts] = take(program)?;
        let (queue, parts) = (usize::from(queue) % self.kicks.len(), parts % 8 + 1);
        let base = queue as u64 * QUEUE_BYTES;
        let [described, chains] = self.offered.get_mut(queue)?;
        let head = *described % QUEUE_SIZE;
        for part in 1..=parts {
            let address = u32::from_le_bytes(take(program)?);
            let bytes = u16::from_le_bytes(take(program)?);
            let [flags] = take(program)?;
            let (at, next) = (*described % QUEUE_SIZE, (*described + 1) % QUEUE_SIZE);
            let more = u16::from(part < parts) | u16::from(flags) & 6;
            let descriptor = [
                // Most are in memory.
                u64::from(if flags & 8 == 0 { address & 0xffff } else { address }).to_le_bytes(),
                (u64::from(bytes) | u64::from(more) << 32 | u64::from(next) << 48).to_le_bytes(),
            ];
            let place = GuestAddress(base + RINGS[0] + 16 * u64::from(at));
            self.memory.write_slice(&descriptor.concat(), place).ok()?;
            *described = described.wrapping_add(1);
        }
        let place = base + RINGS[1] + 4 + 2 * u64::from(*chains % QUEUE_SIZE);
        *chains = chains.wrapping_add(1);
        self.memory.write_slice(&head.to_le_bytes(), GuestAddress(place)).ok()?;
        let count = GuestAddress(base + RINGS[1] + 2);
        self.memory.write_slice(&chains.to_le_bytes(), count).ok()
    }
}

/// Bytes behind their number.
fn text<'p>(program: &mut &'p [u8]) -> Option<&'p [u8]> {
    let [length] = take(program)?;
    let (text, rest) = program.split_at_checked(length.into())?;
    *program = rest;
    Some(text)
}

fn plug(
    device: u8,
    states: &mut States,
    kicks: Kicks,
    event_loop: &mut EventLoop,
) -> Result<(Box<dyn Device>, Host), BuildError> {
    Ok(match device {
        VSOCK => {
            let (listener, _) = UnixDatagram::pair()?;
            let (near, far) = UnixStream::pair()?;
            far.set_nonblocking(true)?;
            let connections = Connections {
                guest_cid: 3,
                listener: listener.into(),
                host_ports: [(1, near.into())].into(),
                dialled: Box::new(|_| {}),
            };
            let device = Vsock::new(states.take()?, connections, kicks, event_loop)?;
            (Box::new(device), Host::Stream(far))
        }
        READ_ONLY_BLOCK | BLOCK => {
            let (image, read_only) = (file(&DISK)?, device == READ_ONLY_BLOCK);
            let given = if read_only { for_reading(&image)? } else { image.try_clone()? };
            let disk = Disk { image: given, read_only, own_threads: false, limits: LIMITS };
            let (device, _) = Block::new(states.take()?, 0, Some(disk), kicks, event_loop)?;
            (Box::new(device), Host::Disk { image, read_only })
        }
        RNG => (Box::new(Rng::new(states.take()?, kicks, event_loop)?), Host::Nobody),
        FS => {
            let (near, far) = messages()?;
            let server = Server { tag: "tag".into(), socket: Some(near.into()) };
            let device = Fs::new(states.take()?, server, kicks, event_loop)?;
            (Box::new(device), Host::Messages(far))
        }
        _ => {
            let (near, far) = messages()?;
            let wires = Wires::One(Box::new(Judge(near)));
            let card = ([2; 6], 1500);
            let (device, _) =
                Net::with(states.take()?, wires, [LIMITS; 2], card, kicks, event_loop)?;
            (Box::new(device), Host::Messages(far))
        }
    })
}

fn messages() -> io::Result<(UnixDatagram, UnixDatagram)> {
    let (near, far) = UnixDatagram::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok((near, far))
}

/// A wire that holds what it is given against what a host's kernel may be told.
struct Judge(UnixDatagram);

impl Wire for Judge {
    fn send(&mut self, header: &[u8; HEADER], mut frame: Buffers<'_>) -> io::Result<()> {
        let [flags, kind, numbers @ ..] = *header;
        let number = |at: usize| usize::from(u16::from_le_bytes([numbers[at], numbers[at + 1]]));
        let [headers, segment, start, offset] = [0, 2, 4, 6].map(number);
        assert!((14..=net::MAX_FRAME).contains(&frame.len()), "{} bytes", frame.len());
        assert!(flags <= 1 && matches!(kind & 0x7f, 0 | 1 | 4), "{header:?}");
        assert!(flags == 0 || start >= 14 && start + offset + 2 <= frame.len(), "{header:?}");
        let segments = flags == 1 && segment > 0 && headers <= frame.len();
        assert!(kind == 0 || segments, "{header:?}");
        frame.write_behind(header, self.0.as_fd())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.recv(into)
    }

    fn offload(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Judge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file of `bytes` that has no name.
pub(super) fn file(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

/// The same file, which cannot be written to.
fn for_reading(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
}
