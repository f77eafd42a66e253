//! What a file server makes of the guest's requests.
//!
//! Files are `fuse-backend-rs`' business: its passthrough file system under its FUSE server. Its
//! transport for `/dev/fuse` asks of its descriptor no more than that one read is a request and one
//! write a reply, which is what a `SOCK_SEQPACKET` socket does too.
//!
//! What the guest is promised: what the host changes in a file is found by who opens it then
//! ([`CloseToOpen`]), all else after [`MAX_AGE`] at the latest; what the guest has written, the host sees
//! when the guest's call returns, and through shared mappings when they are synced or taken down. Locks are
//! the guest's own.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use fuse_backend_rs::abi::fuse_abi::{FsOptions, Opcode};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use rustix::net::{SendFlags, send};

use super::beliefs::MAX_AGE;
use super::close_to_open::CloseToOpen;

/// Data in one request or reply, as the guest is told: what the device carries, less headers.
const DATA_BYTES: u32 = 64 << 10;
/// The longest request or reply (`MAX_MESSAGE` of the device).
pub(super) const MAX_MESSAGE: usize = DATA_BYTES as usize + (4 << 10);
/// The same in pages.
const DATA_PAGES: u16 = (DATA_BYTES >> 12) as u16;

/// The longest attribute, and the longest list of their names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`; linux/limits.h).
const MAX_ATTRIBUTE: u32 = 64 << 10;

/// `struct fuse_in_header` and `struct fuse_out_header`.
const REQUEST_HEADER: usize = 40;
const REPLY_HEADER: usize = 16;

/// What answers.
pub(super) type Files = Server<CloseToOpen>;

/// The files below `root_dir`, to be asked for.
pub(super) fn files(root_dir: &str) -> io::Result<Files> {
    let config = Config {
        root_dir: root_dir.to_owned(),
        entry_timeout: MAX_AGE,
        dir_attr_timeout: Some(MAX_AGE),
        attr_timeout: MAX_AGE,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        // The guest's pages are not ours: direct access would be refused for where our buffers are.
        allow_direct_io: false,
        // Writing clears set-user-id bits here, so that a guest need not ask for them each time.
        killpriv_v2: true,
        // One file in two shares is two: one of them may be read-only.
        enable_mntid: true,
        // Numbers of files that the guest has forgotten are forgotten here too.
        use_host_ino: true,
        ..Config::default()
    };
    Ok(Server::new(CloseToOpen::new(PassthroughFs::new(config)?)))
}

/// Answers one request, which has come from a hostile guest as it is but for its length.
pub(super) fn answer(files: &Files, socket: BorrowedFd<'_>, request: &mut [u8], reply: &mut [u8]) {
    let Some(header) = request.first_chunk::<REQUEST_HEADER>().copied() else { return };
    let operation = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let done = if operation == Opcode::Init as u32 {
        init(files, request, reply).and_then(|answer| send_whole(socket, &answer))
    } else if makes_no_sense(operation, &request[REQUEST_HEADER..]) {
        Err(io::ErrorKind::InvalidInput.into())
    } else {
        handle(files, socket, request, reply)
    };
    if done.is_err() {
        // Something that made no sense, and was perhaps not answered.
        let mut refusal = [0; REPLY_HEADER];
        refusal[..4].copy_from_slice(&(REPLY_HEADER as u32).to_le_bytes());
        refusal[4..8].copy_from_slice(&(-libc::EIO).to_le_bytes());
        refusal[8..].copy_from_slice(&header[8..16]);
        let _ = send(socket, &refusal, SendFlags::NOSIGNAL);
    }
}

/// What no guest's kernel asks for, and the library would do.
fn makes_no_sense(operation: u32, body: &[u8]) -> bool {
    // `size` of `struct fuse_getxattr_in`: room is made for it before there is anything to put there.
    let too_much = || field(body, 0).is_ok_and(|size| u32::from_le_bytes(size) > MAX_ATTRIBUTE);
    match operation {
        _ if operation == Opcode::Lookup as u32 => leads_up(body),
        _ if operation == Opcode::Getxattr as u32 => too_much(),
        _ if operation == Opcode::Listxattr as u32 => too_much(),
        _ => false,
    }
}

/// A name that is a way up: no guest's kernel looks one up, and no guest is to find the server's root.
fn leads_up(name: &[u8]) -> bool {
    matches!(name, [b'.', 0, ..] | [b'.', b'.', 0, ..])
}

/// Lets the library answer into `to`.
fn handle(
    files: &Files,
    to: BorrowedFd<'_>,
    request: &mut [u8],
    reply: &mut [u8],
) -> io::Result<()> {
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).map_err(io::Error::other)?;
    let writer = FuseDevWriter::<()>::new(to.as_raw_fd(), reply).map_err(io::Error::other)?;
    files.handle_message(reader, writer.into(), None, None).map_err(io::Error::other)?;
    Ok(())
}

/// The library's answer, which is short and is to be completed before it is sent.
fn aside(files: &Files, request: &mut [u8], reply: &mut [u8]) -> io::Result<Vec<u8>> {
    let (mut from, to) = io::pipe()?;
    handle(files, to.as_fd(), request, reply)?;
    drop(to);
    let mut answer = Vec::new();
    from.read_to_end(&mut answer)?;
    Ok(answer)
}

fn send_whole(socket: BorrowedFd<'_>, answer: &[u8]) -> io::Result<()> {
    send(socket, answer, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What is wanted of a guest's kernel besides what the file system asks for by itself: large requests,
/// as many at once as it likes; pages that are read again when a file has changed; ACLs enforced.
const WANTED: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::AUTO_INVAL_DATA)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::POSIX_ACL)
    .union(FsOptions::MAX_PAGES);

/// Answers the first request. The library's answer knows nothing of [`WANTED`] and of how long our
/// messages are (`struct fuse_init_out`).
fn init(files: &Files, request: &mut [u8], reply: &mut [u8]) -> io::Result<Vec<u8>> {
    let offered = u32::from_le_bytes(field(request, REQUEST_HEADER + 12)?);
    let mut answer = aside(files, request, reply)?;
    if answer.len() > REPLY_HEADER {
        let out = REPLY_HEADER;
        let wanted = u32::try_from(WANTED.bits()).unwrap_or(0) & offered;
        let flags = u32::from_le_bytes(field(&answer, out + 12)?) | wanted;
        set(&mut answer, out + 12, &flags.to_le_bytes())?;
        set(&mut answer, out + 20, &DATA_BYTES.to_le_bytes())?; // max_write
        set(&mut answer, out + 28, &DATA_PAGES.to_le_bytes())?; // max_pages
    }
    Ok(answer)
}

fn field(message: &[u8], at: usize) -> io::Result<[u8; 4]> {
    let field = message.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or(io::ErrorKind::InvalidData.into())
}

fn set(message: &mut [u8], at: usize, bytes: &[u8]) -> io::Result<()> {
    let field = message.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::InvalidData)?;
    field.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_up_are_not_looked_up_and_hidden_files_are() {
        for name in [&b".\0"[..], b"..\0", b"..\0\0"] {
            assert!(leads_up(name), "{name:?}");
        }
        for name in [&b".profile\0"[..], b"...\0", b"..x\0", b"a\0", b"\0", b""] {
            assert!(!leads_up(name), "{name:?}");
        }
    }

    #[test]
    fn a_guest_that_asks_for_more_than_an_attribute_can_be_gets_no_room_for_it() {
        for operation in [Opcode::Getxattr as u32, Opcode::Listxattr as u32] {
            let body = |size: u32| [size.to_le_bytes().as_slice(), &[0; 4], b"user.a\0"].concat();
            assert!(!makes_no_sense(operation, &body(MAX_ATTRIBUTE)));
            assert!(makes_no_sense(operation, &body(MAX_ATTRIBUTE + 1)));
            assert!(!makes_no_sense(operation, b""), "the library says what is missing");
        }
    }

    #[test]
    fn a_guest_is_told_how_long_messages_are_and_asked_to_hold_acls() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path().to_str().unwrap()).unwrap();
        // Version 7.38, 128 KiB of readahead, every flag of the first 32.
        let mut request = vec![0; REQUEST_HEADER + 64];
        let length = u32::try_from(request.len()).unwrap();
        set(&mut request, 0, &length.to_le_bytes()).unwrap();
        set(&mut request, 4, &(Opcode::Init as u32).to_le_bytes()).unwrap();
        set(&mut request, 8, &77u64.to_le_bytes()).unwrap();
        for (at, value) in [7, 38, 128 << 10, u32::MAX].into_iter().enumerate() {
            set(&mut request, REQUEST_HEADER + 4 * at, &u32::to_le_bytes(value)).unwrap();
        }
        answer(&files, theirs.as_fd(), &mut request, &mut vec![0; MAX_MESSAGE]);
        let mut reply = [0; 256];
        let (bytes, _) =
            rustix::net::recv(&ours, &mut reply[..], rustix::net::RecvFlags::empty()).unwrap();
        let number = |at| u32::from_le_bytes(field(&reply, at).unwrap());
        assert_eq!((number(0) as usize, number(4), number(8)), (bytes, 0, 77));
        let flags = u64::from(number(REPLY_HEADER + 12));
        let wanted = FsOptions::POSIX_ACL | FsOptions::MAX_PAGES | FsOptions::AUTO_INVAL_DATA;
        assert_eq!(flags & wanted.bits(), wanted.bits());
        assert_eq!(flags & FsOptions::WRITEBACK_CACHE.bits(), 0);
        assert_eq!((number(REPLY_HEADER + 20), number(REPLY_HEADER + 28) & 0xffff), (65536, 16));
    }
}
