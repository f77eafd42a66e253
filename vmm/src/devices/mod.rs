//! The one list of devices.
//!
//! A virtio device is a folder of three parts: `core.rs` serves requests and knows no descriptor,
//! thread or interrupt; `worker.rs` waits for kicks, feeds the core and raises the interrupt;
//! `mod.rs` is what the driver sees, and the one constructor. To add one: its folder, a line here, an
//! entry in [`crate::spec::VmSpec`] that says what it is given, and a call of `plug` in
//! `machine.rs`.

pub mod block;
pub mod fs;
pub mod net;
pub mod reset;
pub mod rng;
pub mod serial;
pub mod vsock;
