//! From an address the guest touched to the device that lives there.
//!
//! A bus is built once and then only read, so vCPU threads look things up without a lock; each device
//! behind it has its own. Lock order: a device's lock is taken last, and no device calls the bus.

use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A device that is read and written at offsets from its base.
pub trait BusDevice: Send {
    /// Fills `data`, 1 to 8 bytes.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`, 1 to 8 bytes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// One address space: memory or ports.
#[derive(Default)]
pub struct Bus {
    places: Vec<Place>,
}

struct Place {
    base: u64,
    bytes: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

impl Bus {
    /// Puts a device at `base`. The machine's own plan keeps places apart; the first one wins.
    pub fn insert(&mut self, base: u64, bytes: u64, device: Arc<Mutex<dyn BusDevice>>) {
        self.places.push(Place { base, bytes, device });
        self.places.sort_by_key(|place| place.base);
    }

    /// A guest's read. Where nothing lives, all bits are one, as on a real bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address, data.len()) {
            lock(device).read(offset, data);
        }
    }

    /// A guest's write. Where nothing lives, it is lost, as on a real bus.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            lock(device).write(offset, data);
        }
    }

    /// An access that reaches over a device's end belongs to nobody.
    fn find(&self, address: u64, len: usize) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let above = self.places.partition_point(|place| place.base <= address);
        let place = self.places.get(above.checked_sub(1)?)?;
        let offset = address - place.base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= place.bytes).then_some((&*place.device, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).unwrap());
        }
        fn write(&mut self, _: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    #[test]
    fn an_access_reaches_the_device_it_lies_in_and_no_other() {
        let mut bus = Bus::default();
        bus.insert(0x200, 0x10, Arc::new(Mutex::new(Echo(0x20))));
        bus.insert(0x100, 0x10, Arc::new(Mutex::new(Echo(0x10))));
        bus.write(0x100, &[0x40]);
        for (address, len, want) in [
            (0x0ff, 1, 0xff),
            (0x100, 1, 0x40),
            (0x10c, 4, 0x4c),
            (0x10e, 4, 0xff),
            (0x110, 1, 0xff),
            (0x201, 8, 0x21),
            (u64::MAX, 8, 0xff),
        ] {
            let mut data = [0; 8];
            bus.read(address, &mut data[..len]);
            assert!(data[..len].iter().all(|&byte| byte == want), "{address:#x}: {data:x?}");
        }
    }
}
