//! Programs that a story needs beside it.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A program beside a story, which ends with it.
pub struct Beside(Child);

impl Beside {
    /// Starts it, and waits until it serves at this address.
    #[track_caller]
    pub fn start(command: &mut Command, address: &str) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut beside = Self(child);
        while TcpStream::connect(address).is_err() {
            assert!(beside.0.try_wait().unwrap().is_none(), "{command:?} has ended");
            thread::yield_now();
        }
        beside
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
