//! A conversation with the kernel: one thing asked, one thing answered.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

use crate::wire::{Message, Read, messages, number};

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 1;
/// `NLM_F_ACK`: it is answered even if all is well.
const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`: everything there is.
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`: there may be one.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: behind those that are there.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_CREATE | NLM_F_EXCL`: there is none yet.
pub(crate) const NEW: u16 = 0x600;
/// `NLM_F_CREATE | NLM_F_REPLACE`.
pub(crate) const SET: u16 = 0x500;
/// `NLM_F_DUMP_INTR`: what is listed was changed meanwhile.
const CHANGED: u16 = 0x10;

/// As much as the kernel says at once.
const MOST: usize = 64 << 10;

/// What the kernel needs beside a packet.
const ROOM: usize = 64 << 10;

/// How often a list is begun again that changes under us.
const PATIENCE: usize = 16;

/// Whom the kernel tells of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those who ask for nothing but answers.
    Nobody,
    /// Those who want to know of links.
    Links,
    /// Those who want to know of links, addresses and routes.
    Changes,
}

/// A socket of the kernel's, in the network namespace where it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open(group: Group) -> Result<Self, Errno> {
        let groups = match group {
            Group::Nobody => 0,
            // `RTMGRP_LINK`.
            Group::Links => 1,
            // And `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`.
            Group::Changes => 0x551,
        };
        // `NETLINK_ROUTE` is number 0, the usual one.
        Self::of(None, groups)
    }

    /// One by which netfilter is spoken to.
    pub(crate) fn of_netfilter() -> Result<Self, Errno> {
        Self::of(Some(NETFILTER), 0)
    }

    fn of(protocol: Option<Protocol>, groups: u32) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Has something done.
    pub(crate) fn order(&mut self, message: Message) -> Result<(), Errno> {
        let sequence = self.send(message, ACK)?;
        loop {
            let bytes = self.receive()?;
            for read in messages(&bytes).filter(|read| read.sequence == sequence) {
                if read.kind == ERROR {
                    return outcome(read);
                }
            }
        }
    }

    /// Has a batch done, without its ends: all of it, or nothing.
    pub(crate) fn order_all(
        &mut self,
        [begin, end]: [Message; 2],
        batch: Vec<Message>,
    ) -> Result<(), Errno> {
        let (mut bytes, count) = (self.finish(begin, 0).0, batch.len());
        let mut last = 0;
        for (number, message) in (1..).zip(batch) {
            // One answer for all of them, since there is room for some hundreds. Whatever is wrong is said before.
            let flags = if number == count { ACK } else { 0 };
            let (message, sequence) = self.finish(message, flags);
            bytes.extend(message);
            last = sequence;
        }
        bytes.extend(self.finish(end, 0).0);
        // It is one packet.
        set_socket_send_buffer_size_force(&self.fd, bytes.len() + ROOM)?;
        send(&self.fd, &bytes, SendFlags::empty())?;
        loop {
            let bytes = self.receive()?;
            for read in messages(&bytes).filter(|read| read.kind == ERROR) {
                outcome(read)?;
                if read.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Lists all there is of something, each of the messages of type `kind` as `read` makes of it.
    pub(crate) fn list<T>(
        &mut self,
        ask: impl Fn() -> Message,
        kind: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        for _ in 0..PATIENCE {
            if let Some(list) = self.list_once(ask(), kind, &read)? {
                return Ok(list);
            }
        }
        Err(Errno::AGAIN)
    }

    /// `None` if it changed meanwhile.
    fn list_once<T>(
        &mut self,
        message: Message,
        kind: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Errno> {
        let sequence = self.send(message, DUMP)?;
        let (mut list, mut has_changed) = (Vec::new(), false);
        loop {
            let bytes = self.receive()?;
            for message in messages(&bytes).filter(|message| message.sequence == sequence) {
                has_changed |= message.flags & CHANGED != 0;
                match message.kind {
                    DONE => return Ok((!has_changed).then_some(list)),
                    ERROR => outcome(message)?,
                    _ if message.kind == kind => list.extend(read(message.body)),
                    _ => {}
                }
            }
        }
    }

    /// Waits for the next messages of type `kind` that nobody asked for, `time` at most.
    pub(crate) fn news<T>(
        &mut self,
        time: Duration,
        kind: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        set_socket_timeout(&self.fd, Timeout::Recv, Some(time))?;
        let bytes = self.receive();
        set_socket_timeout(&self.fd, Timeout::Recv, None)?;
        let bytes = bytes?;
        Ok(messages(&bytes).filter(|it| it.kind == kind).filter_map(|it| read(it.body)).collect())
    }

    /// Takes what nobody asked for off the socket, and says whether there was anything.
    pub fn has_news(&self) -> Result<bool, Errno> {
        let mut any = false;
        let whole = self.drain(|_| any = true)?;
        // More than there was room for is news, too.
        Ok(any || !whole)
    }

    /// Takes what nobody asked for off the socket for `read`, without waiting; whether that is all of it.
    pub(crate) fn drain(&self, mut read: impl FnMut(Read<'_>)) -> Result<bool, Errno> {
        let mut bytes = Vec::with_capacity(MOST);
        let mut whole = true;
        loop {
            bytes.clear();
            let room: &mut [MaybeUninit<u8>] = bytes.spare_capacity_mut();
            match recv(&self.fd, room, RecvFlags::DONTWAIT) {
                Ok(((got, _), _)) => messages(got).for_each(&mut read),
                Err(Errno::NOBUFS) => whole = false,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(whole),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<u32, Errno> {
        let (bytes, sequence) = self.finish(message, flags);
        send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(sequence)
    }

    /// A message as it is sent, and its number.
    fn finish(&mut self, message: Message, flags: u16) -> (Vec<u8>, u32) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut bytes = message.finish(self.sequence);
        let all = u16::from_ne_bytes([bytes[6], bytes[7]]) | REQUEST | flags;
        bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        (bytes, self.sequence)
    }

    fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::with_capacity(MOST);
        loop {
            let room: &mut [MaybeUninit<u8>] = bytes.spare_capacity_mut();
            match recv(&self.fd, room, RecvFlags::empty()) {
                Ok(((got, _), _)) => return Ok(got.to_vec()),
                Err(Errno::INTR) => bytes.clear(),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Of `struct nlmsgerr`.
fn outcome(message: Read<'_>) -> Result<(), Errno> {
    match number(message.body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(negative) => Err(Errno::from_raw_os_error(-negative)),
        None => Err(Errno::PROTO),
    }
}
