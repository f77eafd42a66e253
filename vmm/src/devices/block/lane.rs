//! A queue of a disk, and whoever serves it: waits for kicks and for a limit, feeds the core, raises the
//! interrupt.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::timerfd::TimerFd;

use super::core::Core;
use super::image::Image;
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::irq::Interrupt;
use crate::memory::Memory;
use crate::virtio::chain;
use crate::virtio::device::{Kicks, SavedQueue, borrow};
use crate::virtio::limiter::Gate;

const KICK: u32 = 0;
const TIMER: u32 = 1;

/// What is around the data of a request: header and status.
const FRAME_BYTES: usize = 17;

/// One queue.
pub(super) struct Lane {
    core: Core<Image>,
    kicks: Kicks,
    index: usize,
    /// And what tells when it is over that there is nothing for a request.
    gate: Option<(Arc<Gate>, TimerFd)>,
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
        let gate = match gate {
            Some(gate) => {
                let timer = TimerFd::new()?;
                watch.add(borrow(&timer), TIMER, Interest::Readable)?;
                Some((gate, timer))
            }
            None => None,
        };
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
            if let Some((gate, timer)) = gate {
                let bytes = (from.len() + into.len()).saturating_sub(FRAME_BYTES);
                if let Err(wait) = gate.admit(bytes) {
                    // One that cannot be set is none of ours.
                    let _ = timer.reset(wait, None);
                    return None;
                }
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
            // Without reading: it may have been set anew since, and would be waited for.
            (TIMER, _, Some((_, timer))) => drop(timer.clear()),
            _ => {}
        }
        self.serve();
    }
}
