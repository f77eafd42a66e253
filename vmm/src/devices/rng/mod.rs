//! Entropy for the guest (virtio 1.2, 5.4).

mod core;

use std::io;

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};
use crate::virtio::worker::Worker;

/// `virtio-rng` in the list of device types (chapter 5).
const DEVICE_RNG: u32 = 4;

/// The one queue, for requests.
pub const QUEUE_SIZES: &[u16] = &[64];

/// The device.
pub struct Rng {
    worker: Worker<core::Core<core::Kernel>>,
}

/// It remembers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}

impl State for RngState {
    const KIND: &'static str = "virtio-rng";
    const VERSION: u16 = 1;
}

impl Rng {
    /// The device as `state` left it.
    pub fn new(state: RngState, kicks: Kicks, event_loop: &mut EventLoop) -> io::Result<Self> {
        let RngState {} = state;
        let core = core::Core { source: core::Kernel };
        Ok(Self { worker: Worker::new(core, kicks, event_loop)? })
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        DEVICE_RNG
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        vec![]
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        self.worker.start(live);
    }

    fn reset(&mut self) -> Vec<Queue> {
        self.worker.stop()
    }

    fn owes(&self) -> usize {
        0
    }

    fn save(&self) -> Section {
        RngState {}.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        self.worker.save_queues()
    }
}
