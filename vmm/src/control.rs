//! The control socket: what the owner hears, and the orders he gives.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::devices::net::{Plug, Slot};
use crate::ending::{Cause, Ends};
use crate::event_loop::{Interest, Readiness, Subscriber, Watch};
use crate::spec::{Ending, Order, Report};

/// This end of the control socket. A clone is the same.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    owner_gone: AtomicBool,
}

impl Control {
    /// Takes the socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Shared { socket, owner_gone: AtomicBool::new(false) }))
    }

    /// Tells of a moment, now. An owner who does not listen misses it.
    pub fn mark(&self, name: impl Into<String>) {
        let now = monotonic();
        let monotonic_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.send(&Report::Mark { name: name.into(), monotonic_ns }, libc::MSG_DONTWAIT);
    }

    /// Tells of the end. Waits for an owner who is slow; one who is gone will not miss it.
    pub fn ended(&self, ending: Ending) {
        self.send(&Report::Ended { ending }, 0);
    }

    /// The owner has closed its end.
    pub fn owner_is_gone(&self) -> bool {
        self.0.owner_gone.load(Ordering::Acquire)
    }

    fn send(&self, report: &Report, flags: libc::c_int) {
        let Ok(packet) = serde_json::to_vec(report) else { return };
        // SAFETY: the buffer is readable for its length; the descriptor is owned.
        unsafe {
            libc::send(
                self.0.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                flags | libc::MSG_NOSIGNAL,
            )
        };
    }
}

impl ScmSocket for Shared {
    fn socket_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Since some moment before everything, the same for all processes.
fn monotonic() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is writable, and the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
    // SAFETY: zero bits are a value of it, and the kernel may have written another.
    let now = unsafe { now.assume_init() };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Does what the owner orders, and ends the VM when he closes his end.
pub struct Owner {
    control: Control,
    ends: Ends,
    slots: Vec<Slot>,
}

/// The longest order.
const ORDER_BYTES: usize = 256;

impl Owner {
    /// Watches the owner's end of `control`, for a machine with these network slots.
    pub fn new(control: Control, ends: Ends, slots: Vec<Slot>, watch: &Watch) -> io::Result<Self> {
        watch.add(control.0.socket.as_fd(), 0, Interest::Readable)?;
        Ok(Self { control, ends, slots })
    }
}

impl Owner {
    /// What he says, and the end that follows from it, if one does.
    fn hear(&self) -> Option<Cause> {
        let mut packet = [0; ORDER_BYTES];
        let (length, descriptor) = match self.control.0.recv_with_fd(&mut packet) {
            Ok((length @ 1.., descriptor)) => (length, descriptor),
            Ok((0, _)) | Err(_) => {
                self.control.0.owner_gone.store(true, Ordering::Release);
                return Some(Cause::OwnerGone);
            }
        };
        let plug = |slot: u8, plug: Option<Plug>| {
            let known = self.slots.get(usize::from(slot)).ok_or("there is no such slot".to_owned());
            known.and_then(|known| known.plug(plug).map_err(|error| error.to_string()))
        };
        let done = match (serde_json::from_slice(&packet[..length]), descriptor) {
            (Ok(Order::Capture), _) => return Some(Cause::CaptureOrdered),
            (Ok(Order::Record), _) => return Some(Cause::RecordOrdered),
            (Ok(Order::Plug { slot }), Some(tap)) => plug(slot, Some(Plug::Tap(vec![tap.into()]))),
            (Ok(Order::Plug { .. }), None) => Err("no tap came with it".to_owned()),
            (Ok(Order::Unplug { slot }), _) => plug(slot, None),
            (Err(error), _) => Err(error.to_string()),
        };
        done.err().map(|reason| Cause::Failed(format!("the owner's order: {reason}")))
    }
}

impl Subscriber for Owner {
    fn ready(&mut self, _: u32, _: Readiness) {
        if let Some(cause) = self.hear() {
            self.ends.tell(cause);
        }
    }
}
