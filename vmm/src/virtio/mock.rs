//! The guest's side of a queue, for tests: writes descriptors as it pleases, lies included.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use crate::memory::{self, Memory, Range};

pub(crate) const SIZE: u16 = 16;
/// Where a test's data can be.
pub(crate) const DATA: u64 = 0x1_0000;
pub(crate) const END: u64 = 0x20_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

/// One descriptor: address, bytes, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// A guest that uses one queue; several stand at different `base`s of the same memory.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    base: u64,
    next: u16,
    offered: u16,
}

pub(crate) fn memory() -> Memory {
    memory::allocate(&[Range { start: 0, bytes: END }]).unwrap()
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::at(0, memory())
    }

    pub(crate) fn at(base: u64, memory: Memory) -> Self {
        Self { memory, base, next: 0, offered: 0 }
    }

    /// The device's side of it.
    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.base + TABLE)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.base + AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.base + USED)).unwrap();
        queue.set_ready(true);
        queue
    }

    /// Writes a descriptor at `index` of the table that begins at `table`.
    pub(crate) fn describe_in(&self, table: u64, index: u16, descriptor: Descriptor) {
        let (address, bytes, flags, next) = descriptor;
        let at = GuestAddress(table + u64::from(index) * 16);
        self.memory.write_obj(address, at).unwrap();
        self.memory.write_obj(bytes, at.unchecked_add(8)).unwrap();
        self.memory.write_obj(flags, at.unchecked_add(12)).unwrap();
        self.memory.write_obj(next, at.unchecked_add(14)).unwrap();
    }

    pub(crate) fn describe(&self, index: u16, descriptor: Descriptor) {
        self.describe_in(self.base + TABLE, index, descriptor);
    }

    /// Offers the chain that begins at `head`.
    pub(crate) fn offer_head(&mut self, head: u16) {
        let at = AVAILABLE + 4 + u64::from(self.offered % SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(self.base + at)).unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.set_offered(self.offered);
    }

    /// Says how much was offered, which need not be true.
    pub(crate) fn set_offered(&self, offered: u16) {
        self.memory.write_obj(offered, GuestAddress(self.base + AVAILABLE + 2)).unwrap();
    }

    /// Wants to hear of the used ring's entry of this index.
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = self.base + AVAILABLE + 4 + 2 * u64::from(SIZE);
        self.memory.write_obj(index, GuestAddress(at)).unwrap();
    }

    /// Offers a well-formed chain of parts: address, bytes, and whether the device writes there.
    pub(crate) fn offer(&mut self, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.next;
        for (at, &(address, bytes, writable)) in parts.iter().enumerate() {
            let next = (self.next + 1) % SIZE;
            let more = if at + 1 < parts.len() { NEXT } else { 0 };
            let write = if writable { WRITE } else { 0 };
            self.describe(self.next, (address, bytes, more | write, next));
            self.next = next;
        }
        self.offer_head(head);
        head
    }

    /// What came back: heads and bytes written.
    pub(crate) fn used(&self) -> Vec<(u32, u32)> {
        let count: u16 = self.memory.read_obj(GuestAddress(self.base + USED + 2)).unwrap();
        (0..count)
            .map(|index| {
                let at = self.base + USED + 4 + u64::from(index % SIZE) * 8;
                self.memory.read_obj::<[u32; 2]>(GuestAddress(at)).unwrap().into()
            })
            .collect()
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.memory.read_slice(&mut read, GuestAddress(address)).unwrap();
        read
    }
}

/// Runs `test` on the readable and writable bytes of one well-formed chain.
pub(crate) fn with_chain<T>(
    driver: &mut Driver,
    parts: &[(u64, u32, bool)],
    test: impl FnOnce(super::buffers::Buffers<'_>, super::buffers::Buffers<'_>) -> T,
) -> T {
    let mut fresh = Driver::at(0, driver.memory.clone());
    fresh.offer(parts);
    let mut queue = fresh.queue();
    let chain = super::chain::next(&mut queue, &driver.memory).unwrap().unwrap();
    let (readable, writable) = chain.open().unwrap();
    test(readable, writable)
}
