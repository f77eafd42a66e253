//! How many pairs of queues a driver uses (virtio 1.2, 5.1.6.5.5): it says so by a queue of its own.
//!
//! ```text
//!   class u8 · command u8 · pairs u16      and the answer: u8
//! ```

use std::io;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_net as net;
use virtio_queue::{Queue, QueueT};

use super::worker::Worker;
use crate::event_loop::{EventLoop, Interest, Readiness, Subscriber};
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::sync::lock;
use crate::virtio::chain;
use crate::virtio::device::{Kicks, SavedQueue, borrow};

/// Serves that queue.
pub(super) struct Pairs {
    workers: Vec<Arc<Mutex<Worker>>>,
    kicks: Kicks,
    /// How many the driver uses.
    used: u16,
    live: Option<(Memory, Interrupt, Queue)>,
}

impl Pairs {
    /// Those of `workers`, of which the driver uses the first `used`. The queue is the last of all, if there is more
    /// than one pair.
    pub(super) fn new(
        workers: Vec<Arc<Mutex<Worker>>>,
        kicks: Kicks,
        used: u16,
        event_loop: &mut EventLoop,
    ) -> io::Result<Arc<Mutex<Self>>> {
        event_loop.subscribe(|watch| {
            if let ([_, _, ..], Some(kick)) = (&workers[..], kicks.last()) {
                watch.add(borrow(kick), 0, Interest::Readable)?;
            }
            let mut pairs = Self { workers, kicks, used, live: None };
            pairs.set_used(used);
            Ok(pairs)
        })
    }

    /// How many the driver uses.
    pub(super) fn used(&self) -> u16 {
        self.used
    }

    /// From now on the driver uses so many.
    pub(super) fn set_used(&mut self, used: u16) {
        self.used = used;
        for (pair, worker) in (0..).zip(&self.workers) {
            lock(worker).use_it(pair < used);
        }
    }

    /// From now on the queue is served.
    pub(super) fn start(&mut self, memory: Memory, irq: Interrupt, queue: Queue) {
        self.live = Some((memory, irq, queue));
    }

    /// From now on it is not.
    pub(super) fn stop(&mut self) -> Option<Queue> {
        self.live.take().map(|(_, _, queue)| queue)
    }

    /// The queue as it stands, if it is served.
    pub(super) fn saved_queue(&self) -> Option<SavedQueue> {
        self.live.as_ref().map(|(_, _, queue)| SavedQueue::from(queue))
    }

    /// Does what a command says, or nothing.
    fn obey(&mut self, [class, command, pairs @ ..]: [u8; 4]) -> u32 {
        let known = (u32::from(class), u32::from(command))
            == (net::VIRTIO_NET_CTRL_MQ, net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
        let pairs = u16::from_le_bytes(pairs);
        if !known || !(1..=self.workers.len()).contains(&usize::from(pairs)) {
            return net::VIRTIO_NET_ERR;
        }
        self.set_used(pairs);
        net::VIRTIO_NET_OK
    }
}

impl Subscriber for Pairs {
    fn ready(&mut self, _: u32, _: Readiness) {
        let kicks = self.kicks.clone();
        let Some(kick) = kicks.last() else { return };
        // An empty counter is a kick that was taken already.
        let _ = kick.read();
        let Some((memory, irq, mut queue)) = self.live.take() else { return };
        // A driver need not set it up.
        if queue.ready() && !irq.is_broken() {
            let served = chain::serve(&mut queue, &memory, |mut command, mut answer| {
                let said = command.take_array().map_or(net::VIRTIO_NET_ERR, |it| self.obey(it));
                Some(answer.copy_from(&[said as u8]))
            });
            match served {
                Ok(served) => {
                    if served.interrupt {
                        irq.used_ring();
                    }
                    if served.more {
                        let _ = kick.write(1);
                    }
                }
                Err(_) => irq.device_is_broken(),
            }
        }
        self.live = Some((memory, irq, queue));
    }
}
