//! The guest's way to the host and back.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use crate::sys::VsockAddress;
use crate::words::Refused;

/// `VMADDR_CID_ANY`: whatever the guest's own context id is.
const ANY_CID: u32 = u32::MAX;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;

/// Listens on a port of the guest.
pub fn listen_on(port: u32) -> Result<OwnedFd, Refused> {
    let listening = || {
        let socket = stream()?;
        bind(&socket, &VsockAddress { cid: ANY_CID, port })?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listening().map_err(Refused::at(format!("listen on vsock port {port}")))
}

/// Dials a port of the host.
pub fn dial_host(port: u32) -> Result<OwnedFd, Refused> {
    let connected = || {
        let socket = stream()?;
        connect(&socket, &VsockAddress { cid: libc::VMADDR_CID_HOST, port })?;
        Ok(socket)
    };
    connected().map_err(Refused::at(format!("dial vsock port {port} of the host")))
}

fn stream() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}
