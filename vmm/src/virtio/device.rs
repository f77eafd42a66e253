//! What a device is to the transport that carries it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::section::{Section, SectionError};

/// `VIRTIO_F_VERSION_1`: not a device from before the standard. Every device here has it.
pub const FEATURE_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// `VIRTIO_F_EVENT_IDX`: each side says which notification it wants next. Every device here has it,
/// because it saves most of them.
pub const FEATURE_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// `VIRTIO_F_INDIRECT_DESC`: a chain may stand in a table of its own.
pub const FEATURE_INDIRECT: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

/// A device. Nothing here says how registers are reached, how waiting is done, or which hypervisor
/// runs below.
///
/// One constructor per device takes its state, whose default is power-on, and checks it as it checks
/// what a guest says. After [`Device::activate`] the device owns its queues until
/// [`Device::reset`] gives them back.
pub trait Device: Send {
    /// The device type (virtio 1.2, chapter 5).
    fn id(&self) -> u32;

    /// The features it offers.
    fn features(&self) -> u64;

    /// The largest size of each of its queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// The whole configuration space.
    fn config(&self) -> Vec<u8>;

    /// The driver writes into the configuration space. `offset` and `data` are the guest's.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver is ready: from now on the device works.
    fn activate(&mut self, live: Live);

    /// The device forgets everything, and gives back the queues if it had them.
    fn reset(&mut self) -> Vec<Queue>;

    /// Requests it has taken and not answered. While there are some it cannot be saved: whoever should
    /// answer them does not outlive the process.
    fn owes(&self) -> usize;

    /// The state a device constructed from it goes on with.
    fn save(&self) -> Section;

    /// The queues as they stand, if it has them.
    fn save_queues(&self) -> Vec<SavedQueue>;
}

/// What a device has only while it works.
pub struct Live {
    /// The guest's memory.
    pub memory: Memory,
    /// Its interrupt.
    pub irq: Interrupt,
    /// The features both sides have agreed on.
    pub acked_features: u64,
    /// Its queues, each found valid.
    pub queues: Vec<Queue>,
}

impl Live {
    /// The queues as they stand.
    pub fn saved_queues(&self) -> Vec<SavedQueue> {
        self.queues.iter().map(SavedQueue::from).collect()
    }
}

/// A kick for each of a device's queues: the guest's "look into this queue".
pub type Kicks = Arc<[EventFd]>;

/// `EventFd` and its like lend their descriptors by number only.
pub fn borrow(event: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// A queue in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Descriptors it can hold at most, and does.
    pub sizes: [u16; 2],
    /// The driver has finished setting it up.
    pub ready: bool,
    /// Both sides say which notification they want next.
    pub event_idx: bool,
    /// Next entries of the available and the used ring.
    pub next: [u16; 2],
    /// Guest-physical addresses of descriptor table, available ring and used ring.
    pub rings: [u64; 3],
}

impl From<&Queue> for SavedQueue {
    fn from(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            sizes: [state.max_size, state.size],
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next: [state.next_avail, state.next_used],
            rings: [state.desc_table, state.avail_ring, state.used_ring],
        }
    }
}

impl SavedQueue {
    /// The queue itself, if there can be one like this on a device that allows `max_size`.
    pub fn restore(self, max_size: u16) -> Result<Queue, SectionError> {
        let impossible = |what| SectionError::Impossible { kind: "queue", what };
        if self.sizes[0] != max_size {
            let what = format!("{} descriptors where the device has {max_size}", self.sizes[0]);
            return Err(impossible(what));
        }
        Queue::try_from(QueueState {
            max_size,
            size: self.sizes[1],
            ready: self.ready,
            event_idx_enabled: self.event_idx,
            next_avail: self.next[0],
            next_used: self.next[1],
            desc_table: self.rings[0],
            avail_ring: self.rings[1],
            used_ring: self.rings[2],
        })
        .map_err(|error| impossible(error.to_string()))
    }
}

/// Queues as a driver finds them.
pub fn empty_queues(sizes: &[u16]) -> Vec<Queue> {
    // The sizes are the devices' own, all of them powers of two that a queue can have.
    sizes.iter().filter_map(|&size| Queue::new(size).ok()).collect()
}
