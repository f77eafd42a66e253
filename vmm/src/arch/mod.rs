//! What differs between processor architectures, and the only place that names one.
//!
//! An architecture gives: where things are in guest-physical memory ([`layout`]), how a kernel is
//! entered ([`boot`]), what a vCPU is at power-on ([`cpu`]) and later ([`state`]),
//! and instructions that tell a real processor from an interpreter ([`code`]).

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{boot, code, cpu, layout, state};
