//! The worker of a device that answers requests one by one, and at once.

use std::io;
use std::sync::{Arc, Mutex};

use virtio_queue::Queue;

use crate::event_loop::{EventLoop, Interest, Readiness, Subscriber};
use crate::sync::lock;
use crate::virtio::buffers::Buffers;
use crate::virtio::chain;
use crate::virtio::device::{Kicks, Live, SavedQueue, borrow};

/// What a device does with a request.
pub trait Core: Send {
    /// Reads the request from `readable`, answers into `writable`, and gives the number of bytes it
    /// wrote there. It must not wait for anything but storage.
    fn answer(&mut self, readable: Buffers<'_>, writable: Buffers<'_>) -> usize;
}

/// Waits for kicks, feeds the core, raises the interrupt. A clone is the same worker: the device
/// keeps one, the event loop another.
pub struct Worker<C>(Arc<Mutex<Inner<C>>>);

struct Inner<C> {
    core: C,
    kicks: Kicks,
    live: Option<Live>,
}

impl<C: Core + 'static> Worker<C> {
    /// A worker at rest, which listens to `kicks` already.
    pub fn new(core: C, kicks: Kicks, event_loop: &mut EventLoop) -> io::Result<Self> {
        let inner = event_loop.subscribe(|watch| {
            for (queue, kick) in (0..).zip(kicks.iter()) {
                watch.add(borrow(kick), queue, Interest::Readable)?;
            }
            Ok::<_, io::Error>(Inner { core, kicks, live: None })
        })?;
        Ok(Self(inner))
    }

    /// From now on it works.
    pub fn start(&self, live: Live) {
        lock(&self.0).live = Some(live);
    }

    /// From now on it does not.
    pub fn stop(&self) -> Vec<Queue> {
        lock(&self.0).live.take().map_or(vec![], |live| live.queues)
    }

    /// The queues as they stand, if it works.
    pub fn save_queues(&self) -> Vec<SavedQueue> {
        lock(&self.0).live.as_ref().map_or(vec![], |live| live.saved_queues())
    }

    /// Something about the core.
    pub fn ask<T>(&self, question: impl FnOnce(&C) -> T) -> T {
        question(&lock(&self.0).core)
    }
}

impl<C: Core> Subscriber for Inner<C> {
    fn ready(&mut self, queue: u32, _: Readiness) {
        let index = queue as usize;
        let Some(kick) = self.kicks.get(index) else { return };
        // An empty counter is another thread's kick that was taken already.
        let _ = kick.read();
        let Some(live) = &mut self.live else { return };
        if live.irq.is_broken() {
            return;
        }
        let Some(queue) = live.queues.get_mut(index) else { return };
        let core = &mut self.core;
        match chain::serve(queue, &live.memory, |from, into| Some(core.answer(from, into))) {
            Ok(served) => {
                if served.interrupt {
                    live.irq.used_ring();
                }
                if served.more {
                    let _ = kick.write(1);
                }
            }
            Err(_) => live.irq.device_is_broken(),
        }
    }
}
