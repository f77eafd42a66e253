//! The words that the host and the guest's agent share.
//!
//! This crate does no input or output and has never heard of sockets, VMs or images: it turns values
//! into bytes and bytes into values, and refuses what it does not know. `docs/protocol.md` tells the
//! same story with pictures.
//!
//! One connection is one [`session`](message): both sides say [`message::Hello`] first, then the host
//! calls and the guest answers, each call with a number of its own, answers in any order. Standard
//! input and output never travel there: each is a connection to [`STDIO_PORT`] that begins with one
//! [`stream::Attach`] frame and carries plain bytes from then on.

pub mod files;
pub mod frame;
pub mod message;
pub mod network;
pub mod spec;
pub mod stream;

/// Version of everything in this crate. The two sides must say the same number.
pub const VERSION: u32 = 1;

/// The host's vsock port (CID 2) that the agent dials once it can answer calls: that connection is
/// the news that the guest is ready.
pub const READY_PORT: u32 = 1024;

/// The guest's vsock port for further sessions (an `exec` from another terminal, a shim).
pub const SESSION_PORT: u32 = 1025;

/// The guest's vsock port for standard input and output.
pub const STDIO_PORT: u32 = 1026;

/// What is so for most is not said.
fn is_false(said: &bool) -> bool {
    !said
}
