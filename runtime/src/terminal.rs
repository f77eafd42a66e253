//! The caller's terminal: its size, and raw mode that never outlives us.

use std::io::{self, IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic;

use proto::spec::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The size a terminal has that nobody has told another.
const USUAL_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// The size of the first of our standard streams that is a terminal.
pub(crate) fn size() -> TerminalSize {
    let streams: [&dyn AsFd; 3] = [&stdin(), &stdout(), &stderr()];
    streams.iter().find_map(|stream| size_of(stream.as_fd())).unwrap_or(USUAL_SIZE)
}

fn size_of(terminal: BorrowedFd<'_>) -> Option<TerminalSize> {
    let size = tcgetwinsize(terminal).ok()?;
    // A terminal that was never told its size says zero.
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Standard input is a terminal.
pub(crate) fn on_stdin() -> bool {
    stdin().is_terminal()
}

/// Standard input is a terminal in raw mode, as long as this lives.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Puts the terminal on standard input in raw mode: every key is a byte for the container.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        // A panic ends the process without dropping anything.
        let (at_panic, say) = (before.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            restore(&at_panic);
            say(info);
        }));
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &Termios) {
    // The terminal may be gone by now, and then there is nothing to restore.
    let _ = tcsetattr(stdin(), OptionalActions::Now, before);
}
