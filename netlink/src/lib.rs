//! What is said to a Linux kernel about its network (rtnetlink(7)): the guest's and the host's.
//!
//! A [`Socket`] belongs to the network namespace that its thread was in when it was opened. What can be said
//! stands in one file for each thing: [`link`], [`address`], [`route`], [`neighbour`], [`traffic`], [`tables`] and
//! what a [`rule`] in them says.
//!
//! Our own few hundred lines and not the field's crates: those know every attribute there is, which is half a
//! megabyte in each guest, and these are bytes for our own kernels alone.
//!
//! What this crate must not know: VMs, containers, and why anybody wants a network.

pub mod address;
pub mod link;
pub mod neighbour;
pub mod route;
pub mod rule;
mod socket;
pub mod tables;
pub mod traffic;
mod wire;

use std::net::IpAddr;

pub use rustix::io::Errno;
pub use socket::{Group, Socket};

/// `AF_INET` or `AF_INET6`.
fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// An address as it stands in a packet.
pub fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// An address as the kernel says it; `None` if it is neither of IPv4 nor of IPv6.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A thread in a network namespace of its own, for tests; they need root.
#[cfg(test)]
fn elsewhere<T: Send>(test: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: changes what this thread alone sees of the network.
            let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            if done < 0 {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "skipped: no new network namespace");
            }
            (done == 0).then(test)
        });
        thread.join().unwrap()
    })
}
