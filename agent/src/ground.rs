//! What stands below all containers and is the host's to change: random numbers, time, disks, network.
//!
//! A machine that was saved wakes up as often as somebody wants one, each time with the same random
//! generator, the same time and slots with other disks in them. Before anything is made of it, this puts
//! each of them right, or says that it cannot.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proto::message::Adoption;
use proto::network::Network;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::agent::Ground;
use crate::network::{self, Parked};
use crate::sys::random;
use crate::words::Refused;

/// The group in which a kernel tells of its devices.
const KERNELS_NEWS: u32 = 1;

/// How long a disk's driver may take to hear of its new disk: the host has said it before the guest ran.
const DRIVER: Duration = Duration::from_secs(10);

/// More than the kernel says about a device (`UEVENT_BUFFER_SIZE`).
const NEWS_BYTES: usize = 4096;

/// The guest's kernel.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Where it tells of disks that have changed. Listened to from before the machine is saved, so that
    /// nothing is missed.
    news: Option<OwnedFd>,
    /// Network cards that nothing is behind.
    parked: Option<Parked>,
    /// What the host has said last about the others.
    network: Network,
}

impl Ground for Kernel {
    fn settle(&mut self) -> Result<(), Refused> {
        self.news = Some(listen().map_err(Refused::at("news of devices"))?);
        self.parked = Some(network::park()?);
        Ok(())
    }

    fn adopt(&mut self, adoption: &Adoption) -> Result<(), Refused> {
        let generator =
            rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        generator
            .and_then(|generator| random::reseed(generator, &adoption.seed))
            .map_err(Refused::at("random generator"))?;
        let time = timespec(adoption.wall_clock_ns);
        clock_settime(ClockId::Realtime, time).map_err(Refused::at("clock"))?;
        for (letter, &sectors) in ('a'..='z').zip(&adoption.disk_sectors) {
            let disk = format!("vd{letter}");
            self.wait_for(&disk, sectors).map_err(Refused::at(disk))?;
        }
        self.connect(adoption.network.clone())
    }

    fn connect(&mut self, network: Network) -> Result<(), Refused> {
        let before = std::mem::replace(&mut self.network, network);
        network::change(&before, &self.network, self.parked.as_mut())
    }
}

impl Kernel {
    /// Waits until `disk` has as many sectors as it was said to have.
    fn wait_for(&self, disk: &str, sectors: u64) -> Result<(), Errno> {
        while size_of(disk)? != sectors {
            // One that was not changed has no news.
            let news = self.news.as_ref().ok_or(Errno::NXIO)?;
            match recv(news, &mut [0; NEWS_BYTES][..], RecvFlags::empty()) {
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn listen() -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNELS_NEWS))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DRIVER))?;
    Ok(socket)
}

/// In sectors of 512 bytes, whatever the disk's own are.
fn size_of(disk: &str) -> Result<u64, Errno> {
    let mut text = String::new();
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = File::open(format!("/sys/class/block/{disk}/size")).map_err(errno)?;
    file.read_to_string(&mut text).map_err(errno)?;
    text.trim().parse().map_err(|_| Errno::INVAL)
}

fn timespec(ns: u64) -> Timespec {
    const SECOND: u64 = 1_000_000_000;
    // Both fit: one is under 2^35, the other under 2^30.
    Timespec { tv_sec: (ns / SECOND).cast_signed(), tv_nsec: (ns % SECOND) as _ }
}
