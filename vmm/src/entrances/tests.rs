//! What a fuzzer begins with, fed here whole, cut off at every byte and with every byte changed.

use super::rig::DEVICES;
use super::*;

fn spoil(seed: &[u8], feed: fn(&[u8])) {
    feed(seed);
    let mut bytes = seed.to_vec();
    for at in 0..seed.len() {
        feed(&seed[..at]);
        for change in [0x01, 0x80, 0xff] {
            bytes[at] ^= change;
            feed(&bytes);
            bytes[at] = seed[at];
        }
    }
}

/// A guest that writes 48 bytes, offers the first `readable` of them and room for an answer, and kicks; and a
/// host that says something to it then.
fn program(queue: u8, bytes: &[u8], readable: u16) -> Vec<u8> {
    let [at, room] = [0x4000u16, 0x5000].map(|place| u32::from(place).to_le_bytes());
    let write = [&[2, 0, 0x40, bytes.len() as u8], bytes].concat();
    let parts = [&at[..], &readable.to_le_bytes(), &[0], &room, &[1, 2, 2]].concat();
    let offer = [&[3, queue, 1], &parts[..]].concat();
    [&write[..], &offer, &[4, queue, 5, 4, 1, 2, 3, 4, 4, queue]].concat()
}

/// One for each device, and the queue that something comes back in.
fn programs() -> [(u64, Vec<u8>); DEVICES as usize] {
    // A packet of the guest's to port 1 of the host: a request (virtio 1.2, 5.10.6).
    let mut packet = [0; 48];
    (packet[0], packet[8]) = (3, 2);
    (packet[20], packet[28], packet[30]) = (1, 1, 1);
    // A request without room for an answer.
    let mut fuse = [0; 48];
    fuse[0] = 40;
    let rng = [0; 1];
    [
        (1, program(1, &packet, 44)),
        (0, program(0, &[0; 16], 16)),
        (1, program(1, &[1], 16 + 512)),
        (0, program(0, &rng, 1)),
        (0, program(0, &fuse, 41)),
        (1, program(1, &[1, 1, 54, 0, 100, 0, 34, 0, 16, 0], 12 + 100)),
    ]
}

fn state(device: u8) -> [Section; 2] {
    let mut rig = Rig::new(device, &mut States::power_on()).unwrap();
    rig.set_up(0);
    rig.save().unwrap()
}

#[test]
fn an_honest_guest_is_served_by_every_device() {
    for (device, (queue, program)) in (0..).zip(programs()) {
        let mut rig = Rig::new(device, &mut States::power_on()).unwrap();
        rig.set_up(0);
        rig.run(&mut &*program);
        assert_eq!(rig.used(queue), 1, "device {device}");
    }
}

#[test]
fn no_spoiled_program_makes_us_panic_or_changes_what_is_not_the_guests() {
    for (number, (_, program)) in (0..).zip(programs()) {
        spoil(&[&[number; 1][..], &[0; 8], &program].concat(), device);
    }
}

#[test]
fn no_spoiled_state_of_a_device_makes_us_panic() {
    for (device, (queue, program)) in (0..).zip(programs()) {
        let [transport, state] = state(device).map(|section| section.bytes);
        let lengths = [transport.len() as u8, state.len() as u8];
        let seed = [&[device, lengths[0]][..], &transport, &lengths[1..], &state, &program];
        let seed = seed.concat();
        let mut rig = Rig::new(device, &mut States::saved(super::tests::state(device).into()));
        let rig = rig.as_mut().unwrap();
        rig.run(&mut &*program);
        assert_eq!(rig.used(queue), 1, "device {device}");
        spoil(&seed, restore);
    }
}

#[test]
fn no_spoiled_snapshot_makes_us_panic() {
    let serial = SerialLineState::default().to_section();
    let kinds = [VcpuState::KIND, ChipsState::KIND];
    let others = kinds.map(|kind| Section { kind: kind.into(), version: 1, bytes: vec![0; 30] });
    let sections = [&state(0)[..], &state(2), &[serial], &others].concat();
    let file = snapshot::write(&sections);
    let mut unsealed = file.clone();
    unsealed[20] ^= 1;
    assert_eq!(sealed(&unsealed), file);
    unsealed.copy_within(30..32, 32);
    assert!(snapshot::read(&sealed(&unsealed)).is_ok());
    spoil(&file, snapshot);
}
