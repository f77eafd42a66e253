//! A device's interrupt line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// "A queue has something in its used ring" (virtio 1.2, 4.2.2, `InterruptStatus` bit 0).
const USED_RING: u32 = 1 << 0;
/// "The configuration changed" (bit 1).
const CONFIG: u32 = 1 << 1;

/// Raises a device's interrupt. A clone raises the same one.
#[derive(Clone, Debug)]
pub struct Interrupt {
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    reasons: AtomicU32,
    broken: AtomicBool,
    event: EventFd,
}

impl Interrupt {
    /// A line that rests.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (reasons, broken) = (AtomicU32::new(0), AtomicBool::new(false));
        Ok(Self { line: Arc::new(Line { reasons, broken, event }) })
    }

    /// What KVM listens to.
    pub fn event(&self) -> &EventFd {
        &self.line.event
    }

    /// A queue has something for the guest.
    pub fn used_ring(&self) {
        self.raise(USED_RING);
    }

    /// The configuration space changed.
    pub fn config(&self) {
        self.raise(CONFIG);
    }

    /// The driver has broken the device, which stands still until it is reset (virtio 1.2, 2.1.2).
    pub fn device_is_broken(&self) {
        self.line.broken.store(true, Ordering::Release);
        self.config();
    }

    /// Whether it stands still.
    pub fn is_broken(&self) -> bool {
        self.line.broken.load(Ordering::Acquire)
    }

    /// Why it was raised and what the guest has not acknowledged yet.
    pub fn reasons(&self) -> u32 {
        self.line.reasons.load(Ordering::Acquire)
    }

    /// The guest has seen these.
    pub fn acknowledge(&self, reasons: u32) {
        self.line.reasons.fetch_and(!reasons, Ordering::AcqRel);
    }

    /// Back to rest.
    pub fn reset(&self) {
        self.line.broken.store(false, Ordering::Release);
        self.acknowledge(u32::MAX);
    }

    /// Raises it for `reasons`, as bits of `InterruptStatus`.
    pub fn raise(&self, reasons: u32) {
        self.line.reasons.fetch_or(reasons, Ordering::AcqRel);
        // The counter is full only when nobody has listened 2^64 times: the line is up anyway.
        let _ = self.line.event.write(1);
    }
}
