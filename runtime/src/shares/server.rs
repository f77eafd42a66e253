//! The file server's process.

use std::error::Error;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Barrier;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::requests::{self, Files, MAX_MESSAGE, answer};
use super::{MAX_WORD_BYTES, Order, Wanted, jail, view};
use crate::{descriptors, signals, threads};

/// Why the server does not come up.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("orders")]
    Orders(#[source] io::Error),
    #[error(transparent)]
    View(#[from] view::ViewError),
    #[error(transparent)]
    Jail(#[from] jail::JailError),
    #[error("file system")]
    Files(#[source] io::Error),
}

/// Is the server: what this program does behind [`super::VERB`], with its socket as standard input.
pub(crate) fn be_the_server() -> ExitCode {
    // A supervisor that catches signals gave us its mask.
    let _ = signals::uncatch();
    let socket = rustix::stdio::stdin();
    match prepare(socket) {
        Ok(files) => serve(&files, socket),
        Err(error) => refuse(socket, &error),
    }
}

fn prepare(socket: BorrowedFd<'_>) -> Result<Files, ServeError> {
    descriptors::close_inherited(0, None).map_err(ServeError::Orders)?;
    let shares = take_orders(socket).map_err(ServeError::Orders)?;
    view::enter(shares)?;
    jail::drop_privileges()?;
    requests::files(view::SHARES).map_err(ServeError::Files)
}

/// Serves with two threads, so that one request that takes long does not hold up all others.
fn serve(files: &Files, socket: BorrowedFd<'_>) -> ExitCode {
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        let second = threads::small("files").spawn_scoped(scope, || {
            both.wait();
            both.wait();
            work(files, socket);
        });
        if let Err(error) = second {
            return refuse(socket, &error);
        }
        // Once the other runs, what a thread does to begin is done: from here on neither needs more than
        // the filter lets through, which is put on both at once.
        both.wait();
        if let Err(error) = jail::confine() {
            refuse(socket, &error);
            std::process::exit(1);
        }
        say(socket, &Ok(()));
        both.wait();
        work(files, socket);
        ExitCode::SUCCESS
    })
}

fn refuse(socket: BorrowedFd<'_>, error: &dyn Error) -> ExitCode {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    say(socket, &Err(words.join(": ")));
    ExitCode::FAILURE
}

/// Tells the supervisor whether there is a server.
fn say(socket: BorrowedFd<'_>, word: &Result<(), String>) {
    // A supervisor that is gone needs no telling.
    let _ = serde_json::to_vec(word).map(|word| send(socket, &word, SendFlags::NOSIGNAL));
}

/// What is to be shared.
fn take_orders(socket: BorrowedFd<'_>) -> io::Result<Vec<(Wanted, OwnedFd)>> {
    let mut shares = Vec::new();
    loop {
        let mut word = [0; MAX_WORD_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut word)];
        let got = recvmsg(socket, into, &mut along, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = along.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (serde_json::from_slice(&word[..got.bytes])?, descriptor) {
            (Order::Share(wanted), Some(source)) => shares.push((wanted, source)),
            (Order::Share(_), None) => return Err(io::ErrorKind::InvalidInput.into()),
            (Order::Serve, _) => return Ok(shares),
        }
    }
}

/// Answers requests until there is nobody to ask any.
fn work(files: &Files, socket: BorrowedFd<'_>) {
    let (mut request, mut reply) = (vec![0; MAX_MESSAGE], vec![0; MAX_MESSAGE]);
    loop {
        match rustix::net::recv(socket, request.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((bytes, _)) => answer(files, socket, &mut request[..bytes], &mut reply),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
