//! The agent: PID 1 of the guest.
//!
//! It makes containers, carries their input and output, reaps what ends and tells the host. One
//! thread, one epoll loop ([`Agent`]); the set-up of a container runs in the child that becomes it.
//! All of it speaks over any stream socket, so that most is tested on the host without a VM: only
//! [`boot`], [`ground`] and [`vsock`] know that this is a guest.
//!
//! What this crate must not know: images, hypervisors, the network outside, and who asks.

mod acquaintances;
mod agent;
mod birth;
pub mod boot;
mod carry;
mod childhood;
mod container;
mod control;
mod ending;
mod faults;
pub mod ground;
pub mod kmsg;
mod lifecycle;
mod network;
mod process;
mod processes;
mod queries;
mod reactor;
mod relay;
mod session;
mod stdio;
mod sys;
pub mod vsock;
mod words;

pub use agent::{Agent, Doors, Ground, Stop};
pub use birth::Guest;
pub use session::{Session, SessionEnd};
pub use words::Refused;
