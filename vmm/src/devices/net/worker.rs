//! Brings a pair of a driver's queues and a wire together.

use std::io;
use std::sync::Arc;

use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::core::{Brought, Core, HEADER, Sent, Wire};
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::virtio::chain::{self, Lie};
use crate::virtio::device::{Kicks, Live, borrow};
use crate::virtio::limiter::{Gate, TimedGate};

/// Towards the guest, and from it (5.1.2).
pub(crate) const QUEUES: usize = 2;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const WIRE: u32 = 2;
/// That it is over that there is nothing for a frame, towards the guest and from it.
const TIMERS: u32 = 3;

/// Frames that are brought before others have their turn.
const TURN: usize = 256;

/// What limits each way, for all pairs of a card.
pub(super) type Gates = [Option<Arc<Gate>>; QUEUES];

pub(super) struct Worker {
    core: Core,
    /// Of all queues of the device.
    kicks: Kicks,
    /// Which of them is the first of this pair.
    first: usize,
    /// The driver uses this pair.
    used: bool,
    /// By queue.
    gates: [Option<TimedGate>; QUEUES],
    /// By queue: the frame that is next has been let through already. It pays once, however often there is no
    /// room for it.
    admitted: [bool; QUEUES],
    /// The wire has no room for the frame that is next from the guest.
    stuck: bool,
    live: Option<Live>,
    watch: Watch,
}

impl Worker {
    /// Pair `pair`, at rest.
    pub(super) fn new(
        pair: usize,
        wire: Option<Box<dyn Wire>>,
        [receive, transmit]: Gates,
        kicks: Kicks,
        watch: Watch,
    ) -> io::Result<Self> {
        let first = pair * QUEUES;
        for (token, kick) in (0..).zip(kicks.iter().skip(first).take(QUEUES)) {
            watch.add(borrow(kick), token, Interest::Readable)?;
        }
        let core = Core::new(wire);
        watch_wire(&core, &watch)?;
        let gate = |gate: Option<Arc<Gate>>, queue: usize| -> io::Result<_> {
            gate.map(|gate| TimedGate::new(gate, TIMERS + queue as u32, &watch)).transpose()
        };
        let gates = [gate(receive, RECEIVE)?, gate(transmit, TRANSMIT)?];
        Ok(Self {
            core,
            kicks,
            first,
            used: true,
            gates,
            admitted: [false; QUEUES],
            stuck: false,
            live: None,
            watch,
        })
    }

    /// From now on the driver looks at this pair, or does not: frames that come are for those that it looks at.
    pub(super) fn use_it(&mut self, used: bool) {
        self.used = used;
        self.core.attend(used);
        if self.live.is_some() {
            // What was kicked before it was used would otherwise wait for the next kick.
            self.kicks().for_each(|kick| drop(kick.write(1)));
        }
    }

    /// Those of this pair.
    fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.kicks.iter().skip(self.first).take(QUEUES)
    }

    pub(super) fn has_wire(&self) -> bool {
        self.core.wire().is_some()
    }

    /// From now on frames go over this wire, or none does. A driver that works hears of it.
    pub(super) fn plug(&mut self, wire: Option<Box<dyn Wire>>) -> io::Result<()> {
        self.core = Core::new(wire);
        watch_wire(&self.core, &self.watch)?;
        self.core.attend(self.used);
        if let Some(live) = self.live.take() {
            if self.first == 0 {
                live.irq.config();
            }
            self.start(live);
        }
        Ok(())
    }

    /// From now on it works.
    pub(super) fn start(&mut self, live: Live) {
        if self.core.agree(live.acked_features).is_err() {
            // Frames would come that the driver has not agreed to.
            live.irq.device_is_broken();
        }
        (self.admitted, self.stuck) = ([false; QUEUES], false);
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
            if !self.may_bring() {
                break;
            }
            match self.core.bring(queue, memory, live.acked_features)? {
                Brought::Frame => self.admitted[RECEIVE] = false,
                Brought::NoRoom { seen } if chain::wants_kick_behind(queue, memory, seen)? => {}
                Brought::NoRoom { .. } | Brought::Nothing => break,
            }
        }
        if turn == 0 {
            // The wire says once that there is something: we have to come back by ourselves.
            let _ = self.kicks[self.first + RECEIVE].write(1);
        }
        if chain::wants_interrupt_since(queue, memory, before)? {
            live.irq.used_ring();
        }
        Ok(())
    }

    /// Whether the next frame may come, if there is one.
    fn may_bring(&mut self) -> bool {
        let admitted = &mut self.admitted[RECEIVE];
        let Some(gate) = self.gates[RECEIVE].as_mut().filter(|_| !*admitted) else {
            return true;
        };
        *admitted = self.core.next_bytes().is_some_and(|bytes| gate.admits(bytes));
        *admitted
    }

    /// Sends what the driver wants to be sent, as far as the limits let it and the wire has room.
    fn transmit(&mut self, live: &mut Live) -> Result<(), Lie> {
        let Self { core, gates, admitted, stuck, first, .. } = self;
        let (gate, admitted) = (&mut gates[TRANSMIT], &mut admitted[TRANSMIT]);
        let (queue, features) = (&mut live.queues[TRANSMIT], live.acked_features);
        *stuck = false;
        let served = chain::serve(queue, &live.memory, |frame, _| {
            let bytes = frame.len().saturating_sub(HEADER);
            *admitted = *admitted || gate.as_mut().is_none_or(|gate| gate.admits(bytes));
            if !*admitted {
                return None;
            }
            // One that is a lie is lost, and the driver hears nothing of that.
            *stuck = core.send(frame, features) == Ok(Sent::NoRoom);
            *admitted = *stuck;
            (!*stuck).then_some(0)
        })?;
        if served.interrupt {
            live.irq.used_ring();
        }
        if served.more {
            let _ = self.kicks[*first + TRANSMIT].write(1);
        }
        Ok(())
    }
}

/// Closing a wire ends that.
fn watch_wire(core: &Core, watch: &Watch) -> io::Result<()> {
    core.wire().map_or(Ok(()), |wire| watch.add(wire, WIRE, Interest::Edges))
}

impl Subscriber for Worker {
    fn ready(&mut self, token: u32, _: Readiness) {
        if let Some(kick) = self.kicks().nth(token as usize) {
            // An empty counter is a kick that was taken already.
            let _ = kick.read();
        }
        let timer = token.checked_sub(TIMERS).map(|queue| queue as usize);
        if let Some(Some(gate)) = timer.and_then(|queue| self.gates.get_mut(queue)) {
            gate.opens();
        }
        if token == WIRE {
            self.core.go_on();
        }
        let mut live = self.live.take();
        let works = |live: &&mut Live| self.used && !live.irq.is_broken();
        if let Some(live) = live.as_mut().filter(works) {
            let transmits = token as usize == TRANSMIT || timer == Some(TRANSMIT);
            let resumes = token == WIRE && self.stuck;
            let mut done = if transmits || resumes { self.transmit(live) } else { Ok(()) };
            if !transmits {
                done = done.and_then(|()| self.receive(live));
            }
            if done.is_err() {
                live.irq.device_is_broken();
            }
        }
        self.live = live;
    }
}
