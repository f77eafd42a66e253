//! One process, one VM.
//!
//! This crate has never heard of containers, images or the agent: it is given a [`spec::VmSpec`] and
//! open descriptors, and carries vsock bytes it cannot read.

pub mod spec;
