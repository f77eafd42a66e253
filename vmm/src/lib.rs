//! One process, one VM.
//!
//! This crate has never heard of containers, images or the agent: it is given a [`spec::VmSpec`] and
//! open descriptors, and carries vsock bytes it cannot read.
//!
//! An owner prepares a command with [`launch::hand_over`] that runs a program which calls [`main`];
//! that jails itself, runs the guest, and says over the control socket how it went.
//!
//! Floors, each using only those below: `kvm`, `memory`, `spec` · `bus`, `irq`, `event_loop` ·
//! `arch`, `boot`, `virtio` · `devices` · `vcpu` · `machine` · `control`, `jail`, `entry`.

mod arch;
mod boot;
mod bus;
mod control;
mod devices;
mod ending;
mod entry;
mod event_loop;
mod inherit;
mod irq;
mod jail;
mod kvm;
pub mod launch;
mod machine;
mod memory;
pub mod probe;
pub mod spec;
mod sync;
mod vcpu;
mod virtio;

pub use entry::main;
