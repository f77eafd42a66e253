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

/// What a guest does, as [`Rig::run`] reads it. What it says lies at `TEXT`, its room for answers at `ROOM`.
const TEXT: u16 = 0x4000;
const ROOM: u16 = 0x5000;

fn write(bytes: &[u8]) -> Vec<u8> {
    [&[2], &TEXT.to_le_bytes()[..], &[bytes.len() as u8], bytes].concat()
}

/// Offers what it says, and room.
fn ask(queue: u8, bytes: u16) -> Vec<u8> {
    [&[3, queue, 1], &part(TEXT, bytes, 0)[..], &part(ROOM, 600, 2)].concat()
}

/// Offers room.
fn give(queue: u8, bytes: u16) -> Vec<u8> {
    [&[3, queue, 0], &part(ROOM, bytes, 2)[..]].concat()
}

fn part(address: u16, bytes: u16, flags: u8) -> Vec<u8> {
    [&u32::from(address).to_le_bytes()[..], &bytes.to_le_bytes(), &[flags]].concat()
}

fn kick(queue: u8) -> Vec<u8> {
    vec![4, queue]
}

/// What the host's side says.
fn hear(bytes: &[u8]) -> Vec<u8> {
    [&[5, bytes.len() as u8], bytes].concat()
}

/// One for each device, and how many chains come back in its first two queues.
fn programs() -> [([u16; 2], Vec<u8>); DEVICES as usize] {
    // A request of the guest's for a stream to port 1 of the host (virtio 1.2, 5.10.6), and what comes on it.
    let mut packet = [0; 44];
    (packet[0], packet[8]) = (3, 2);
    (packet[20], packet[28], packet[30]) = (1, 1, 1);
    packet[37] = 1;
    let stream = [give(0, 100), give(0, 100), write(&packet), ask(1, 44), kick(1)];
    (packet[24], packet[30]) = (4, 5);
    let data = [write(&[&packet[..], b"data"].concat()), ask(1, 48), kick(1)];
    let stream = [&stream[..], &data, &[hear(b"data"), kick(0), kick(0)]].concat();
    // A request to the file server, and its answer, with the number that the device gave it.
    let (mut fuse, mut reply) = ([0; 40], [0; 16]);
    (fuse[0], reply[0], reply[8]) = (40, 16, 1);
    let files = [write(&fuse), ask(0, 40), kick(0), hear(&reply), kick(0)];
    // A frame of which the checksum and the segments are left to the host, and one to the guest.
    let frame = write(&[1, 1, 54, 0, 100, 0, 34, 0, 16, 0]);
    let frames = [give(0, 200), frame, ask(1, 12 + 100), kick(1), hear(&[0; 80]), kick(0)];
    let read = [write(&[0; 16]), ask(0, 16), kick(0)];
    // A sector that is written, one that is forgotten, and one of zeros, of which the header is followed by a range.
    let range = |kind| [&[kind][..], &[0; 15], &[0; 8], &[1], &[0; 7]].concat();
    let sectors = [write(&[1]), ask(1, 16 + 512), kick(1)];
    let ranges = [11, 13].map(|kind| [write(&range(kind)), ask(1, 32), kick(1)].concat());
    let sectors = [&sectors[..], &ranges].concat();
    [
        ([2, 2], stream.concat()),
        ([1, 0], read.concat()),
        ([0, 3], sectors.concat()),
        ([1, 0], [give(0, 100), kick(0)].concat()),
        ([1, 0], files.concat()),
        ([1, 1], frames.concat()),
    ]
}

fn state(device: u8) -> [Section; 2] {
    let mut rig = Rig::new(device, &mut States::power_on()).unwrap();
    rig.set_up(0);
    rig.save().unwrap()
}

#[test]
fn an_honest_guest_is_served_by_every_device_and_goes_on_after_a_restore() {
    for (device, (used, program)) in (0..).zip(programs()) {
        let mut new = Rig::new(device, &mut States::power_on()).unwrap();
        new.set_up(0);
        let mut restored = Rig::new(device, &mut States::saved(state(device).into())).unwrap();
        for rig in [&mut new, &mut restored] {
            rig.run(&mut &*program);
            assert_eq!([0, 1].map(|queue| rig.used(queue)), used, "device {device}");
        }
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
    for (device, (_, program)) in (0..).zip(programs()) {
        let [transport, state] = state(device).map(|section| section.bytes);
        let lengths = [transport.len() as u8, state.len() as u8];
        let seed = [&[device, lengths[0]][..], &transport, &lengths[1..], &state, &program];
        spoil(&seed.concat(), restore);
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
