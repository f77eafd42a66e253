//! virtio 1.2 as all devices share it.
//!
//! A device is three parts in `devices/`: its *core* serves requests and knows no descriptor, thread
//! or interrupt; its *worker* waits for kicks, feeds the core, raises the interrupt; its *device*
//! tells the driver what it is. The transport here owns a device's queues while the driver sets them
//! up and moves them into the device when it is activated. Nothing but [`mmio`] says MMIO.
//!
//! Everything in a queue was written by the guest: [`chain`] copies each descriptor once and judges
//! it, and the cores see byte ranges that lie in guest memory, or a [`chain::Lie`].

pub mod buffers;
pub mod chain;
pub mod device;
pub mod limiter;
pub mod mmio;
#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod tests;
pub mod worker;
