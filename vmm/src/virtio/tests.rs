//! The transport, with a driver that keeps to the rules and with one that does not.

use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueT};

use super::device::{Device, FEATURE_VERSION_1, Live, SavedQueue};
use super::mmio::{Mmio, MmioState, kicks};
use super::mock::{END, memory};
use crate::bus::BusDevice;
use crate::irq::Interrupt;
use crate::section::{Section, SectionError, State};

/// A device that remembers what was done to it.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Option<Live>>>);

impl Device for Witness {
    fn id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | 1
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[8, 16]
    }
    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3, 4, 5, 6]
    }
    fn write_config(&mut self, _: u64, _: &[u8]) {}
    fn activate(&mut self, live: Live) {
        *self.0.lock().unwrap() = Some(live);
    }
    fn reset(&mut self) -> Vec<Queue> {
        self.0.lock().unwrap().take().map_or(vec![], |live| live.queues)
    }
    fn owes(&self) -> usize {
        self.0.lock().unwrap().as_ref().map_or(0, |live| usize::from(live.queues[1].ready()))
    }
    fn save(&self) -> Section {
        Section { kind: "witness".into(), version: 1, bytes: vec![] }
    }
    fn save_queues(&self) -> Vec<SavedQueue> {
        self.0.lock().unwrap().as_ref().map_or(vec![], Live::saved_queues)
    }
}

struct Rig {
    registers: Mmio,
    witness: Witness,
    irq: Interrupt,
}

const STATUS: u64 = 0x70;

impl Rig {
    fn new(state: MmioState) -> Result<Self, String> {
        let (witness, irq) = (Witness::default(), Interrupt::new().unwrap());
        let kicks = kicks(2).unwrap();
        let registers = Mmio::new(state, Box::new(witness.clone()), memory(), irq.clone(), kicks)
            .map_err(|error| error.to_string())?;
        Ok(Self { registers, witness, irq })
    }

    fn fresh() -> Self {
        Self::new(MmioState::default()).unwrap()
    }

    fn get(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.registers.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u64, value: u32) {
        self.registers.write(register, &value.to_le_bytes());
    }

    fn set_status(&mut self, steps: &[u32]) -> u32 {
        for &step in steps {
            self.set(STATUS, step);
        }
        self.get(STATUS)
    }

    /// Everything up to the last step, with the first queue at `rings`.
    fn set_up(&mut self, rings: u32) {
        self.set_status(&[1, 3]);
        self.set(0x24, 1);
        self.set(0x20, 1);
        assert_eq!(self.set_status(&[11]), 11);
        self.set(0x30, 0);
        assert_eq!(self.get(0x34), 8);
        self.set(0x38, 4);
        for (register, offset) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
            self.set(register, rings + offset);
        }
        self.set(0x44, 1);
        assert_eq!(self.get(0x44), 1);
    }

    fn is_live(&self) -> bool {
        self.witness.0.lock().unwrap().is_some()
    }
}

#[test]
fn a_driver_that_keeps_the_order_gets_a_working_device_and_can_start_over() {
    let mut rig = Rig::fresh();
    assert_eq!(rig.get(0x00), 0x7472_6976);
    assert_eq!((rig.get(0x04), rig.get(0x08)), (2, 42));
    rig.set(0x14, 1);
    assert_eq!(rig.get(0x10), 1, "version 1 is bit 32");
    rig.set_up(0x4000);
    assert_eq!(rig.set_status(&[15]), 15);
    {
        let live = rig.witness.0.lock().unwrap();
        let live = live.as_ref().unwrap();
        assert_eq!(live.acked_features, FEATURE_VERSION_1);
        assert_eq!(live.queues[0].size(), 4);
        assert_eq!(live.queues[0].used_ring(), 0x6000);
        assert!(live.queues[0].ready() && !live.queues[1].ready());
    }
    rig.irq.used_ring();
    assert_eq!(rig.get(0x60), 1);
    rig.set(0x64, 1);
    assert_eq!(rig.get(0x60), 0);
    assert_eq!(rig.set_status(&[0]), 0);
    assert!(!rig.is_live());
    rig.set(0x30, 0);
    assert_eq!(rig.get(0x44), 0, "the queue is back, and empty");
    rig.set_up(0x4000);
    assert_eq!(rig.set_status(&[15]), 15);
    assert!(rig.is_live());
}

#[test]
fn steps_out_of_order_are_not_taken() {
    for (name, steps, want) in [
        ("a driver before it noticed the device", &[2][..], 0),
        ("working at once", &[15], 0),
        ("working without features", &[1, 3, 7], 3),
        ("a step back", &[1, 3, 11, 3], 11),
        ("anything after giving up", &[1, 131, 139, 15], 129),
    ] {
        let mut rig = Rig::fresh();
        assert_eq!(rig.set_status(steps) & !2, want & !2, "{name}");
        assert!(!rig.is_live(), "{name}");
    }
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut rig = Rig::fresh();
    rig.set_status(&[1, 3]);
    rig.set(0x24, 0);
    rig.set(0x20, 2);
    assert_eq!(rig.set_status(&[11]), 3);
    rig.set(0x20, 1);
    assert_eq!(rig.set_status(&[11]), 11);
    rig.set(0x20, 0);
    assert_eq!(rig.set_status(&[15]), 15);
    let acked = rig.witness.0.lock().unwrap().as_ref().unwrap().acked_features;
    assert_eq!(acked, 1, "a choice stands once it was accepted");
}

#[test]
fn a_queue_outside_of_memory_leaves_the_device_standing() {
    let mut rig = Rig::fresh();
    rig.set_up(END as u32 - 0x1000);
    assert_eq!(rig.set_status(&[15]), 15 | 64);
    assert!(!rig.is_live());
    assert_eq!(rig.get(0x60), 2, "the driver is told");
    assert_eq!(rig.set_status(&[0]), 0);
    rig.set_up(0x4000);
    assert_eq!(rig.set_status(&[15]), 15);
}

#[test]
fn accesses_of_odd_widths_and_places_do_nothing() {
    let mut rig = Rig::fresh();
    for (offset, data) in [(0x70, &[1u8][..]), (0x70, &[1; 8]), (0x71, &[1; 4]), (0xff8, &[1; 8])] {
        rig.registers.write(offset, data);
    }
    assert_eq!(rig.get(STATUS), 0);
    let mut byte = [0xee];
    rig.registers.read(0x103, &mut byte);
    assert_eq!(byte, [4]);
    let mut wide = [0xee; 8];
    rig.registers.read(0x104, &mut wide);
    assert_eq!(wide, [5, 6, 0, 0, 0, 0, 0, 0]);
    rig.set(0x30, 7);
    assert_eq!(rig.get(0x34), 0, "there is no such queue");
    assert_eq!(rig.get(0xb4), u32::MAX, "there is no shared memory");
}

#[test]
fn a_transport_goes_on_where_it_was_saved() {
    let mut rig = Rig::fresh();
    rig.set_up(0x4000);
    rig.set(STATUS, 15);
    rig.irq.used_ring();
    let [section, _] = rig.registers.save().unwrap();
    let state = MmioState::from_section(&section).unwrap();
    let mut woken = Rig::new(state.clone()).unwrap();
    assert!(woken.is_live());
    assert_eq!((woken.get(STATUS), woken.get(0x60)), (15, 1));
    assert_eq!(woken.registers.save().unwrap()[0], section);
}

#[test]
fn a_driver_saved_while_it_chose_features_is_told_no_after_the_restore_as_before() {
    let mut rig = Rig::fresh();
    rig.set_status(&[1, 3]);
    rig.set(0x20, 2);
    let [section, _] = rig.registers.save().unwrap();
    let mut woken = Rig::new(MmioState::from_section(&section).unwrap()).unwrap();
    assert_eq!(woken.set_status(&[11]), 3, "never offered");
    woken.set(0x20, 1);
    assert_eq!(woken.set_status(&[11]), 11);
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let mut rig = Rig::fresh();
    rig.set_up(0x4000);
    rig.set(STATUS, 15);
    let [section, _] = rig.registers.save().unwrap();
    // As text, where each number has a name.
    let text = serde_json::to_string(&MmioState::from_section(&section).unwrap()).unwrap();
    for (from, to, want) in [
        ("\"sizes\":[8,4]", "\"sizes\":[8,5]", "section queue: invalid queue size"),
        (
            "\"sizes\":[8,4]",
            "\"sizes\":[16,4]",
            "section queue: 16 descriptors where the device has 8",
        ),
        ("\"rings\":[16384,", "\"rings\":[16383,", "section queue:"),
        (
            "\"rings\":[16384,",
            "\"rings\":[549755813888,",
            "section virtio-mmio: a queue outside of memory",
        ),
        (
            "\"acked_features\":4294967296",
            "\"acked_features\":2",
            "section virtio-mmio: features 0x2 were",
        ),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let state: MmioState = serde_json::from_str(&text.replacen(from, to, 1)).unwrap();
        let error = Rig::new(state).err().unwrap();
        assert!(error.starts_with(want), "{error}");
    }
    let foreign = Section { kind: "virtio-rng".into(), ..section.clone() };
    assert!(matches!(MmioState::from_section(&foreign), Err(SectionError::Kind { .. })));
    let later = Section { version: 2, ..section.clone() };
    assert!(matches!(MmioState::from_section(&later), Err(SectionError::Version { .. })));
    let mut longer = section.clone();
    longer.bytes.push(0);
    assert!(matches!(MmioState::from_section(&longer), Err(SectionError::TooLong { .. })));
    let mut shorter = section;
    shorter.bytes.pop();
    assert!(matches!(MmioState::from_section(&shorter), Err(SectionError::Malformed { .. })));
}

#[test]
fn a_device_that_owes_an_answer_is_not_saved() {
    let mut rig = Rig::fresh();
    rig.set_up(0x4000);
    rig.set(0x30, 1);
    for (register, address) in [(0x80, 0x8000), (0x90, 0x9000), (0xa0, 0xa000)] {
        rig.set(register, address);
    }
    rig.set(0x44, 1);
    rig.set(STATUS, 15);
    let busy = rig.registers.save().unwrap_err();
    assert_eq!(busy.to_string(), "device of type 42 owes its driver 1 answers");
}
