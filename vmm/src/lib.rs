//! One process, one VM.
//!
//! This crate has never heard of containers, images or the agent: it is given a [`spec::VmSpec`] and
//! open descriptors, and carries vsock bytes it cannot read.
//!
//! An owner prepares a command with [`launch::hand_over`] that runs a program which calls [`main`];
//! that jails itself, runs the guest, and says over the control socket how it went.
//!
//! The rest is public for fuzz targets and tests, and `bpf` for who has filters of his own. Floors, each using only
//! those below: `bpf`, `kvm`, `memory`,
//! `section`, `spec` · `bus`, `irq`, `event_loop` ·
//! `arch`, `boot`, `virtio` · `devices` · `vcpu` · `machine`, `snapshot` · `control`, `jail`, `entry`, `entrances`.

pub mod arch;
pub mod boot;
pub mod bpf;
pub mod bus;
pub mod control;
pub mod devices;
pub mod ending;
pub mod entrances;
mod entry;
pub mod event_loop;
pub mod inherit;
pub mod irq;
pub mod jail;
pub mod kvm;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod probe;
pub mod section;
pub mod snapshot;
pub mod spec;
pub mod sync;
pub mod vcpu;
pub mod virtio;

pub use entry::main;
