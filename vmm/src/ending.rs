//! The one place where a VM's end is decided.
//!
//! Whoever notices an end says so here; the first one counts, and the event loop wakes up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The guest pulled its reset line.
    Reset,
    /// A vCPU could not even take a fault.
    TripleFault,
    /// KVM gave up on a vCPU, and why.
    KvmStopped(String),
    /// The owner closed the control socket.
    OwnerGone,
    /// The owner ordered the machine to be saved, which is the end of this one.
    CaptureOrdered,
    /// The owner ordered that it be written down what the guest has touched, which is the end of it.
    RecordOrdered,
    /// The VMM itself failed, and at what.
    Failed(String),
}

/// Where ends are told and waited for. A clone is the same place.
#[derive(Clone, Debug)]
pub struct Ends(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cause: OnceLock<Cause>,
    wake: EventFd,
}

impl Ends {
    /// A VM that has not ended.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { cause: OnceLock::new(), wake })))
    }

    /// It ends, because of this.
    pub fn tell(&self, cause: Cause) {
        if self.0.cause.set(cause).is_ok() {
            // Cannot fail: nobody else writes to it.
            let _ = self.0.wake.write(1);
        }
    }

    /// Why it ended, if it has.
    pub fn cause(&self) -> Option<&Cause> {
        self.0.cause.get()
    }
}

impl AsFd for Ends {
    /// Readable from the end on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.wake.as_raw_fd()) }
    }
}
