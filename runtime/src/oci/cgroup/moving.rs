//! Going into a cgroup meanwhile.

use std::io;
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{CgroupError, Group};
use crate::threads;

/// This process on its way into a cgroup, for which the kernel takes milliseconds and no processor.
#[derive(Clone, Default)]
pub(in crate::oci) struct Moving(Arc<Mutex<Option<Mover>>>);

type Mover = JoinHandle<Result<(), CgroupError>>;

impl Moving {
    /// Goes into `group`.
    pub(in crate::oci) fn start(&self, group: Group) -> io::Result<()> {
        let mover = threads::small("moving").spawn(move || group.enter())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mover);
        Ok(())
    }

    /// Waits until it is there, if it has gone.
    pub(in crate::oci) fn finish(&self) -> Result<(), CgroupError> {
        let mover = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        mover.map_or(Ok(()), |mover| {
            mover.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }
}
