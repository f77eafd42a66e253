//! One thread waits for everything that is not a vCPU.
//!
//! Our own 100 lines over epoll and not `event-manager`: that keys each descriptor in a map, and
//! panics on an event of a descriptor that was taken out, while the socket device adds and drops
//! descriptors all the time and wants to do so with one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// Events taken from the kernel at once.
const BATCH: usize = 32;

/// Something that is told when its descriptors are ready.
pub trait Subscriber: Send {
    /// `token` is the one given to [`Watch::add`]. An event may come late: for a descriptor that was
    /// closed earlier in the same batch.
    fn ready(&mut self, token: u32, readiness: Readiness);
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(u32);

impl Readiness {
    /// There is something to read.
    pub const READABLE: Self = Self(libc::EPOLLIN as u32);
    /// There is room to write.
    pub const WRITABLE: Self = Self(libc::EPOLLOUT as u32);
    /// The other end is closed.
    pub const GONE: Self = Self((libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP) as u32);

    /// There is something to read, or the end of it.
    pub fn readable(self) -> bool {
        self.0 & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// There is room to write, or an error that writing will tell.
    pub fn writable(self) -> bool {
        self.0 & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// The other end will send nothing more.
    pub fn hung_up(self) -> bool {
        self.0 & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// The other end will neither send nor take anything.
    pub fn gone(self) -> bool {
        self.0 & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
}

/// When to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// For as long as there is something to read.
    Readable,
    /// Once each time it becomes readable or writable, or hangs up: whoever asks for this goes on
    /// until the kernel says `EAGAIN`.
    Edges,
}

/// A subscriber's right to watch descriptors.
#[derive(Clone, Debug)]
pub struct Watch {
    epoll: Arc<OwnedFd>,
    subscriber: u32,
}

impl Watch {
    /// From now on the subscriber is told about `fd`. Closing the descriptor ends it.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::EPOLLIN,
            Interest::Edges => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: u64::from(self.subscriber) << 32 | u64::from(token),
        };
        // SAFETY: both descriptors are borrowed for the call, and `event` lives on the stack.
        let done = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The subscribers and the one descriptor that waits for all of theirs.
pub struct EventLoop {
    epoll: Arc<OwnedFd>,
    subscribers: Vec<Arc<Mutex<dyn Subscriber>>>,
}

impl EventLoop {
    /// A loop that waits for nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was made just now and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll: Arc::new(epoll), subscribers: Vec::new() })
    }

    /// Adds the subscriber that `make` makes with the right to watch.
    pub fn subscribe<S: Subscriber + 'static, E>(
        &mut self,
        make: impl FnOnce(Watch) -> Result<S, E>,
    ) -> Result<Arc<Mutex<S>>, E> {
        let subscriber = u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX);
        let subscriber = make(Watch { epoll: self.epoll.clone(), subscriber })?;
        let subscriber = Arc::new(Mutex::new(subscriber));
        self.subscribers.push(subscriber.clone());
        Ok(subscriber)
    }

    /// Waits until something is ready and tells whom it belongs to.
    pub fn turn(&self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // `epoll_pwait` by name, since C libraries differ in what they make of `epoll_wait` and the
        // jail knows one of the two.
        // SAFETY: `events` is writable for `BATCH` elements; a null mask changes no signal.
        let ready = unsafe {
            libc::epoll_pwait(
                self.epoll.as_fd().as_raw_fd(),
                events.as_mut_ptr(),
                BATCH as i32,
                -1,
                std::ptr::null(),
            )
        };
        let Ok(ready) = usize::try_from(ready) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        for event in &events[..ready] {
            let [token, subscriber] = [event.u64 as u32, (event.u64 >> 32) as u32];
            if let Some(subscriber) = self.subscribers.get(subscriber as usize) {
                lock(subscriber).ready(token, Readiness(event.events));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    struct Diary(Vec<(u32, bool, bool)>);

    impl Subscriber for Diary {
        fn ready(&mut self, token: u32, readiness: Readiness) {
            self.0.push((token, readiness.readable(), readiness.hung_up()));
        }
    }

    #[test]
    fn a_subscriber_hears_of_its_own_descriptors_by_their_tokens() {
        let mut event_loop = EventLoop::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let (other, _kept) = UnixStream::pair().unwrap();
        let first = event_loop
            .subscribe(|watch| {
                watch.add(far.as_fd(), 7, Interest::Readable).map(|()| Diary(vec![]))
            })
            .unwrap();
        let second = event_loop
            .subscribe(|watch| {
                watch.add(other.as_fd(), 8, Interest::Readable).map(|()| Diary(vec![]))
            })
            .unwrap();
        near.write_all(b"x").unwrap();
        event_loop.turn().unwrap();
        assert_eq!(lock(&first).0, [(7, true, false)]);
        assert!(lock(&second).0.is_empty());
        drop(near);
        event_loop.turn().unwrap();
        assert_eq!(lock(&first).0[1], (7, true, true));
    }
}
