//! A file system (virtio 1.2, 5.11) that is served by another process.
//!
//! The device knows nothing of files: each request of the guest is one message to the server, each
//! reply one message back, in any order. The server is outside because the VMM opens no path, and
//! speaks by messages because guest memory belongs to the VMM alone
//! (`docs/adr/0006-file-server-beside-the-vmm.md`). When the server is gone, every request is answered
//! with an I/O error and the VM goes on.

mod core;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use self::worker::Worker;
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::spec::MAX_TAG_BYTES;
use crate::sync::lock;
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};

/// `virtio-fs` in the list of device types (chapter 5).
const DEVICE_FS: u32 = 26;

/// The queue for what goes first, and the one for requests.
pub const QUEUE_SIZES: &[u16] = &[128; worker::QUEUES];

/// How many of them are for requests (`num_request_queues`, 5.11.4).
const REQUEST_QUEUES: u32 = 1;

/// Who serves the guest's files.
#[derive(Debug)]
pub struct Server {
    /// What the guest mounts them by, [`MAX_TAG_BYTES`] at most.
    pub tag: String,
    /// The connected `SOCK_SEQPACKET` socket to it. `None` is a slot that nobody serves.
    pub socket: Option<OwnedFd>,
}

/// It remembers nothing: what the server has open does not outlive the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsState {}

impl State for FsState {
    const KIND: &'static str = "virtio-fs";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Fs {
    tag: String,
    worker: Arc<Mutex<Worker>>,
}

impl Fs {
    /// The device as `state` left it.
    pub fn new(
        state: FsState,
        server: Server,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> io::Result<Self> {
        let FsState {} = state;
        let Server { tag, socket } = server;
        let worker = event_loop.subscribe(|watch| Worker::new(socket, kicks, &watch))?;
        Ok(Self { tag, worker })
    }
}

impl Device for Fs {
    fn id(&self) -> u32 {
        DEVICE_FS
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// `struct virtio_fs_config` up to `num_request_queues` (5.11.4).
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::from(self.tag.as_bytes());
        config.resize(MAX_TAG_BYTES, 0);
        config.extend(REQUEST_QUEUES.to_le_bytes());
        config
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        lock(&self.worker).live = Some(live);
    }

    fn reset(&mut self) -> Vec<Queue> {
        lock(&self.worker).stop().map_or(vec![], |live| live.queues)
    }

    fn owes(&self) -> usize {
        lock(&self.worker).owes()
    }

    fn save(&self) -> Section {
        FsState {}.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        lock(&self.worker).live.as_ref().map_or(vec![], Live::saved_queues)
    }
}
