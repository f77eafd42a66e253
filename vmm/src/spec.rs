//! What a VM is made of, and what its process says about it.
//!
//! The owner (whoever starts the VMM process) opens everything the VM may touch and hands it over as
//! inherited descriptors: a [`VmSpec`] names them by number. The VMM opens no path. Over
//! [`VmSpec::control`] it says [`Report`]s; when the owner's end of it closes, the VM ends.

mod limits;
mod net;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

pub use self::limits::{Limits, Rate};
pub use self::net::{MAX_PAIRS, NetSpec, WireSpec};

/// A descriptor the VMM process inherited, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inherited(pub RawFd);

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory, a multiple of 2 MiB, at least [`MIN_RAM_BYTES`].
    pub ram_bytes: u64,
    /// `/dev/kvm`, opened for reading and writing.
    pub kvm: Inherited,
    /// Where the guest's first instruction comes from.
    pub begin: Begin,
    /// Disk slots in order: the first is `/dev/vda` in the guest. `None` is an empty slot, which is
    /// there and has no sectors.
    pub disks: Vec<Option<DiskSpec>>,
    /// The socket device.
    pub vsock: VsockSpec,
    /// The file system device, if the guest has one.
    #[serde(default)]
    pub fs: Option<FsSpec>,
    /// Network slots in order: the first is `eth0` in the guest. `None` is an empty slot, whose link is down.
    #[serde(default)]
    pub nets: Vec<Option<NetSpec>>,
    /// What the guest's serial port says goes here as well as into the last words, if given.
    pub serial_log: Option<Inherited>,
    /// Where the machine is saved to when the owner orders that with [`Order::Capture`]. A VM without
    /// cannot be.
    #[serde(default)]
    pub capture: Option<SnapshotSpec>,
    /// What a guest that goes on touches, if that is known: opened for reading.
    #[serde(default)]
    pub working_set: Option<Inherited>,
    /// Where that is written down when the owner orders it with [`Order::Record`]: an empty file, opened for writing. A
    /// VM without does not know it.
    #[serde(default)]
    pub record: Option<Inherited>,
    /// A `SOCK_SEQPACKET` Unix socket; one [`Report`] or [`Order`] in JSON is one packet.
    pub control: Inherited,
}

/// How a VM begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Begin {
    /// With a kernel.
    Boot {
        /// An uncompressed 64-bit ELF kernel, opened for reading, and for this VM alone: its place in the
        /// file is moved.
        kernel: Inherited,
        /// A cpio archive, opened for reading, and for this VM alone.
        initramfs: Inherited,
        /// Added to the kernel command line behind what the machine itself needs.
        command_line: String,
    },
    /// Where another was saved that had as many vCPUs, as much memory and as many slots. What is in the
    /// slots is this VM's own.
    Restore(SnapshotSpec),
}

/// A saved machine, by the descriptors of its two files (`docs/snapshot-format.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// Its state. To capture into, an empty file, opened for writing.
    pub state: Inherited,
    /// Its memory, which must not change while it is somebody's. To capture into, an empty file, opened
    /// for reading and writing.
    pub memory: Inherited,
}

impl VmSpec {
    /// Every descriptor it names.
    pub fn descriptors(&self) -> impl Iterator<Item = Inherited> {
        let disks = self.disks.iter().flatten().map(|disk| disk.image);
        let ports = self.vsock.host_ports.iter().map(|port| port.socket);
        let begin = match &self.begin {
            Begin::Boot { kernel, initramfs, .. } => [*kernel, *initramfs],
            Begin::Restore(SnapshotSpec { state, memory }) => [*state, *memory],
        };
        let capture = self.capture.iter().flat_map(|files| [files.state, files.memory]);
        [self.kvm, self.vsock.listener, self.control]
            .into_iter()
            .chain(begin)
            .chain(capture)
            .chain(self.working_set)
            .chain(self.record)
            .chain(self.serial_log)
            .chain(self.fs.as_ref().and_then(|fs| fs.socket))
            .chain(self.nets.iter().flatten().flat_map(|net| net.wire.descriptors()).copied())
            .chain(disks)
            .chain(ports)
    }

    /// Finds what no machine can be made of, by the field's name.
    pub fn check(&self) -> Result<(), SpecError> {
        let Self { vcpus, ram_bytes, ref disks, ref vsock, .. } = *self;
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(SpecError::Vcpus(vcpus));
        }
        if !(MIN_RAM_BYTES..=MAX_RAM_BYTES).contains(&ram_bytes) || ram_bytes % RAM_STEP_BYTES != 0
        {
            return Err(SpecError::Ram(ram_bytes));
        }
        if disks.len() > MAX_DISKS {
            return Err(SpecError::Disks(disks.len()));
        }
        for (slot, disk) in (0..).zip(disks).filter_map(|(slot, disk)| Some((slot, disk.as_ref()?)))
        {
            if disk.limits.are_shut() {
                return Err(SpecError::DiskRate { slot });
            }
            if disk.own_threads && self.capture.is_some() {
                return Err(SpecError::DiskThreads { slot });
            }
        }
        if self.nets.len() > MAX_NETS {
            return Err(SpecError::Nets(self.nets.len()));
        }
        // The threads of several queues might be at work when the machine is saved.
        let queues = if self.capture.is_some() { 1 } else { usize::from(vcpus).min(MAX_PAIRS) };
        for (slot, net) in self.nets.iter().enumerate() {
            net.as_ref().map_or(Ok(()), |net| net.check(slot, queues))?;
        }
        if vsock.guest_cid < 3 || vsock.guest_cid == u32::MAX {
            return Err(SpecError::GuestCid(vsock.guest_cid));
        }
        if let Some(FsSpec { tag, .. }) = &self.fs
            && (!(1..=MAX_TAG_BYTES).contains(&tag.len()) || tag.contains('\0'))
        {
            return Err(SpecError::FsTag(tag.clone()));
        }
        if let Begin::Boot { command_line, .. } = &self.begin
            && let Some(at) = command_line.bytes().position(|byte| !(b' '..=b'~').contains(&byte))
        {
            return Err(SpecError::CommandLine { at });
        }
        let mut ports: Vec<u32> = vsock.host_ports.iter().map(|port| port.port).collect();
        ports.sort_unstable();
        match ports.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(SpecError::PortTwice(pair[0])),
            None => Ok(()),
        }
    }
}

/// What is wrong with a [`VmSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// `vcpus` is out of range.
    #[error("vcpus is {0}, not 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// `ram_bytes` is out of range or between two steps.
    #[error(
        "ram_bytes is {0}, not a multiple of {RAM_STEP_BYTES} from {MIN_RAM_BYTES} to {MAX_RAM_BYTES}"
    )]
    Ram(u64),
    /// `disks` has too many slots.
    #[error("{0} disks, over the limit of {MAX_DISKS}")]
    Disks(usize),
    /// A disk that never gets to do anything.
    #[error("disk {slot} has a rate of 0")]
    DiskRate {
        /// Which slot.
        slot: usize,
    },
    /// A disk that might be at work when the machine is saved.
    #[error("disk {slot} has threads of its own, in a VM that can be saved")]
    DiskThreads {
        /// Which slot.
        slot: usize,
    },
    /// `nets` has too many slots.
    #[error("{0} network slots, over the limit of {MAX_NETS}")]
    Nets(usize),
    /// A card that never gets to do anything.
    #[error("nets[{slot}] has a rate of 0")]
    NetRate {
        /// Which slot.
        slot: usize,
    },
    /// The tap of `nets[]` has another number of queues than one, or one for each vCPU.
    #[error("nets[{slot}] has a tap of {queues} queues, where there can be {most}")]
    TapQueues {
        /// Which slot.
        slot: usize,
        /// How many it has.
        queues: usize,
        /// How many there can be.
        most: usize,
    },
    /// `nets[].mac` is nobody's.
    #[error("nets[{slot}].mac is not one card's address")]
    Mac {
        /// Which slot.
        slot: usize,
    },
    /// `nets[].mtu` is too small for IPv4.
    #[error("nets[{slot}].mtu is {mtu}, under the least of {MIN_MTU}")]
    Mtu {
        /// Which slot.
        slot: usize,
        /// What it is.
        mtu: u16,
    },
    /// `vsock.guest_cid` belongs to somebody else.
    #[error("vsock.guest_cid is {0}, which no guest can have")]
    GuestCid(u32),
    /// `fs.tag` is no name for a file system.
    #[error("fs.tag is {0:?}, not 1 to {MAX_TAG_BYTES} bytes without a zero")]
    FsTag(String),
    /// `command_line` has a character that would not reach the kernel as it is.
    #[error("command_line has a character at {at} that is not printable ASCII")]
    CommandLine {
        /// Its place.
        at: usize,
    },
    /// `vsock.host_ports` names a port twice.
    #[error("vsock.host_ports names port {0} twice")]
    PortTwice(u32),
}

/// The most virtual CPUs a VM can have.
pub const MAX_VCPUS: u8 = 32;

/// The least memory that holds a kernel, an initramfs and an agent.
pub const MIN_RAM_BYTES: u64 = 64 << 20;

/// The most memory a VM can have: more than any machine this was made for.
pub const MAX_RAM_BYTES: u64 = 1 << 40;

/// Memory comes in large pages.
pub const RAM_STEP_BYTES: u64 = 2 << 20;

/// The longest tag of a file system (virtio 1.2, 5.11.4).
pub const MAX_TAG_BYTES: usize = 36;

/// The most disk slots: what is left of the interrupts.
pub const MAX_DISKS: usize = 16;

/// The most network slots.
pub const MAX_NETS: usize = 8;

/// The least a link may carry in one packet (RFC 791, 3.2; virtio 1.2, 5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// A disk in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The image file, a whole number of 512-byte sectors.
    pub image: Inherited,
    /// Writes are refused by the host, whatever the guest does. The descriptor is open for reading alone
    /// then, and for both otherwise.
    pub read_only: bool,
    /// Each of its queues is served by a thread of its own, so that nothing else of the VM waits for this
    /// disk. Not in a VM that can be saved.
    #[serde(default)]
    pub own_threads: bool,
    /// How fast it may be.
    #[serde(default)]
    pub limits: Limits,
}

impl DiskSpec {
    /// A disk that is only read, as fast as it is.
    pub fn read_only(image: Inherited) -> Self {
        Self { image, read_only: true, own_threads: false, limits: Limits::default() }
    }
}

/// The socket device, with the Unix-socket convention that Firecracker, Cloud Hypervisor and Kata
/// share: a client of `listener` says `CONNECT <port>\n`, is told `OK <number>\n` and is through to
/// that port of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockSpec {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// A listening Unix stream socket.
    pub listener: Inherited,
    /// Ports of the host (CID 2) the guest may dial, once each: the connected Unix stream socket that
    /// becomes the other end. Every other port is refused.
    pub host_ports: Vec<HostPort>,
}

/// A port of the host that the guest may dial once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Its number.
    pub port: u32,
    /// The connected stream socket behind it.
    pub socket: Inherited,
}

/// The file system device, which knows nothing of files: it carries FUSE messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsSpec {
    /// What the guest mounts it by.
    pub tag: String,
    /// A connected `SOCK_SEQPACKET` Unix socket to the file server: a request or a reply is one
    /// packet. `None` is an empty slot, in which every request is answered with an I/O error.
    pub socket: Option<Inherited>,
}

/// What the owner says to a VMM process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Stop the guest, save the machine where [`VmSpec::capture`] says, and end. A VM that ends first
    /// has not been saved.
    Capture,
    /// Write down where [`VmSpec::record`] says what the guest has touched since it went on, and end.
    Record,
    /// Put the tap that comes with this packet into a network slot, in the place of what is there. It is as
    /// [`WireSpec::Tap`] has it.
    Plug {
        /// Which one.
        slot: u8,
    },
    /// Take away what is in a network slot.
    Unplug {
        /// Which one.
        slot: u8,
    },
}

/// What a VMM process says to its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// A named moment on the way, for a timeline.
    Mark {
        /// Its name.
        name: String,
        /// `CLOCK_MONOTONIC`, nanoseconds.
        monotonic_ns: u64,
    },
    /// The VM is over; the last report.
    Ended {
        /// Why.
        ending: Ending,
    },
}

/// Why a VM is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Ending {
    /// The guest powered itself off.
    PoweredOff,
    /// The owner closed the control socket.
    OwnerGone,
    /// It was saved, as it was ordered.
    Captured,
    /// It was written down what the guest touched, as it was ordered.
    Recorded,
    /// The guest's kernel panicked.
    Panicked {
        /// The line behind "Kernel panic - not syncing".
        message: String,
        /// The end of what it said on the serial port.
        last_words: String,
    },
    /// A vCPU shut down (triple fault).
    TripleFault {
        /// The end of what it said on the serial port.
        last_words: String,
    },
    /// KVM could not go on with a vCPU.
    KvmStopped {
        /// The exit reason in words, with what KVM said about it.
        reason: String,
        /// The end of what it said on the serial port.
        last_words: String,
    },
    /// The VM could not be set up, or the VMM failed.
    Failed {
        /// One line.
        message: String,
    },
}
