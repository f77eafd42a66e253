//! The guest's way to the host and back.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use crate::sys::VsockAddress;

/// `VMADDR_CID_ANY`: whatever the guest's own context id is.
const ANY_CID: u32 = u32::MAX;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;

/// Listens on a port of the guest.
pub fn listen_on(port: u32) -> Result<OwnedFd, Errno> {
    let socket = stream()?;
    bind(&socket, &VsockAddress { cid: ANY_CID, port })?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Dials a port of the host.
pub fn dial_host(port: u32) -> Result<OwnedFd, Errno> {
    let socket = stream()?;
    connect(&socket, &VsockAddress { cid: libc::VMADDR_CID_HOST, port })?;
    Ok(socket)
}

fn stream() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}
