//! The OCI runtime's door: bundles, and the verbs that every OCI runtime has.
//!
//! ```text
//!   microvm create ──► supervisor (supervise.rs) ──► VM
//!   reads nothing      reads config.json (bundle.rs), decides (plan.rs and its parts),
//!   but answers        makes what the host has to make (cgroup/, namespace.rs, console.rs)
//! ```
//!
//! The supervisor is what the caller sees as the container's process: its process number is the
//! container's, it has the standard streams it was created with, and it ends with the container's
//! exit code. Later verbs find it by its state directory.

pub(crate) mod bundle;
pub(crate) mod cgroup;
pub(crate) mod console;
pub(crate) mod hooks;
mod mounts;
mod namespace;
pub(crate) mod plan;
pub(crate) mod preserved;
mod process;
pub(crate) mod resources;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod supervise;
mod view;

pub(crate) use self::process::process;

/// The version of the OCI runtime specification that is spoken here.
pub(crate) const VERSION: &str = "1.2.0";
