//! A machine: what the spec asks for, put together and not yet running.
//!
//! There is one road. Each part is made from a state, which is power-on or was saved; only where the
//! vCPUs stand and what is in memory comes from a kernel in the one case and from the states in the other.

mod capture;
mod working_set;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use kvm_ioctls::VcpuFd;

use self::capture::MachineState;
pub use self::capture::{Body, CaptureError, SaveTo, Shape};
use self::working_set::WorkingSet;
pub use self::working_set::{RecordError, WorkingSetError};
use crate::arch::state::{ChipsState, VcpuState};
use crate::arch::{self, cpu::Processors, layout};
use crate::boot;
use crate::bus::Bus;
use crate::devices::block::{Block, Disk, OpenDiskError};
use crate::devices::fs::{Fs, Server};
use crate::devices::net::{Card, Net, OpenWireError};
use crate::devices::reset::ResetLine;
use crate::devices::rng::Rng;
use crate::devices::serial::{LastWords, SerialLine};
use crate::devices::vsock::{Connections, Dialled, Leave, Vsock};
use crate::devices::{block, fs, net, rng, vsock};
use crate::ending::Ends;
use crate::event_loop::EventLoop;
use crate::irq::Interrupt;
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::{self, FileId, Memory, MemoryError, Range, Watch};
use crate::section::{SectionError, State, States};
use crate::snapshot::{self, FormatError};
use crate::virtio::device::{Device, Kicks};
use crate::virtio::mmio::{self, Mmio, TransportError};

/// Everything a machine is made of.
pub struct Parts {
    /// See [`crate::spec::VmSpec`] for this and what follows.
    pub vcpus: u8,
    /// Bytes of memory.
    pub ram_bytes: u64,
    /// The hypervisor.
    pub kvm: Kvm,
    /// Where its first instruction comes from.
    pub begin: Begin,
    /// What a guest that goes on touches, if that is known.
    pub working_set: Option<File>,
    /// Whether it is to be known what this one touches.
    pub recorded: bool,
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
    /// A network card, or none, for each slot.
    pub nets: Vec<Option<Card>>,
    /// Where the serial line is written down.
    pub serial_log: Option<File>,
    /// Told of the ports that the guest dials.
    pub dialled: Dialled,
    /// Told of each step of the way.
    pub reached: Box<dyn Fn(Step)>,
}

/// How it begins.
pub enum Begin {
    /// With a kernel.
    Boot {
        /// The kernel's ELF file.
        kernel: File,
        /// The initramfs.
        initramfs: File,
        /// The owner's part of the command line.
        command_line: String,
    },
    /// Where another was saved.
    Restore {
        /// The file of its state.
        state: File,
        /// The file of its memory.
        memory: File,
    },
}

/// A step on the way to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is an empty VM.
    KvmReady,
    /// Kernel and initramfs are in memory.
    Loaded,
    /// It is where another was saved.
    Restored,
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
    Cpu(#[from] arch::cpu::CpuError),
    /// The state cannot be read.
    #[error("snapshot: {0}")]
    ReadState(#[source] io::Error),
    /// The state is none.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The state is not that of such a machine.
    #[error(transparent)]
    State(#[from] SectionError),
    /// A disk is none.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// A tap is none.
    #[error(transparent)]
    Tap(#[from] OpenWireError),
    /// What its guest writes to is not known as it should be.
    #[error(transparent)]
    WorkingSet(#[from] WorkingSetError),
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

/// A machine that can start.
pub struct Machine {
    /// Its vCPUs, at the kernel's entry or where they were saved.
    pub vcpus: Vec<VcpuFd>,
    /// Its memory-mapped devices.
    pub memory_bus: Arc<Bus>,
    /// Its devices at ports.
    pub port_bus: Arc<Bus>,
    /// What the guest says on the serial line.
    pub last_words: Arc<Mutex<LastWords>>,
    /// What waits for the queues of disks that have threads of their own: one for each of those.
    pub disk_loops: Vec<EventLoop>,
    /// The same for network cards.
    pub net_loops: Vec<EventLoop>,
    /// Its network slots.
    pub net_slots: Vec<net::Slot>,
    /// To leave the socket device without losing anything.
    pub leave: Leave,
    /// The rest of it.
    pub body: Body,
}

/// Puts a machine together. Its devices wait on `event_loop`, its end is told to `ends`.
pub fn build(parts: Parts, event_loop: &mut EventLoop, ends: &Ends) -> Result<Machine, BuildError> {
    let ram = layout::memory(parts.ram_bytes);
    let processors = Processors {
        vcpus: parts.vcpus,
        supported_cpuid: parts.kvm.supported_cpuid()?,
        tsc_deadline: parts.kvm.has_tsc_deadline(),
    };
    let vm = parts.kvm.create_vm()?;
    vm.create_interrupt_controllers(layout::KVM_PRIVATE_PAGES)?;
    let vcpus =
        (0..parts.vcpus).map(|index| vm.create_vcpu(index)).collect::<Result<Vec<_>, _>>()?;
    let shape = Shape {
        vcpus: parts.vcpus,
        ram_bytes: parts.ram_bytes,
        disks: u8::try_from(parts.disks.len()).unwrap_or(u8::MAX),
        has_fs: parts.fs.is_some(),
        nets: u8::try_from(parts.nets.len()).unwrap_or(u8::MAX),
        processor: processors.fingerprint(),
        // A KVM that does not know has no other machine's ticks to keep either.
        tsc_khz: vcpus.first().and_then(|first| first.get_tsc_khz().ok()).unwrap_or(0),
    };
    let (memory, mut states, snapshot) = memory_and_states(&parts.begin, &ram, &shape)?;
    let watch = match snapshot {
        Some(_) if parts.recorded => Some(Watch::start(&memory).map_err(MemoryError::File)?),
        _ => None,
    };
    vm.map(&memory)?;
    for (index, vcpu) in (0..).zip(&vcpus) {
        if let Some(state) = states.take_saved::<VcpuState>()? {
            processors.introduce(vcpu, index)?;
            state.restore(vcpu, index)?;
        }
    }
    if let (Some(file), Some(snapshot)) = (&parts.working_set, &snapshot) {
        WorkingSet::read(file, snapshot)?.fill(&memory, vcpus.first())?;
    }
    // Before the devices, which raise the interrupts again that were under way.
    if let Some(state) = states.take_saved::<ChipsState>()? {
        state.restore(&vm)?;
    }
    (parts.reached)(Step::KvmReady);

    let mut slots =
        Slots { vm: &vm, memory: &memory, bus: Bus::default(), words: vec![], devices: vec![] };
    let connections = Connections {
        guest_cid: parts.guest_cid,
        listener: parts.listener,
        host_ports: parts.host_ports,
        dialled: parts.dialled,
    };
    let mut leave = None;
    slots.plug(&mut states, vsock::QUEUE_SIZES, Kicked::Directly, |states, kicks| {
        let device = Vsock::new(states.take()?, connections, kicks, event_loop)?;
        leave = Some(device.leave());
        Ok(Box::new(device))
    })?;
    let mut disk_loops = Vec::new();
    for (slot, disk) in parts.disks.into_iter().enumerate() {
        slots.plug(
            &mut states,
            block::queue_sizes(parts.vcpus),
            Kicked::Directly,
            |states, kicks| {
                let (device, own) = Block::new(states.take()?, slot, disk, kicks, event_loop)?;
                disk_loops.extend(own);
                Ok(Box::new(device))
            },
        )?;
    }
    slots.plug(&mut states, rng::QUEUE_SIZES, Kicked::Directly, |states, kicks| {
        Ok(Box::new(Rng::new(states.take()?, kicks, event_loop)?))
    })?;
    // Behind those that every machine has, so that they are where they are without it. An empty slot costs a
    // boot what the driver does to set its queues up.
    if let Some(server) = parts.fs {
        slots.plug(&mut states, fs::QUEUE_SIZES, Kicked::Directly, |states, kicks| {
            Ok(Box::new(Fs::new(states.take()?, server, kicks, event_loop)?))
        })?;
    }
    let (mut net_slots, mut net_loops) = (Vec::with_capacity(parts.nets.len()), Vec::new());
    for (slot, card) in parts.nets.into_iter().enumerate() {
        let kicked = if card.is_some() { Kicked::Directly } else { Kicked::ByExit };
        slots.plug(&mut states, net::queue_sizes(parts.vcpus), kicked, |states, kicks| {
            let (device, own) = Net::new(states.take()?, slot, card, kicks, event_loop)?;
            net_loops.extend(own);
            net_slots.push(device.slot(slot));
            Ok(Box::new(device))
        })?;
    }
    let Slots { bus: memory_bus, words, devices, .. } = slots;

    let last_words = Arc::new(Mutex::new(LastWords::default()));
    let serial = SerialLine::new(states.take()?, last_words.clone(), parts.serial_log)?;
    let serial = Arc::new(Mutex::new(serial));
    let mut port_bus = Bus::default();
    port_bus.insert(layout::SERIAL_PORT, layout::SERIAL_PORTS, serial.clone());
    let reset = Arc::new(Mutex::new(ResetLine::new(ends.clone())));
    port_bus.insert(layout::KEYBOARD_PORT, layout::KEYBOARD_PORTS, reset);
    states.end()?;

    match parts.begin {
        Begin::Boot { mut kernel, mut initramfs, command_line } => {
            let machine_words = [arch::boot::COMMAND_LINE_OF_MACHINE.to_owned()];
            let command_line = [&machine_words[..], &words, &[command_line]].concat().join(" ");
            let (kernel, initramfs) = (&mut kernel, &mut initramfs);
            let entry = boot::load(&memory, &ram, parts.vcpus, kernel, initramfs, &command_line)?;
            for (index, vcpu) in (0..).zip(&vcpus) {
                processors.power_on(vcpu, index, entry)?;
            }
            (parts.reached)(Step::Loaded);
        }
        Begin::Restore { .. } => (parts.reached)(Step::Restored),
    }
    let (memory_bus, port_bus) = (Arc::new(memory_bus), Arc::new(port_bus));
    let leave = leave.ok_or(BuildError::TooManyDevices)?;
    let body = Body { vm, memory, devices, serial, shape, snapshot, watch };
    Ok(Machine {
        vcpus,
        memory_bus,
        port_bus,
        last_words,
        disk_loops,
        net_loops,
        net_slots,
        leave,
        body,
    })
}

/// Empty memory and power-on, or what was saved of a machine of this `shape`, and the name of its memory file.
fn memory_and_states(
    begin: &Begin,
    ram: &[Range],
    shape: &Shape,
) -> Result<(Memory, States, Option<FileId>), BuildError> {
    let Begin::Restore { state, memory } = begin else {
        return Ok((memory::allocate(ram)?, States::power_on(), None));
    };
    let (saved, states) = saved(state)?;
    shape.check(&saved.shape)?;
    let memory = memory.try_clone().map_err(MemoryError::File)?;
    Ok((memory::map(ram, memory, &saved.memory)?, states, Some(saved.memory)))
}

/// Whether these are a state, its memory and the working set of its guest, if there is one, and all of them whole.
/// Whether a machine can go on from them here is another question, which [`build`] answers.
pub fn belong_together(
    state: &File,
    memory: &File,
    working_set: Option<&File>,
) -> Result<Shape, BuildError> {
    let (saved, _) = saved(state)?;
    memory::check(memory, saved.shape.ram_bytes, &saved.memory)?;
    working_set.map(|set| WorkingSet::read(set, &saved.memory)).transpose()?;
    Ok(saved.shape)
}

/// What a file of a state says of the machine, and the states of its parts.
fn saved(state: &File) -> Result<(MachineState, States), BuildError> {
    let state = state_file(state).map_err(BuildError::ReadState)?;
    let mut states = States::saved(snapshot::read(&state)?);
    let saved = states.take_saved::<MachineState>()?;
    Ok((saved.ok_or(SectionError::Missing { wanted: MachineState::KIND })?, states))
}

/// Read by place, since the place in the file is that of everybody who has it open.
fn state_file(state: &File) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(state.metadata()?.len()).unwrap_or(usize::MAX);
    // What is too long is so by its first byte too many.
    let mut file = vec![0; bytes.min(snapshot::MAX_BYTES + 1)];
    state.read_exact_at(&mut file, 0)?;
    Ok(file)
}

/// Where devices are plugged: each takes a page of addresses and an interrupt.
struct Slots<'a> {
    vm: &'a Vm,
    memory: &'a Memory,
    bus: Bus,
    /// How the kernel is told of each.
    words: Vec<String>,
    devices: Vec<Arc<Mutex<Mmio>>>,
}

/// How a device's kicks reach it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kicked {
    /// By descriptors that KVM writes to. KVM waits for all vCPUs each time it is told of one.
    Directly,
    /// As any other register: for a slot that nobody kicks.
    ByExit,
}

impl Slots<'_> {
    /// Plugs what `make` makes, which takes its state behind that of its transport.
    fn plug(
        &mut self,
        states: &mut States,
        queue_sizes: &[u16],
        kicked: Kicked,
        make: impl FnOnce(&mut States, Kicks) -> Result<Box<dyn Device>, BuildError>,
    ) -> Result<(), BuildError> {
        let taken = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let gsi = layout::DEVICE_INTERRUPTS.start().saturating_add(taken);
        if !layout::DEVICE_INTERRUPTS.contains(&gsi) {
            return Err(BuildError::TooManyDevices);
        }
        let base = layout::DEVICES + u64::from(taken) * layout::DEVICE_BYTES;
        let kicks = mmio::kicks(queue_sizes.len())?;
        let state = states.take()?;
        let device = make(states, kicks.clone())?;
        let irq = Interrupt::new()?;
        self.vm.connect_interrupt(irq.event(), gsi)?;
        for (queue, kick) in (0..).zip(kicks.iter()).filter(|_| kicked == Kicked::Directly) {
            self.vm.connect_notification(kick, base + mmio::QUEUE_NOTIFY, queue)?;
        }
        let registers = Mmio::new(state, device, self.memory.clone(), irq, kicks)?;
        let registers = Arc::new(Mutex::new(registers));
        self.bus.insert(base, layout::DEVICE_BYTES, registers.clone());
        self.devices.push(registers);
        self.words.push(arch::boot::command_line_of_device(base, gsi));
        Ok(())
    }
}
