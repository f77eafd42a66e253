//! The registers a driver sees: virtio over MMIO, version 2 (virtio 1.2, 4.2.2).

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::section::{Section, SectionError, State};
use crate::virtio::device::{Device, FEATURE_EVENT_IDX, Kicks, Live, SavedQueue, empty_queues};

/// Offset of the register that kicks a queue.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"uVM0");
const CONFIG_SPACE: u64 = 0x100;

/// Bits of the status register (virtio 1.2, 2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 64;
    pub(super) const FAILED: u32 = 128;
}

/// A device behind registers.
pub struct Mmio {
    device: Box<dyn Device>,
    memory: Memory,
    irq: Interrupt,
    kicks: Kicks,
    registers: Registers,
    /// Every queue, until the device is activated; none from then on.
    queues: Vec<Queue>,
}

/// What the driver has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u32,
    features_page: u32,
    acked_features_page: u32,
    acked_features: u64,
    queue: u32,
    config_generation: u32,
}

/// The transport in a snapshot; the device has a section of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState {
    registers: Registers,
    interrupt_reasons: u32,
    broken: bool,
    queues: Vec<SavedQueue>,
}

impl State for MmioState {
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u16 = 1;
}

/// Why a transport cannot carry on from a state.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The state is wrong.
    #[error(transparent)]
    State(#[from] SectionError),
    /// There is no descriptor left for the interrupt or a kick.
    #[error("an event descriptor: {0}")]
    Event(#[from] io::Error),
}

/// Why a device cannot be saved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("device of type {device} owes its driver {requests} answers")]
pub struct Busy {
    /// Its type (virtio 1.2, chapter 5).
    pub device: u32,
    /// How many.
    pub requests: usize,
}

impl Mmio {
    /// The registers of `device` as `state` left them, with an interrupt and `kicks` made for it.
    pub fn new(
        state: MmioState,
        mut device: Box<dyn Device>,
        memory: Memory,
        irq: Interrupt,
        kicks: Kicks,
    ) -> Result<Self, TransportError> {
        let MmioState { registers, interrupt_reasons, broken, queues } = state;
        let sizes = device.queue_sizes();
        let mut queues = match queues.len() {
            0 => empty_queues(sizes),
            count if count == sizes.len() => queues
                .into_iter()
                .zip(sizes)
                .map(|(queue, &size)| queue.restore(size))
                .collect::<Result<_, _>>()?,
            count => {
                let what = format!("{count} queues where the device has {}", sizes.len());
                return Err(SectionError::Impossible { kind: MmioState::KIND, what }.into());
            }
        };
        // A driver that has not settled on them may have written anything, and hears "no" when it does.
        let settled = registers.status & (status::FEATURES_OK | status::DRIVER_OK) != 0;
        if settled && registers.acked_features & !device.features() != 0 {
            let what = format!("features {:#x} were never offered", registers.acked_features);
            return Err(SectionError::Impossible { kind: MmioState::KIND, what }.into());
        }
        if registers.status & status::DRIVER_OK != 0 && !broken {
            if queues.iter().any(|queue| queue.ready() && !queue.is_valid(&memory)) {
                let what = "a queue outside of memory".to_owned();
                return Err(SectionError::Impossible { kind: MmioState::KIND, what }.into());
            }
            device.activate(Live {
                memory: memory.clone(),
                irq: irq.clone(),
                acked_features: registers.acked_features,
                queues: std::mem::take(&mut queues),
            });
            // Whatever was under way when the state was saved is looked at again.
            kick_all(&kicks);
        }
        if interrupt_reasons != 0 {
            irq.raise(interrupt_reasons);
        }
        if broken {
            irq.device_is_broken();
        }
        Ok(Self { device, memory, irq, kicks, registers, queues })
    }

    /// The state of the transport, and that of its device.
    pub fn save(&self) -> Result<[Section; 2], Busy> {
        match self.device.owes() {
            0 => {}
            requests => return Err(Busy { device: self.device.id(), requests }),
        }
        let live = self.device.save_queues();
        let queues =
            if live.is_empty() { self.queues.iter().map(SavedQueue::from).collect() } else { live };
        let state = MmioState {
            registers: self.registers.clone(),
            interrupt_reasons: self.irq.reasons(),
            broken: self.irq.is_broken(),
            queues,
        };
        Ok([state.to_section(), self.device.save()])
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.id(),
            0x0c => VENDOR,
            0x10 => page(self.device.features(), self.registers.features_page),
            0x34 => self.queue(|queue| u32::from(queue.max_size())),
            // Ready or not is asked for while queues are here; later all are.
            0x44 if self.queues.is_empty() => 1,
            0x44 => self.queue(|queue| u32::from(queue.ready())),
            0x60 => self.irq.reasons(),
            0x70 if self.irq.is_broken() => self.registers.status | status::NEEDS_RESET,
            0x70 => self.registers.status,
            // There is no shared memory: its length reads as -1 (4.2.2, SHMLenLow).
            0xb0..=0xbc => u32::MAX,
            0xfc => self.registers.config_generation,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let registers = &mut self.registers;
        match offset {
            0x14 => registers.features_page = value,
            0x20 if registers.status & status::FEATURES_OK == 0 => {
                let shift = match registers.acked_features_page {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                registers.acked_features &= !(u64::from(u32::MAX) << shift);
                registers.acked_features |= u64::from(value) << shift;
            }
            0x24 => registers.acked_features_page = value,
            0x30 => registers.queue = value,
            0x38 => self.set_queue(|queue| queue.set_size(u16::try_from(value).unwrap_or(0))),
            0x44 => self.set_queue(|queue| queue.set_ready(value == 1)),
            // Kicks come past us where the hypervisor hands them over; here is where they do not.
            QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    // Cannot fail but for a full counter, and that is a kick already.
                    let _ = kick.write(1);
                }
            }
            0x64 => self.irq.acknowledge(value),
            0x70 => self.set_status(value),
            0x80 => self.set_queue(|queue| queue.set_desc_table_address(Some(value), None)),
            0x84 => self.set_queue(|queue| queue.set_desc_table_address(None, Some(value))),
            0x90 => self.set_queue(|queue| queue.set_avail_ring_address(Some(value), None)),
            0x94 => self.set_queue(|queue| queue.set_avail_ring_address(None, Some(value))),
            0xa0 => self.set_queue(|queue| queue.set_used_ring_address(Some(value), None)),
            0xa4 => self.set_queue(|queue| queue.set_used_ring_address(None, Some(value))),
            _ => {}
        }
    }

    fn queue(&self, ask: impl FnOnce(&Queue) -> u32) -> u32 {
        self.queues.get(self.registers.queue as usize).map_or(0, ask)
    }

    /// A queue can be set up between the choice of features and the driver's OK.
    fn set_queue(&mut self, set: impl FnOnce(&mut Queue)) {
        let open = status::FEATURES_OK | status::DRIVER_OK | status::FAILED;
        if self.registers.status & open == status::FEATURES_OK {
            self.queues.get_mut(self.registers.queue as usize).map(set);
        }
    }

    /// The steps of virtio 1.2, 3.1.1, in their order; a step out of order is not taken.
    fn set_status(&mut self, value: u32) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
        let before = self.registers.status;
        let new = value & !before;
        match value {
            0 => self.reset(),
            _ if new & FAILED != 0 => self.registers.status |= FAILED,
            // Nothing goes on after a failure, and no step is taken back but by a reset.
            _ if before & FAILED != 0 || self.irq.is_broken() || before & !value != 0 => {}
            _ => match (before, new) {
                (0, ACKNOWLEDGE) => self.registers.status = ACKNOWLEDGE,
                (ACKNOWLEDGE, DRIVER) => self.registers.status |= DRIVER,
                // Left unset, this bit is the device's "no" to a choice of features.
                (_, FEATURES_OK) if before == ACKNOWLEDGE | DRIVER && self.may_have_features() => {
                    self.registers.status |= FEATURES_OK;
                }
                (_, DRIVER_OK) if before == ACKNOWLEDGE | DRIVER | FEATURES_OK => self.activate(),
                _ => {}
            },
        }
    }

    fn may_have_features(&self) -> bool {
        self.registers.acked_features & !self.device.features() == 0
    }

    fn activate(&mut self) {
        let memory = &self.memory;
        // A driver need not use every queue, but one that is ready has to lie in memory.
        if self.queues.iter().any(|queue| queue.ready() && !queue.is_valid(memory)) {
            self.registers.status |= status::DRIVER_OK;
            self.irq.device_is_broken();
            return;
        }
        self.registers.status |= status::DRIVER_OK;
        let acked_features = self.registers.acked_features;
        let mut queues = std::mem::take(&mut self.queues);
        for queue in &mut queues {
            queue.set_event_idx(acked_features & FEATURE_EVENT_IDX != 0);
        }
        let memory = self.memory.clone();
        self.device.activate(Live { memory, irq: self.irq.clone(), acked_features, queues });
        // What was kicked before the device worked would otherwise wait for the next kick.
        kick_all(&self.kicks);
    }

    fn reset(&mut self) {
        let back = self.device.reset();
        if !back.is_empty() {
            self.queues = back;
        }
        self.queues.iter_mut().for_each(Queue::reset);
        self.irq.reset();
        let config_generation = self.registers.config_generation;
        self.registers = Registers { config_generation, ..Registers::default() };
    }
}

fn kick_all(kicks: &Kicks) {
    for kick in kicks.iter() {
        // Cannot fail but for a full counter, and that is a kick already.
        let _ = kick.write(1);
    }
}

/// 32 of 64 feature bits.
fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// A kick for each of `queues` queues.
pub fn kicks(queues: usize) -> io::Result<Kicks> {
    (0..queues).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<io::Result<Arc<_>>>()
}

impl BusDevice for Mmio {
    /// Registers are read as 32 bits; the configuration space in any width (4.2.2.2).
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIG_SPACE) {
            let config = self.device.config();
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(config.len());
            let known = data.len().min(config.len() - from);
            data.fill(0);
            data[..known].copy_from_slice(&config[from..from + known]);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(CONFIG_SPACE) {
            if self.registers.status & status::DRIVER != 0 {
                self.device.write_config(at, data);
            }
        } else if let Ok(&data) = <&[u8; 4]>::try_from(data) {
            self.set_register(offset, u32::from_le_bytes(data));
        }
    }
}
