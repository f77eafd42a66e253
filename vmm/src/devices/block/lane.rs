//! A queue of a disk, and whoever serves it: waits for kicks and for a limit, feeds the core, raises the
//! interrupt.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;

use super::core::Core;
use super::image::Image;
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::virtio::chain;
use crate::virtio::device::{Kicks, SavedQueue, borrow};
use crate::virtio::limiter::{Gate, TimedGate};

const KICK: u32 = 0;
const TIMER: u32 = 1;

/// What is around the data of a request: header and status.
const FRAME_BYTES: usize = 17;

/// One queue.
pub(super) struct Lane {
    core: Core<Image>,
    kicks: Kicks,
    index: usize,
    gate: Option<TimedGate>,
    live: Option<Live>,
}

/// What it has while the driver does.
struct Live {
    memory: Memory,
    irq: Interrupt,
    queue: Queue,
}

impl Lane {
    /// Queue `index`, at rest, which listens to its kicks already.
    pub(super) fn new(
        core: Core<Image>,
        kicks: Kicks,
        index: usize,
        gate: Option<Arc<Gate>>,
        watch: &Watch,
    ) -> io::Result<Self> {
        if let Some(kick) = kicks.get(index) {
            watch.add(borrow(kick), KICK, Interest::Readable)?;
        }
        let gate = gate.map(|gate| TimedGate::new(gate, TIMER, watch)).transpose()?;
        Ok(Self { core, kicks, index, gate, live: None })
    }

    /// From now on it is served.
    pub(super) fn start(&mut self, memory: Memory, irq: Interrupt, queue: Queue) {
        self.live = Some(Live { memory, irq, queue });
    }

    /// From now on it is not.
    pub(super) fn stop(&mut self) -> Option<Queue> {
        self.live.take().map(|live| live.queue)
    }

    /// The queue as it stands, if it is served.
    pub(super) fn saved_queue(&self) -> Option<SavedQueue> {
        self.live.as_ref().map(|live| SavedQueue::from(&live.queue))
    }

    /// Answers what is in the queue, as far as the limits let it.
    fn serve(&mut self) {
        let Some(Live { memory, irq, queue }) = &mut self.live else { return };
        if irq.is_broken() {
            return;
        }
        let (core, gate) = (&mut self.core, &mut self.gate);
        let served = chain::serve(queue, memory, |from, into| {
            let bytes = (from.len() + into.len()).saturating_sub(FRAME_BYTES);
            if gate.as_mut().is_some_and(|gate| !gate.admits(bytes)) {
                return None;
            }
            Some(core.answer(from, into))
        });
        match served {
            Ok(served) => {
                if served.interrupt {
                    irq.used_ring();
                }
                if served.more
                    && let Some(kick) = self.kicks.get(self.index)
                {
                    // Cannot fail but for a full counter, and that is a kick already.
                    let _ = kick.write(1);
                }
            }
            Err(_) => irq.device_is_broken(),
        }
    }
}

impl Subscriber for Lane {
    fn ready(&mut self, token: u32, _: Readiness) {
        match (token, self.kicks.get(self.index), &mut self.gate) {
            // An empty counter is a kick that was taken already.
            (KICK, Some(kick), _) => drop(kick.read()),
            (TIMER, _, Some(gate)) => gate.opens(),
            _ => {}
        }
        self.serve();
    }
}
