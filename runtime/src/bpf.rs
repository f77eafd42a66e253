//! Programs for the guest's kernel, made from what a bundle says: which system calls its processes may
//! make, and what they may do with devices.
//!
//! Pure functions from the specification's words to instructions. The guest installs them and need
//! not know what they mean.

pub(crate) mod devices;
pub(crate) mod seccomp;
