//! Sockets between guest and host (virtio 1.2, 5.10), all in user space.
//!
//! # Primer
//!
//! A vsock stream is known by two addresses, each a context id (the host is 2, the guest has one it
//! was given) and a port. The driver sends and takes *packets*: a 44-byte header, and for `RW` ones
//! data behind it. What the guest sends arrives in the transmit queue; what we send goes into
//! buffers it put into the receive queue, so we can only answer when there is one.
//!
//! ```text
//!   dialling       REQUEST ──────────►                 RST from either side, at any time,
//!                          ◄────────── RESPONSE        ends the stream at once; it is also
//!   data           RW      ◄─────────► RW              the answer to a packet that belongs
//!   credit         CREDIT_REQUEST ───►                 to no stream
//!                          ◄────────── CREDIT_UPDATE
//!   half-close     SHUTDOWN(send) ───►
//!   close          SHUTDOWN(both) ───►
//!                          ◄────────── RST
//! ```
//!
//! *Credit*: each header says how much its sender buffers for this stream (`buf_alloc`) and how much
//! it has passed on so far (`fwd_cnt`). Nobody sends more than `buf_alloc - (sent - fwd_cnt)`. This
//! bounds what we hold for a reader on the host who is slow, and makes the guest wait instead.
//!
//! On the host each stream is a Unix stream socket: dialled by a client of the listener with the line
//! `CONNECT <port>\n`, or dialled by the guest to one of the ports it was given. Bytes pass through
//! unread.
//!
//! # Parts
//!
//! [`packet`] is the header, raw and believed. [`connection`] is one stream: what it owes to whom.
//! [`core`] is all of them behind two queues' worth of packets. [`worker`] brings kicks, descriptors
//! and connections together; here is what the driver sees.

mod connection;
mod core;
mod greeting;
mod packet;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use self::core::Core;
pub use self::worker::Dialled;
use self::worker::{Socket, Worker};
use crate::event_loop::EventLoop;
use crate::section::{Section, State};
use crate::sync::lock;
use crate::virtio::device::{
    Device, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Kicks, Live, SavedQueue,
};

/// `virtio-vsock` in the list of device types (chapter 5).
const DEVICE_VSOCK: u32 = 19;

/// Receive, transmit and event queue.
pub const QUEUE_SIZES: &[u16] = &[128, 128, 8];

/// What the device is given.
pub struct Connections {
    /// The guest's context id.
    pub guest_cid: u32,
    /// Who connects here dials the guest.
    pub listener: OwnedFd,
    /// What the guest may dial, once each.
    pub host_ports: BTreeMap<u32, OwnedFd>,
    /// Told of each that it has.
    pub dialled: Dialled,
}

/// What the device remembers: streams do not outlive the process that has their sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// The driver has to be told that its streams are gone.
    reset_to_tell: bool,
}

impl State for VsockState {
    const KIND: &'static str = "virtio-vsock";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Vsock {
    worker: Arc<Mutex<Worker>>,
}

/// The way to take leave of the device without losing what the guest sent.
#[derive(Clone)]
pub struct Leave(Arc<Mutex<Worker>>);

impl Leave {
    /// The guest runs no more: takes what is in its queues, and nothing after that.
    pub fn hang_up(&self) {
        lock(&self.0).stop();
    }

    /// Everything the guest sent has reached the host's sockets.
    pub fn is_drained(&self) -> bool {
        lock(&self.0).is_drained()
    }
}

impl Vsock {
    /// The device as `state` left it.
    pub fn new(
        state: VsockState,
        connections: Connections,
        kicks: Kicks,
        event_loop: &mut EventLoop,
    ) -> io::Result<Self> {
        let Connections { guest_cid, listener, host_ports, dialled } = connections;
        let host_ports = host_ports.into_iter().map(|(port, fd)| (port, Socket(fd))).collect();
        let core = Core::new(u64::from(guest_cid), host_ports);
        let worker = event_loop.subscribe(|watch| {
            let mut worker = Worker::new(core, listener, kicks, watch, dialled)?;
            worker.reset_to_tell = state.reset_to_tell;
            Ok::<_, io::Error>(worker)
        })?;
        Ok(Self { worker })
    }

    /// For the end.
    pub fn leave(&self) -> Leave {
        Leave(self.worker.clone())
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        DEVICE_VSOCK
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// The guest's context id (5.10.4).
    fn config(&self) -> Vec<u8> {
        lock(&self.worker).guest_cid().to_le_bytes().into()
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, live: Live) {
        lock(&self.worker).live = Some(live);
    }

    fn reset(&mut self) -> Vec<Queue> {
        lock(&self.worker).stop().map_or(vec![], |live| live.queues)
    }

    fn owes(&self) -> usize {
        0
    }

    /// A driver that has the device at work has to be told after a restore.
    fn save(&self) -> Section {
        let worker = lock(&self.worker);
        VsockState { reset_to_tell: worker.live.is_some() || worker.reset_to_tell }.to_section()
    }

    fn save_queues(&self) -> Vec<SavedQueue> {
        lock(&self.worker).live.as_ref().map_or(vec![], Live::saved_queues)
    }
}
