//! Requests as the guest wrote them, judged.
//!
//! A request is a chain of descriptors: first parts the device reads, then parts it writes (virtio
//! 1.2, 2.7.4.2). [`next`] takes one off a queue; [`Chain::open`] walks it once, copying each
//! descriptor, and gives two [`Buffers`] that are known to lie in guest memory. What the bytes in
//! them mean is still the guest's word, and they can change while we look: cores copy a header once.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::buffers::Buffers;
use crate::memory::Memory;

/// What is wrong with a request or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// The rings cannot be what the guest says: nothing more can be read from this queue.
    #[error("the queue's rings are broken")]
    Rings,
    /// A chain that goes in a circle, leaves its table, is cut off, or is longer than a queue can be (2.7.5.3.1):
    /// a table of its own has 65,535 descriptors, and what is to be written later is remembered.
    #[error("the descriptor chain is broken")]
    Chain,
    /// A part that does not lie in guest memory.
    #[error("a descriptor of {bytes} bytes at {address:#x} is not in memory")]
    Outside {
        /// Where it says it is.
        address: u64,
        /// How long it says it is.
        bytes: u32,
    },
    /// A part to be read behind a part to be written.
    #[error("a readable descriptor behind a writable one")]
    Order,
}

/// Takes the next chain off `queue`. `None` when the guest has put nothing more there.
pub fn next<'m>(queue: &mut Queue, memory: &'m Memory) -> Result<Option<Chain<'m>>, Lie> {
    if !queue.ready() {
        return Ok(None);
    }
    let mut available = queue.iter(memory).map_err(|_| Lie::Rings)?;
    let chain = available.next();
    Ok(chain.map(|chain| Chain { memory, chain, most: queue.max_size().into() }))
}

/// Puts the last chain that [`next`] took back onto its queue.
pub fn put_back(queue: &mut Queue) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
}

/// Gives a chain back to the guest, with how many bytes were written into it.
pub fn complete(queue: &mut Queue, memory: &Memory, head: u16, written: usize) -> Result<(), Lie> {
    let written = u32::try_from(written).unwrap_or(u32::MAX);
    queue.add_used(memory, head, written).map_err(|_| Lie::Rings)
}

/// Gives chains back with how many bytes were written into each, all at one moment: a guest that looks
/// meanwhile finds none of them.
pub fn complete_together(
    queue: &mut Queue,
    memory: &Memory,
    chains: &[(u16, usize)],
) -> Result<(), Lie> {
    let Some((&(last, written), others)) = chains.split_last() else { return Ok(()) };
    let mut next = queue.next_used();
    for &(head, written) in others {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        // `struct virtq_used_elem`, in a ring behind flags and index (2.7.8).
        let place = u64::from(next.checked_rem(queue.size()).ok_or(Lie::Rings)?);
        let place = queue.used_ring().checked_add(4 + 8 * place).ok_or(Lie::Rings)?;
        let element = [u32::from(head).to_le_bytes(), written.to_le_bytes()].concat();
        memory.write_slice(&element, GuestAddress(place)).map_err(|_| Lie::Rings)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    complete(queue, memory, last, written)
}

/// Whether the guest wants to hear of what was put into the used ring since its index was `before`. For
/// those who use [`complete_together`], of which [`wants_interrupt`] would see one chain in several.
pub fn wants_interrupt_since(queue: &Queue, memory: &Memory, before: u16) -> Result<bool, Lie> {
    let new = queue.next_used();
    if new == before || !queue.event_idx_enabled() {
        return Ok(new != before);
    }
    // The used ring is written before it is asked for (2.7.10).
    fence(Ordering::SeqCst);
    let place = 4 + 2 * u64::from(queue.size());
    let place = queue.avail_ring().checked_add(place).ok_or(Lie::Rings)?;
    let event = memory.load(GuestAddress(place), Ordering::Relaxed).map(u16::from_le);
    let event = event.map_err(|_| Lie::Rings)?;
    Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(before))
}

/// What [`serve`] leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The guest wants to hear of it.
    pub interrupt: bool,
    /// There is more in the queue than one round takes.
    pub more: bool,
}

/// Answers the requests in `queue`, each by how many bytes `answer` wrote. `None` is an answer that is not
/// given now: that request stays in the queue, and whoever calls this knows when to do so again. A request
/// that is a lie comes back with nothing written. One round is as many requests as the queue holds, so that
/// a guest that never pauses holds up nobody else.
pub fn serve(
    queue: &mut Queue,
    memory: &Memory,
    mut answer: impl FnMut(Buffers<'_>, Buffers<'_>) -> Option<usize>,
) -> Result<Served, Lie> {
    let mut served = false;
    let mut room = queue.size();
    loop {
        while let Some(chain) = next(queue, memory)? {
            let head = chain.head();
            let opened = chain.open();
            let written = opened.map_or(Some(0), |(readable, writable)| answer(readable, writable));
            let Some(written) = written else {
                put_back(queue);
                let interrupt = served && wants_interrupt(queue, memory)?;
                return Ok(Served { interrupt, more: false });
            };
            complete(queue, memory, head, written)?;
            served = true;
            room -= 1;
            if room == 0 {
                return Ok(Served { interrupt: wants_interrupt(queue, memory)?, more: true });
            }
        }
        if !wants_kick(queue, memory)? {
            let interrupt = served && wants_interrupt(queue, memory)?;
            return Ok(Served { interrupt, more: false });
        }
    }
}

/// Asks the guest to kick for the next request. `true` when there is one already.
pub fn wants_kick(queue: &mut Queue, memory: &Memory) -> Result<bool, Lie> {
    if !queue.ready() {
        return Ok(false);
    }
    queue.enable_notification(memory).map_err(|_| Lie::Rings)
}

/// As [`wants_kick`], of one who has taken `seen` chains, put them back because they were too few, and waits
/// for more.
pub fn wants_kick_behind(queue: &mut Queue, memory: &Memory, seen: u16) -> Result<bool, Lie> {
    let next = queue.next_avail();
    queue.set_next_avail(next.wrapping_add(seen));
    let is_there = wants_kick(queue, memory);
    queue.set_next_avail(next);
    is_there
}

/// Whether the guest wants to hear of what was put into the used ring since it was last asked.
pub fn wants_interrupt(queue: &mut Queue, memory: &Memory) -> Result<bool, Lie> {
    queue.needs_notification(memory).map_err(|_| Lie::Rings)
}

/// A chain off a queue.
#[derive(Debug)]
pub struct Chain<'m> {
    memory: &'m Memory,
    chain: DescriptorChain<&'m Memory>,
    /// Descriptors it may have.
    most: usize,
}

impl<'m> Chain<'m> {
    /// What names it when it is given back.
    pub fn head(&self) -> u16 {
        self.chain.head_index()
    }

    /// What the device may read and what it may write.
    pub fn open(self) -> Result<(Buffers<'m>, Buffers<'m>), Lie> {
        self.walk(|_, _| ())
    }

    /// What the device may read now, and where it may write the answer at a later time.
    pub fn open_for_later(self) -> Result<(Buffers<'m>, Room), Lie> {
        let mut room = Room::default();
        let (readable, _) = self.walk(|address, bytes| room.push(address, bytes))?;
        Ok((readable, room))
    }

    /// Walks it once, and tells `writable_part` where each part is that may be written.
    fn walk(
        self,
        mut writable_part: impl FnMut(GuestAddress, u32),
    ) -> Result<(Buffers<'m>, Buffers<'m>), Lie> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut unfinished = true;
        for descriptor in self.chain.take(self.most) {
            unfinished = descriptor.has_next();
            let part = if descriptor.is_write_only() {
                writable_part(descriptor.addr(), descriptor.len());
                &mut writable
            } else if writable.is_empty() {
                &mut readable
            } else {
                return Err(Lie::Order);
            };
            let bytes = descriptor.len();
            let outside = Lie::Outside { address: descriptor.addr().0, bytes };
            for slice in self.memory.get_slices(descriptor.addr(), bytes as usize) {
                part.push(slice.map_err(|_| outside)?);
            }
        }
        if unfinished { Err(Lie::Chain) } else { Ok((readable, writable)) }
    }
}

/// Where an answer goes that comes later: guest memory by its addresses, since a chain's descriptors
/// may be others by then.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Room {
    parts: Vec<(GuestAddress, u32)>,
    bytes: usize,
}

impl Room {
    /// How many bytes fit.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Nothing fits: no answer is wanted.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes themselves.
    pub fn open<'m>(&self, memory: &'m Memory) -> Result<Buffers<'m>, Lie> {
        let mut buffers = Buffers::default();
        for &(address, bytes) in &self.parts {
            let outside = Lie::Outside { address: address.0, bytes };
            for slice in memory.get_slices(address, bytes as usize) {
                buffers.push(slice.map_err(|_| outside)?);
            }
        }
        Ok(buffers)
    }

    fn push(&mut self, address: GuestAddress, bytes: u32) {
        self.parts.push((address, bytes));
        self.bytes += bytes as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{DATA, Driver, END, INDIRECT, NEXT, SIZE, WRITE};

    /// What a lying guest writes before it offers descriptor 0.
    type Lying = fn(&Driver);

    #[test]
    fn every_lie_in_a_chain_is_called_by_its_name() {
        let cases: [(&str, Lying, Lie); 10] = [
            (
                "a circle of two",
                |guest| {
                    guest.describe(0, (DATA, 8, NEXT, 1));
                    guest.describe(1, (DATA, 8, NEXT, 0));
                },
                Lie::Chain,
            ),
            (
                "next is not in the table",
                |guest| guest.describe(0, (DATA, 8, NEXT, SIZE)),
                Lie::Chain,
            ),
            (
                "outside of memory",
                |guest| guest.describe(0, (END, 8, 0, 0)),
                Lie::Outside { address: END, bytes: 8 },
            ),
            (
                "over the end of memory",
                |guest| guest.describe(0, (END - 4, 8, WRITE, 0)),
                Lie::Outside { address: END - 4, bytes: 8 },
            ),
            (
                "over the end of addresses",
                |guest| guest.describe(0, (u64::MAX - 3, 8, 0, 0)),
                Lie::Outside { address: u64::MAX - 3, bytes: 8 },
            ),
            (
                "four gigabytes",
                |guest| guest.describe(0, (DATA, u32::MAX, 0, 0)),
                Lie::Outside { address: DATA, bytes: u32::MAX },
            ),
            (
                "readable behind writable",
                |guest| {
                    guest.describe(0, (DATA, 8, NEXT | WRITE, 1));
                    guest.describe(1, (DATA, 8, 0, 0));
                },
                Lie::Order,
            ),
            (
                "a table in a table",
                |guest| {
                    guest.describe(0, (DATA, 16, INDIRECT, 0));
                    guest.describe_in(DATA, 0, (DATA, 16, INDIRECT, 0));
                },
                Lie::Chain,
            ),
            (
                "a table of more than the queue holds",
                |guest| {
                    guest.describe(0, (DATA, 16 * (u32::from(SIZE) + 1), INDIRECT, 0));
                    for at in 0..=SIZE {
                        let more = if at < SIZE { NEXT } else { 0 };
                        guest.describe_in(DATA, at, (DATA, 8, more | WRITE, at + 1));
                    }
                },
                Lie::Chain,
            ),
            (
                "a table of half a descriptor",
                |guest| guest.describe(0, (DATA, 8, INDIRECT, 0)),
                Lie::Chain,
            ),
        ];
        for (name, lie, want) in cases {
            let mut guest = Driver::new();
            lie(&guest);
            guest.offer_head(0);
            let mut queue = guest.queue();
            let chain = next(&mut queue, &guest.memory).unwrap().unwrap();
            assert_eq!(chain.open().unwrap_err(), want, "{name}");
        }
    }

    #[test]
    fn a_head_that_is_no_descriptor_breaks_the_queue_and_not_the_host() {
        let mut guest = Driver::new();
        guest.offer_head(SIZE);
        let outcome = serve(&mut guest.queue(), &guest.memory, |_, _| unreachable!());
        assert_eq!(outcome, Err(Lie::Rings));
    }

    #[test]
    fn more_offers_than_the_queue_holds_break_it() {
        let guest = Driver::new();
        guest.set_offered(SIZE + 1);
        assert_eq!(next(&mut guest.queue(), &guest.memory).unwrap_err(), Lie::Rings);
    }

    #[test]
    fn a_lying_request_comes_back_empty_and_the_next_one_is_served() {
        let mut guest = Driver::new();
        guest.offer(&[(END, 4, false)]);
        guest.offer(&[(DATA, 4, true)]);
        let served =
            serve(&mut guest.queue(), &guest.memory, |_, mut into| Some(into.copy_from(b"abcdef")));
        assert_eq!(served, Ok(Served { interrupt: true, more: false }));
        assert_eq!(guest.used(), [(0, 0), (1, 4)]);
        assert_eq!(guest.read(DATA, 4), b"abcd");
    }

    #[test]
    fn a_request_that_is_not_answered_now_is_the_next_one_later() {
        let mut guest = Driver::new();
        guest.offer(&[(DATA, 4, true)]);
        guest.offer(&[(DATA + 8, 4, true)]);
        let mut queue = guest.queue();
        let mut room = 1;
        let served = serve(&mut queue, &guest.memory, |_, mut into| {
            (room > 0).then(|| {
                room -= 1;
                into.copy_from(b"first")
            })
        });
        assert_eq!(served, Ok(Served { interrupt: true, more: false }));
        assert_eq!(guest.used(), [(0, 4)]);
        serve(&mut queue, &guest.memory, |_, mut into| Some(into.copy_from(b"second"))).unwrap();
        assert_eq!(guest.used(), [(0, 4), (1, 4)]);
        assert_eq!(
            (guest.read(DATA, 4), guest.read(DATA + 8, 4)),
            (b"firs".into(), b"seco".into())
        );
    }

    #[test]
    fn chains_given_back_together_come_in_their_order_and_wake_whoever_waits_for_one_of_them() {
        let guest = Driver::new();
        let mut queue = guest.queue();
        queue.set_event_idx(true);
        // Over the end of the ring, and back at its beginning.
        let written = [(4, 40), (5, 50), (6, 60)];
        for round in 0..6u16 {
            let before = queue.next_used();
            complete_together(&mut queue, &guest.memory, &written).unwrap();
            let used = guest.used();
            assert_eq!(used[usize::from(before)..], [(4, 40), (5, 50), (6, 60)], "{round}");
            for (wanted, is_told) in [(0, true), (1, true), (2, true), (3, false), (-1, false)] {
                guest.set_used_event(before.wrapping_add_signed(wanted));
                let told = wants_interrupt_since(&queue, &guest.memory, before);
                assert_eq!(told, Ok(is_told), "{round}, {wanted}");
            }
        }
        let now = queue.next_used();
        assert_eq!(wants_interrupt_since(&queue, &guest.memory, now), Ok(false));
        complete_together(&mut queue, &guest.memory, &[]).unwrap();
        assert_eq!(queue.next_used(), now);
    }

    #[test]
    fn a_full_queue_is_one_round() {
        let mut guest = Driver::new();
        for _ in 0..SIZE {
            guest.offer(&[(DATA, 1, true)]);
        }
        let served = serve(&mut guest.queue(), &guest.memory, |_, _| Some(0));
        assert_eq!(served, Ok(Served { interrupt: true, more: true }));
        assert_eq!(guest.used().len(), usize::from(SIZE));
    }
}
