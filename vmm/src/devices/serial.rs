//! The serial line: a 16550 that only talks, and remembers what was said last.
//!
//! It exists for early boot and for panics. Nothing the guest says here is understood, but one line:
//! the one that a panicking Linux begins with [`PANIC`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

use crate::bus::BusDevice;
use crate::section::{SectionError, State};
use crate::sync::lock;

/// What Linux puts before the reason of a panic (`kernel/panic.c`).
const PANIC: &[u8] = b"Kernel panic - not syncing: ";

/// How much of the end is remembered.
const LAST_WORDS_BYTES: usize = 8 << 10;

/// The longest line looked at for a panic: Linux's own bound on one is 1 KiB.
const LINE_BYTES: usize = 2 << 10;

/// What a log may grow to: a guest must not fill the host's disk by talking.
const LOG_BYTES: usize = 4 << 20;

/// The end of what the guest said, and its panic if it said one.
#[derive(Debug, Default)]
pub struct LastWords {
    end: VecDeque<u8>,
    line: Vec<u8>,
    panic: Option<String>,
}

impl LastWords {
    /// The end of what it said, as text.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.end.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The reason of the first panic it told of.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    fn hear(&mut self, byte: u8) {
        if self.end.len() == LAST_WORDS_BYTES {
            self.end.pop_front();
        }
        self.end.push_back(byte);
        match byte {
            b'\n' => {
                if self.panic.is_none() {
                    self.panic = panic_in(&self.line);
                }
                self.line.clear();
            }
            _ if self.line.len() < LINE_BYTES => self.line.push(byte),
            _ => {}
        }
    }
}

fn panic_in(line: &[u8]) -> Option<String> {
    let at = line.windows(PANIC.len()).position(|window| window == PANIC)?;
    let reason = line[at + PANIC.len()..].trim_ascii();
    Some(String::from_utf8_lossy(reason).into_owned())
}

/// Where the line's bytes go.
struct Ear {
    last_words: Arc<Mutex<LastWords>>,
    log: Option<Log>,
}

struct Log {
    file: File,
    room: usize,
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut last_words = lock(&self.last_words);
        for &byte in bytes {
            last_words.hear(byte);
        }
        if let Some(log) = &mut self.log {
            log.room = log.room.saturating_sub(bytes.len());
            // A log that is full or broken is no reason to disturb the guest.
            if log.room == 0 || log.file.write_all(bytes).is_err() {
                self.log = None;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// There is no driver in the guest that would wait for an interrupt.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The device on the bus.
pub struct SerialLine(Serial<NoInterrupt, NoEvents, Ear>);

/// The registers of the line. What was said on it stays with whoever heard it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialLineState {
    /// Divisor, low and high; interrupts enabled and pending; line control and status; modem control and
    /// status; scratch.
    registers: [u8; 9],
    /// What was received, which is what the guest sent to itself.
    received: Vec<u8>,
}

impl Default for SerialLineState {
    fn default() -> Self {
        Self::from(SerialState::default())
    }
}

impl From<SerialState> for SerialLineState {
    fn from(state: SerialState) -> Self {
        Self {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            received: state.in_buffer,
        }
    }
}

impl State for SerialLineState {
    const KIND: &'static str = "serial";
    const VERSION: u16 = 1;
}

impl SerialLine {
    /// The line as `state` left it, heard by `last_words`, and by `log` up to a bound.
    pub fn new(
        state: SerialLineState,
        last_words: Arc<Mutex<LastWords>>,
        log: Option<File>,
    ) -> Result<Self, SectionError> {
        let log = log.map(|file| Log { file, room: LOG_BYTES });
        let SerialLineState { registers, received } = state;
        let [low, high, enable, identification, control, status, modem, modem_status, scratch] =
            registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: control,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: received,
        };
        Serial::from_state(&state, NoInterrupt, NoEvents, Ear { last_words, log })
            .map(Self)
            .map_err(|error| SectionError::Impossible {
                kind: SerialLineState::KIND,
                what: format!("{error:?}"),
            })
    }

    /// The line as it stands.
    pub fn save(&self) -> SerialLineState {
        self.0.state().into()
    }
}

impl BusDevice for SerialLine {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            // In loop-back mode the guest can fill the receiver: its loss, as on the real thing.
            let _ = self.0.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(text: &str) -> LastWords {
        let mut words = LastWords::default();
        text.bytes().for_each(|byte| words.hear(byte));
        words
    }

    #[test]
    fn a_panic_is_known_by_its_first_line_however_much_follows() {
        let text = format!(
            "[    0.1] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n{}\
             Kernel panic - not syncing: a second one\r\n",
            "[    0.2] Call Trace: and so on\r\n".repeat(1000)
        );
        let words = hear(&text);
        assert_eq!(words.panic(), Some("VFS: Unable to mount root fs"));
        assert_eq!(words.text().len(), LAST_WORDS_BYTES);
        assert!(words.text().ends_with("a second one\r\n"));
    }

    #[test]
    fn talk_of_panics_without_one_is_not_a_panic() {
        assert_eq!(hear("Kernel panic - not syncing\nKernel panic\n").panic(), None);
        let endless = format!("{}Kernel panic - not syncing: late\n", "x".repeat(LINE_BYTES));
        assert_eq!(hear(&endless).panic(), None);
    }

    #[test]
    fn what_the_guest_writes_to_the_data_register_is_its_last_words() {
        let words = Arc::new(Mutex::new(LastWords::default()));
        let mut line = SerialLine::new(SerialLineState::default(), words.clone(), None).unwrap();
        let mut status = [0];
        line.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "the transmitter is always ready");
        for byte in *b"ok" {
            line.write(0, &[byte]);
        }
        line.write(0, b"too wide");
        assert_eq!(lock(&words).text(), "ok");
    }

    #[test]
    fn a_line_goes_on_with_its_registers_and_not_with_more_than_fits() {
        let words = Arc::new(Mutex::new(LastWords::default()));
        let mut line = SerialLine::new(SerialLineState::default(), words.clone(), None).unwrap();
        // Divisor latch open, divisor 1, latch closed, scratch, loop-back, and a byte to oneself.
        for (offset, byte) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (7, 0x5a), (4, 0x10), (0, b'x')] {
            line.write(offset, &[byte]);
        }
        let state = SerialLineState::from_section(&line.save().to_section()).unwrap();
        let mut again = SerialLine::new(state.clone(), words.clone(), None).unwrap();
        assert_eq!(again.save(), state);
        let (mut scratch, mut received) = ([0], [0]);
        again.read(7, &mut scratch);
        again.read(0, &mut received);
        assert_eq!((scratch, received), ([0x5a], [b'x']));
        let flooded = SerialLineState { received: vec![0; 1000], ..state };
        let error = SerialLine::new(flooded, words, None).err().unwrap();
        assert_eq!(error.to_string(), "section serial: FullFifo");
    }
}
