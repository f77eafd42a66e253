//! A disk slot (virtio 1.2, 5.2).
//!
//! A slot is plugged whether it holds a disk or not: an empty one has no sectors. Requests are served
//! on the event loop: image disks live in the page cache, and a thread per slot would cost each start
//! what few VMs ever win.

mod core;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
};
use virtio_queue::Queue;

use self::core::{Core, Image, SECTOR, Storage};
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};
use crate::virtio::worker::Worker;

/// `virtio-blk` in the list of device types (chapter 5).
const DEVICE_BLOCK: u32 = 2;

/// The one queue, for requests.
pub const QUEUE_SIZES: &[u16] = &[256];

/// Parts of data in one request: what the queue holds, less header and status.
const SEGMENTS: u32 = 254;

/// What is in a slot.
#[derive(Debug)]
pub struct Disk {
    /// The image.
    pub image: File,
    /// Writes are refused.
    pub read_only: bool,
}

/// What a slot remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// How long the driver believes the disk is, if it was told. A slot that was empty in a template
    /// has a disk in it after the restore, and the driver hears of that.
    known_sectors: Option<u64>,
}

impl State for BlockState {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u16 = 1;
}

/// Why a slot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// The image ends within a sector.
    #[error("image of disk {slot} is {bytes} bytes, not a multiple of {SECTOR}")]
    NotWholeSectors {
        /// Which slot.
        slot: usize,
        /// The image's size.
        bytes: u64,
    },
    /// The image has no size, or the event loop no room.
    #[error("disk {slot}: {source}")]
    Io {
        /// Which slot.
        slot: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// The device.
pub struct Block {
    worker: Worker<Core<Image>>,
    state: BlockState,
}

impl Block {
    /// Slot `slot` as `state` left it, with `disk` in it.
    pub fn new(
        state: BlockState,
        slot: usize,
        disk: Option<Disk>,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> Result<Self, OpenDiskError> {
        let storage = match disk {
            None => Image::empty(),
            Some(Disk { mut image, read_only }) => {
                // A block device says its length only by its end.
                let bytes = io::Seek::seek(&mut image, io::SeekFrom::End(0))
                    .map_err(|source| OpenDiskError::Io { slot, source })?;
                if bytes % SECTOR != 0 {
                    return Err(OpenDiskError::NotWholeSectors { slot, bytes });
                }
                Image::new(image, bytes / SECTOR, read_only)
            }
        };
        let core = Core { storage, name: name(slot) };
        let worker = Worker::new(core, kicks, event_loop)
            .map_err(|source| OpenDiskError::Io { slot, source })?;
        Ok(Self { worker, state })
    }
}

/// What `/sys/block/*/serial` says in the guest.
fn name(slot: usize) -> [u8; VIRTIO_BLK_ID_BYTES as usize] {
    let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
    let text = format!("slot{slot}");
    let length = text.len().min(name.len());
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

impl Device for Block {
    fn id(&self) -> u32 {
        DEVICE_BLOCK
    }

    fn features(&self) -> u64 {
        let read_only =
            if self.worker.ask(|core| core.storage.read_only()) { 1 << VIRTIO_BLK_F_RO } else { 0 };
        FEATURE_VERSION_1
            | FEATURE_EVENT_IDX
            | FEATURE_INDIRECT
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_FLUSH
            | read_only
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// `struct virtio_blk_config` up to `seg_max` (5.2.4).
    fn config(&self) -> Vec<u8> {
        let sectors = self.worker.ask(|core| core.storage.sectors());
        let mut config = Vec::from(sectors.to_le_bytes());
        config.extend(0u32.to_le_bytes());
        config.extend(SEGMENTS.to_le_bytes());
        config
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        let sectors = self.worker.ask(|core| core.storage.sectors());
        if self.state.known_sectors.is_some_and(|known| known != sectors) {
            live.irq.config();
        }
        self.state.known_sectors = Some(sectors);
        self.worker.start(live);
    }

    fn reset(&mut self) -> Vec<Queue> {
        self.state = BlockState::default();
        self.worker.stop()
    }

    fn owes(&self) -> usize {
        0
    }

    fn save(&self) -> Section {
        self.state.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        self.worker.save_queues()
    }
}
