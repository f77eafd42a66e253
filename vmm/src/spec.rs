//! What a VM is made of, and what its process says about it.
//!
//! The owner (whoever starts the VMM process) opens everything the VM may touch and hands it over as
//! inherited descriptors: a [`VmSpec`] names them by number. The VMM opens no path. Over
//! [`VmSpec::control`] it says [`Report`]s; when the owner's end of it closes, the VM ends.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

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
    /// An uncompressed 64-bit ELF kernel, opened for reading.
    pub kernel: Inherited,
    /// A cpio archive, opened for reading.
    pub initramfs: Inherited,
    /// Added to the kernel command line behind what the machine itself needs.
    pub command_line: String,
    /// Disk slots in order: the first is `/dev/vda` in the guest. `None` is an empty slot, which is
    /// there and has no sectors.
    pub disks: Vec<Option<DiskSpec>>,
    /// The socket device.
    pub vsock: VsockSpec,
    /// What the guest's serial port says goes here as well as into the last words, if given.
    pub serial_log: Option<Inherited>,
    /// A `SOCK_SEQPACKET` Unix socket; one [`Report`] in JSON is one packet.
    pub control: Inherited,
}

/// The most virtual CPUs a VM can have.
pub const MAX_VCPUS: u8 = 32;

/// The least memory that holds a kernel, an initramfs and an agent.
pub const MIN_RAM_BYTES: u64 = 64 << 20;

/// A disk in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The image file, a whole number of 512-byte sectors.
    pub image: Inherited,
    /// Writes are refused by the host, whatever the guest does.
    pub read_only: bool,
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
