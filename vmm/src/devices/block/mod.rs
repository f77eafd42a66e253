//! A disk slot (virtio 1.2, 5.2).
//!
//! A slot is plugged whether it holds a disk or not: an empty one has no sectors. It has a queue for each
//! vCPU. Requests are served on the event loop: image disks live in the page cache, and a thread per slot
//! would cost each start what few VMs ever win. A disk that is written to has a thread for each queue, if its
//! owner wants that: a flush takes as long as the host's disk does, and nothing else should wait for it
//! (`docs/adr/0011-a-disk-is-served-by-threads.md`).

mod core;
mod image;
mod lane;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_queue::Queue;

use self::core::{Core, MAX_RANGE_SECTORS, MAX_RANGES, SECTOR, Storage};
use self::image::Image;
use self::lane::Lane;
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::spec::Limits;
use crate::sync::lock;
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};
use crate::virtio::limiter::Gate;

/// `virtio-blk` in the list of device types (chapter 5).
const DEVICE_BLOCK: u32 = 2;

/// The most queues.
const QUEUES: usize = 8;

/// The queues of a slot in a machine with so many vCPUs: each has one for itself, as far as they go.
pub fn queue_sizes(vcpus: u8) -> &'static [u16] {
    const SIZES: [u16; QUEUES] = [256; QUEUES];
    &SIZES[..usize::from(vcpus).clamp(1, QUEUES)]
}

/// Parts of data in one request: what the queue holds, less header and status.
const SEGMENTS: u32 = 254;

/// What is discarded comes in pieces of so many sectors: less than a page of the host's frees nothing.
const DISCARD_SECTORS: u32 = 4096 / SECTOR as u32;

/// What is in a slot.
#[derive(Debug)]
pub struct Disk {
    /// The image.
    pub image: File,
    /// Writes are refused.
    pub read_only: bool,
    /// Each queue is served by a thread of its own.
    pub own_threads: bool,
    /// How fast it may be.
    pub limits: Limits,
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
    /// The image is open for more than it is said to be for, or for less.
    #[error("image of disk {slot} is not open for {}", if *.read_only { "reading alone" } else { "reading and writing" })]
    OpenFor {
        /// Which slot.
        slot: usize,
        /// What it is said to be for.
        read_only: bool,
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
    image: Image,
    lanes: Vec<Arc<Mutex<Lane>>>,
    queue_sizes: &'static [u16],
    state: BlockState,
}

impl Block {
    /// Slot `slot` as `state` left it, with `disk` in it and a queue for each of `kicks`. If the disk is to
    /// have threads of its own, what each of them has to turn comes with it.
    pub fn new(
        state: BlockState,
        slot: usize,
        disk: Option<Disk>,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> Result<(Self, Vec<EventLoop>), OpenDiskError> {
        let io = |source| OpenDiskError::Io { slot, source };
        let (own_threads, gate) = match &disk {
            Some(disk) => (disk.own_threads, Gate::new(&disk.limits).map(Arc::new)),
            None => (false, None),
        };
        let image = disk.map_or(Ok(Image::empty()), |disk| open(slot, disk))?;
        let (mut lanes, mut own) = (Vec::new(), Vec::new());
        for queue in 0..kicks.len() {
            let core = Core { storage: image.clone(), name: name(slot) };
            let (kicks, gate) = (kicks.clone(), gate.clone());
            let mut new_loop = if own_threads { Some(EventLoop::new().map_err(io)?) } else { None };
            let event_loop = new_loop.as_mut().unwrap_or(event_loop);
            let lane = event_loop.subscribe(|watch| Lane::new(core, kicks, queue, gate, &watch));
            lanes.push(lane.map_err(io)?);
            own.extend(new_loop);
        }
        let queue_sizes = queue_sizes(u8::try_from(kicks.len()).unwrap_or(u8::MAX));
        Ok((Self { image, lanes, queue_sizes, state }, own))
    }
}

fn open(slot: usize, disk: Disk) -> Result<Image, OpenDiskError> {
    let Disk { mut image, read_only, .. } = disk;
    let io = |source| OpenDiskError::Io { slot, source };
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(image.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io(io::Error::last_os_error()));
    }
    // Whatever a bug in here does: the kernel does not write to such a descriptor.
    let wanted = if read_only { libc::O_RDONLY } else { libc::O_RDWR };
    if flags & libc::O_ACCMODE != wanted {
        return Err(OpenDiskError::OpenFor { slot, read_only });
    }
    // A block device says its length only by its end.
    let bytes = io::Seek::seek(&mut image, io::SeekFrom::End(0)).map_err(io)?;
    if bytes % SECTOR != 0 {
        return Err(OpenDiskError::NotWholeSectors { slot, bytes });
    }
    Ok(Image::new(image, bytes / SECTOR, read_only))
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
        let read_only = if self.image.read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 };
        let queues = if self.lanes.len() > 1 { 1 << VIRTIO_BLK_F_MQ } else { 0 };
        FEATURE_VERSION_1
            | FEATURE_EVENT_IDX
            | FEATURE_INDIRECT
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            | read_only
            | queues
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.queue_sizes
    }

    /// `struct virtio_blk_config` up to `write_zeroes_may_unmap` (5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::from(self.image.sectors().to_le_bytes());
        config.extend([0; 4]); // no limit to a part's size
        config.extend(SEGMENTS.to_le_bytes());
        config.extend([0; 18]); // geometry, block size and topology are not offered; write-through is not either
        config.extend((self.lanes.len() as u16).to_le_bytes());
        let words = [
            MAX_RANGE_SECTORS, // to discard
            MAX_RANGES,
            DISCARD_SECTORS,
            MAX_RANGE_SECTORS, // of zeros
            MAX_RANGES,
        ];
        config.extend(words.into_iter().flat_map(u32::to_le_bytes));
        config.extend([1, 0, 0, 0]); // zeros may be holes
        config
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        let sectors = self.image.sectors();
        if self.state.known_sectors.is_some_and(|known| known != sectors) {
            live.irq.config();
        }
        self.state.known_sectors = Some(sectors);
        let Live { memory, irq, queues, .. } = live;
        for (lane, queue) in self.lanes.iter().zip(queues) {
            lock(lane).start(memory.clone(), irq.clone(), queue);
        }
    }

    fn reset(&mut self) -> Vec<Queue> {
        self.state = BlockState::default();
        self.lanes.iter().filter_map(|lane| lock(lane).stop()).collect()
    }

    fn owes(&self) -> usize {
        0
    }

    fn save(&self) -> Section {
        self.state.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        self.lanes.iter().filter_map(|lane| lock(lane).saved_queue()).collect()
    }
}
