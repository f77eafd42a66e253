//! The reset line: the part of a PC's keyboard controller that `reboot=k` pulls.

use std::convert::Infallible;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::ending::{Cause, Ends};

struct Pull(Ends);

impl Trigger for Pull {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.tell(Cause::Reset);
        Ok(())
    }
}

/// The device on the bus.
pub struct ResetLine(I8042Device<Pull>);

impl ResetLine {
    /// A line that ends the VM when it is pulled.
    pub fn new(ends: Ends) -> Self {
        Self(I8042Device::new(Pull(ends)))
    }
}

impl BusDevice for ResetLine {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            let Ok(()) = self.0.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_ends_the_machine() {
        let ends = Ends::new().unwrap();
        let mut line = ResetLine::new(ends.clone());
        line.write(0, &[0xfe]);
        line.write(4, &[0xd1]);
        line.write(4, &[0xfe, 0xfe]);
        assert_eq!(ends.cause(), None);
        line.write(4, &[0xfe]);
        assert_eq!(ends.cause(), Some(&Cause::Reset));
    }
}
