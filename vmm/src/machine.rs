//! A machine: what the spec asks for, put together and not yet running.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_ioctls::VcpuFd;

use crate::arch::{self, cpu::Processors, layout};
use crate::boot;
use crate::bus::Bus;
use crate::devices::block::{Block, BlockState, Disk, OpenDiskError};
use crate::devices::fs::{Fs, FsState, Server};
use crate::devices::reset::ResetLine;
use crate::devices::rng::{Rng, RngState};
use crate::devices::serial::{LastWords, SerialLine};
use crate::devices::vsock::{Connections, Dialled, Leave, Vsock, VsockState};
use crate::devices::{block, fs, rng, vsock};
use crate::ending::Ends;
use crate::event_loop::EventLoop;
use crate::irq::Interrupt;
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::{self, Memory, MemoryError};
use crate::virtio::device::{Device, Kicks};
use crate::virtio::mmio::{self, Mmio, MmioState, TransportError};

/// Everything a machine is made of.
pub struct Parts {
    /// See [`crate::spec::VmSpec`] for this and what follows.
    pub vcpus: u8,
    /// Bytes of memory.
    pub ram_bytes: u64,
    /// The hypervisor.
    pub kvm: Kvm,
    /// The kernel's ELF file.
    pub kernel: File,
    /// The initramfs.
    pub initramfs: File,
    /// The owner's part of the command line.
    pub command_line: String,
    /// A disk, or none, for each slot.
    pub disks: Vec<Option<Disk>>,
    /// The guest's context id.
    pub guest_cid: u32,
    /// Where the guest is dialled.
    pub listener: OwnedFd,
    /// What the guest may dial.
    pub host_ports: BTreeMap<u32, OwnedFd>,
    /// Who serves the guest's file system, if it has one.
    pub fs: Option<Server>,
    /// Where the serial line is written down.
    pub serial_log: Option<File>,
    /// Told of the ports that the guest dials.
    pub dialled: Dialled,
    /// Told of each step of the way.
    pub reached: Box<dyn Fn(Step)>,
}

/// A step on the way to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is an empty VM.
    KvmReady,
    /// Kernel and initramfs are in memory.
    Loaded,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM does not do it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There is no kernel in it.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// A vCPU cannot be what it should.
    #[error(transparent)]
    PowerOn(#[from] arch::cpu::PowerOnError),
    /// A disk is none.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// A device has no registers.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// There are more devices than interrupts.
    #[error("more devices than interrupts")]
    TooManyDevices,
    /// The system refused a descriptor.
    #[error("setting up devices: {0}")]
    Io(#[from] io::Error),
}

/// A machine at power-on.
pub struct Machine {
    /// Its vCPUs, the first of them at the kernel's entry.
    pub vcpus: Vec<VcpuFd>,
    /// Its memory-mapped devices.
    pub memory_bus: Arc<Bus>,
    /// Its devices at ports.
    pub port_bus: Arc<Bus>,
    /// What the guest says on the serial line.
    pub last_words: Arc<Mutex<LastWords>>,
    /// To leave the socket device without losing anything.
    pub leave: Leave,
    /// The VM in the kernel, which lives as long as this.
    pub vm: Vm,
    /// Its memory, which the VM looks at.
    pub memory: Memory,
}

/// Puts a machine together. Its devices wait on `event_loop`, its end is told to `ends`.
pub fn build(
    mut parts: Parts,
    event_loop: &mut EventLoop,
    ends: &Ends,
) -> Result<Machine, BuildError> {
    let ram = layout::memory(parts.ram_bytes);
    let memory = memory::allocate(&ram)?;
    let vm = parts.kvm.create_vm()?;
    vm.map(&memory)?;
    vm.create_interrupt_controllers(layout::KVM_PRIVATE_PAGES)?;
    (parts.reached)(Step::KvmReady);

    let mut slots =
        Slots { vm: &vm, memory: &memory, bus: Bus::default(), words: vec![], taken: 0 };
    let connections = Connections {
        guest_cid: parts.guest_cid,
        listener: parts.listener,
        host_ports: parts.host_ports,
        dialled: parts.dialled,
    };
    let kicks = mmio::kicks(vsock::QUEUE_SIZES.len())?;
    let socket_device = Vsock::new(VsockState::default(), connections, kicks.clone(), event_loop)?;
    let leave = socket_device.leave();
    slots.plug(Box::new(socket_device), kicks)?;
    for (slot, disk) in parts.disks.into_iter().enumerate() {
        let kicks = mmio::kicks(block::QUEUE_SIZES.len())?;
        let disk = Block::new(BlockState::default(), slot, disk, kicks.clone(), event_loop)?;
        slots.plug(Box::new(disk), kicks)?;
    }
    let kicks = mmio::kicks(rng::QUEUE_SIZES.len())?;
    let entropy = Rng::new(RngState::default(), kicks.clone(), event_loop)?;
    slots.plug(Box::new(entropy), kicks)?;
    // Last, so that the others are where they are without it. An empty slot would be free but for the
    // driver, which sets its queues up at boot.
    if let Some(server) = parts.fs {
        let kicks = mmio::kicks(fs::QUEUE_SIZES.len())?;
        let files = Fs::new(FsState::default(), server, kicks.clone(), event_loop)?;
        slots.plug(Box::new(files), kicks)?;
    }
    let Slots { bus: memory_bus, words, .. } = slots;

    let last_words = Arc::new(Mutex::new(LastWords::default()));
    let serial = SerialLine::new(last_words.clone(), parts.serial_log);
    let mut port_bus = Bus::default();
    port_bus.insert(layout::SERIAL_PORT, layout::SERIAL_PORTS, Arc::new(Mutex::new(serial)));
    let reset = Arc::new(Mutex::new(ResetLine::new(ends.clone())));
    port_bus.insert(layout::KEYBOARD_PORT, layout::KEYBOARD_PORTS, reset);

    let machine_words = [arch::boot::COMMAND_LINE_OF_MACHINE.to_owned()];
    let command_line = [&machine_words[..], &words, &[parts.command_line]].concat().join(" ");
    let kernel = &mut parts.kernel;
    let entry =
        boot::load(&memory, &ram, parts.vcpus, kernel, &mut parts.initramfs, &command_line)?;
    (parts.reached)(Step::Loaded);

    let processors = Processors {
        vcpus: parts.vcpus,
        supported_cpuid: parts.kvm.supported_cpuid()?,
        tsc_deadline: parts.kvm.has_tsc_deadline(),
    };
    let mut vcpus = Vec::with_capacity(usize::from(parts.vcpus));
    for index in 0..parts.vcpus {
        let vcpu = vm.create_vcpu(index)?;
        processors.power_on(&vcpu, index, entry)?;
        vcpus.push(vcpu);
    }
    let (memory_bus, port_bus) = (Arc::new(memory_bus), Arc::new(port_bus));
    Ok(Machine { vcpus, memory_bus, port_bus, last_words, leave, vm, memory })
}

/// Where devices are plugged: each takes a page of addresses and an interrupt.
struct Slots<'a> {
    vm: &'a Vm,
    memory: &'a Memory,
    bus: Bus,
    /// How the kernel is told of each.
    words: Vec<String>,
    taken: u32,
}

impl Slots<'_> {
    fn plug(&mut self, device: Box<dyn Device>, kicks: Kicks) -> Result<(), BuildError> {
        let base = layout::DEVICES + u64::from(self.taken) * layout::DEVICE_BYTES;
        let gsi = layout::DEVICE_INTERRUPTS.start() + self.taken;
        if !layout::DEVICE_INTERRUPTS.contains(&gsi) {
            return Err(BuildError::TooManyDevices);
        }
        self.taken += 1;
        let irq = Interrupt::new()?;
        self.vm.connect_interrupt(irq.event(), gsi)?;
        for (queue, kick) in (0..).zip(kicks.iter()) {
            self.vm.connect_notification(kick, base + mmio::QUEUE_NOTIFY, queue)?;
        }
        let registers = Mmio::new(MmioState::default(), device, self.memory.clone(), irq, kicks)?;
        self.bus.insert(base, layout::DEVICE_BYTES, Arc::new(Mutex::new(registers)));
        self.words.push(arch::boot::command_line_of_device(base, gsi));
        Ok(())
    }
}
