//! Brings a driver's queues and the wire together.

use std::io;

use virtio_queue::QueueT;

use super::core::{Brought, Core, Wire};
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::virtio::chain::{self, Lie};
use crate::virtio::device::{Kicks, Live, borrow};

/// Towards the guest, and from it (5.1.2).
pub(super) const QUEUES: usize = 2;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const WIRE: u32 = 2;

/// Frames that are brought before others have their turn.
const TURN: usize = 256;

pub(super) struct Worker {
    core: Core,
    kicks: Kicks,
    live: Option<Live>,
}

impl Worker {
    pub(super) fn new(
        wire: Option<Box<dyn Wire>>,
        kicks: Kicks,
        watch: &Watch,
    ) -> io::Result<Self> {
        for (token, kick) in (0..).zip(kicks.iter()) {
            watch.add(borrow(kick), token, Interest::Readable)?;
        }
        let core = Core::new(wire);
        if let Some(wire) = core.wire() {
            watch.add(wire, WIRE, Interest::Edges)?;
        }
        Ok(Self { core, kicks, live: None })
    }

    /// From now on it works.
    pub(super) fn start(&mut self, live: Live) {
        if self.core.agree(live.acked_features).is_err() {
            // Frames would come that the driver has not agreed to.
            live.irq.device_is_broken();
        }
        self.live = Some(live);
    }

    /// From now on it does not.
    pub(super) fn stop(&mut self) -> Option<Live> {
        self.live.take()
    }

    pub(super) fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// Brings the driver what has come, as long as it has room.
    fn receive(&mut self, live: &mut Live) -> Result<(), Lie> {
        let (queue, memory) = (&mut live.queues[RECEIVE], &live.memory);
        let before = queue.next_used();
        let mut turn = TURN;
        while turn > 0 {
            turn -= 1;
            match self.core.bring(queue, memory, live.acked_features)? {
                Brought::Frame => {}
                Brought::NoRoom { seen } if chain::wants_kick_behind(queue, memory, seen)? => {}
                Brought::NoRoom { .. } | Brought::Nothing => break,
            }
        }
        if turn == 0 {
            // The wire says once that there is something: we have to come back by ourselves.
            let _ = self.kicks[RECEIVE].write(1);
        }
        if chain::wants_interrupt_since(queue, memory, before)? {
            live.irq.used_ring();
        }
        Ok(())
    }

    /// Sends what the driver wants to be sent.
    fn transmit(&mut self, live: &mut Live) -> Result<(), Lie> {
        let (queue, features, core) =
            (&mut live.queues[TRANSMIT], live.acked_features, &mut self.core);
        let served = chain::serve(queue, &live.memory, |frame, _| {
            // One that is a lie is lost, and the driver hears nothing of that.
            let _ = core.send(frame, features);
            Some(0)
        })?;
        if served.interrupt {
            live.irq.used_ring();
        }
        if served.more {
            let _ = self.kicks[TRANSMIT].write(1);
        }
        Ok(())
    }
}

impl Subscriber for Worker {
    fn ready(&mut self, token: u32, _: Readiness) {
        let kick = token as usize;
        if let Some(kick) = self.kicks.get(kick) {
            // An empty counter is a kick that was taken already.
            let _ = kick.read();
        }
        let mut live = self.live.take();
        if let Some(live) = live.as_mut().filter(|live| !live.irq.is_broken()) {
            let done = if kick == TRANSMIT { self.transmit(live) } else { self.receive(live) };
            if done.is_err() {
                live.irq.device_is_broken();
            }
        }
        self.live = live;
    }
}
