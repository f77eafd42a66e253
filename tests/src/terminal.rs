//! A person's terminal: a pseudo-terminal whose other end is `microvm`'s.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::Outcome;

/// A terminal with a command running in it.
pub struct Terminal {
    keyboard_and_screen: File,
    line: OwnedFd,
    child: Child,
    seen: Vec<u8>,
}

impl Terminal {
    /// Runs `command` as the session leader on a new terminal of this size.
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&line, size(rows, columns)).unwrap();
        let end = || line.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: setsid and one ioctl, both async-signal-safe, and no memory is touched.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
            });
        }
        let child = command.spawn().unwrap();
        Self { keyboard_and_screen: File::from(master), line, child, seen: Vec::new() }
    }

    /// Types.
    pub fn write(&mut self, keys: &str) {
        self.keyboard_and_screen.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what was shown until `text` was; gives back all that was shown since the last call.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        let mut piece = [0; 4096];
        loop {
            let shown = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = shown.find(text) {
                let end = at + text.len();
                self.seen = shown.as_bytes()[end..].to_vec();
                return shown[..end].to_owned();
            }
            match self.keyboard_and_screen.read(&mut piece) {
                Ok(count) if count > 0 => self.seen.extend(&piece[..count]),
                other => panic!("{text:?} never came ({other:?}), but: {shown}"),
            }
        }
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.line, size(rows, columns)).unwrap();
    }

    /// The terminal's mode, to hold one moment's against another's.
    pub fn mode(&self) -> String {
        let mode = tcgetattr(self.line.as_fd()).unwrap();
        format!("{:?} {:?} {:?}", mode.input_modes, mode.output_modes, mode.local_modes)
    }

    /// Waits for the command's end; the terminal stays, to be looked at.
    pub fn wait(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }

    /// Waits for the command's end and gives back what was left on the screen.
    pub fn finish(mut self) -> Outcome {
        let code = self.wait();
        drop(self.line);
        // The last line open is closed: what is left can be read, then EIO says there is no more.
        let _ = self.keyboard_and_screen.read_to_end(&mut self.seen);
        Outcome { code, stdout: self.seen, stderr: String::new() }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
