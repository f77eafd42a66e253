//! Threads that stay for as long as a container does.

use std::thread::Builder;

/// More than any of them has been seen to need. A stack of the usual 2 MiB is a large page to the host, as soon as a
/// byte of it was touched, and hundreds of containers have one each.
const STACK_BYTES: usize = 512 << 10;

/// A thread that is to be, by its name.
pub(crate) fn small(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}
