//! A machine that is saved and goes on in another process.

mod owner;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use owner::{elf, file, keep, read_only, start, there_is_kvm};
use vmm::spec::{Begin, DiskSpec, Ending, Order, SnapshotSpec, VmSpec};

/// Says `r` once it has left something in a register and at the end of its memory, and waits for a disk in
/// its first slot. Then says `y` if the disk has two sectors and everything is still there, else `n`, and
/// pulls its reset line.
#[rustfmt::skip]
const WAITER: &[u8] = &[
    // Maps 3 GiB and on, where the devices are, by a page table of its own.
    0xb8, 0x03, 0x00, 0x05, 0x00,                               // mov eax, 0x50003
    0x48, 0x89, 0x04, 0x25, 0x18, 0xa0, 0x00, 0x00,             // mov [0xa018], rax
    0xb8, 0x83, 0x00, 0x00, 0xc0,                               // mov eax, 0xc0000083
    0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0x05, 0x00,             // mov [0x50000], rax
    0x48, 0xbb, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // mov rbx, 0x1122334455667788
    0x48, 0xb8, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // mov rax, 0x8877665544332211
    0x48, 0x89, 0x04, 0x25, 0x00, 0xf0, 0xff, 0x03,             // mov [0x3fff000], rax
    0xbd, 0x00, 0x11, 0x00, 0xc0,                               // mov ebp, 0xc0001100
    0x66, 0xba, 0xf8, 0x03,                                     // mov dx, 0x3f8
    0xb0, b'r',                                                 // mov al, 'r'
    0xee,                                                       // out dx, al
    0x8b, 0x45, 0x00,                                           // wait: mov eax, [rbp]
    0x85, 0xc0,                                                 // test eax, eax
    0x74, 0xf9,                                                 // jz wait
    0x83, 0xf8, 0x02,                                           // cmp eax, 2
    0x75, 0x28,                                                 // jne bad
    0x48, 0xb8, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // mov rax, 0x8877665544332211
    0x48, 0x3b, 0x04, 0x25, 0x00, 0xf0, 0xff, 0x03,             // cmp rax, [0x3fff000]
    0x75, 0x14,                                                 // jne bad
    0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // mov rax, 0x1122334455667788
    0x48, 0x39, 0xd8,                                           // cmp rax, rbx
    0x75, 0x05,                                                 // jne bad
    0xb0, b'y',                                                 // mov al, 'y'
    0xee,                                                       // out dx, al
    0xeb, 0x03,                                                 // jmp end
    0xb0, b'n',                                                 // bad: mov al, 'n'
    0xee,                                                       // out dx, al
    0xb0, 0xfe,                                                 // end: mov al, 0xfe
    0xe6, 0x64,                                                 // out 0x64, al
    0xeb, 0xfe,                                                 // stay
];

const VCPUS: u8 = 2;

/// A machine that was saved while it waited.
struct Saved {
    state: File,
    memory: File,
}

/// Boots the waiter with `change`, and orders it to be saved when it waits.
fn save(change: &dyn Fn(&mut VmSpec)) -> (Saved, Ending) {
    let (mut said, line) = std::io::pipe().unwrap();
    let saved = Saved { state: file(b""), memory: file(b"") };
    let line = File::from(OwnedFd::from(line));
    let mut vm = start(&elf(WAITER), &|spec, open| {
        spec.vcpus = VCPUS;
        spec.disks = vec![None, None];
        spec.serial_log = Some(keep(open, line.try_clone().unwrap()));
        spec.capture = Some(SnapshotSpec {
            state: keep(open, saved.state.try_clone().unwrap()),
            memory: keep(open, saved.memory.try_clone().unwrap()),
        });
        change(spec);
    });
    let mut byte = [0];
    said.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"r");
    vm.order(Order::Capture);
    let ending = vm.end().0;
    (saved, ending)
}

impl Saved {
    /// What `spec` is to be changed to for a VM that goes on here with a disk in the first slot.
    fn go_on(&self, spec: &mut VmSpec, open: &mut Vec<OwnedFd>) {
        spec.vcpus = VCPUS;
        let image = keep(open, read_only(&[0; 1024]));
        spec.disks = vec![Some(DiskSpec::read_only(image)), None];
        spec.begin = Begin::Restore(SnapshotSpec {
            state: keep(open, self.state.try_clone().unwrap()),
            memory: keep(open, self.memory.try_clone().unwrap()),
        });
    }

    /// What the guest says when it goes on, and how it ends.
    fn run(&self) -> (String, Ending) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut vm = start(b"", &|spec, open| {
            self.go_on(spec, open);
            spec.serial_log = Some(keep(open, log.reopen().unwrap()));
        });
        let ending = vm.end().0;
        (std::fs::read_to_string(log.path()).unwrap(), ending)
    }
}

#[test]
fn a_guest_goes_on_where_it_was_saved_as_often_as_wanted_and_finds_its_new_disk() {
    if !there_is_kvm() {
        return;
    }
    let (saved, ending) = save(&|_| ());
    assert_eq!(ending, Ending::Captured);
    let memory = saved.memory.metadata().unwrap();
    assert!(memory.blocks() * 512 < 1 << 20, "{} blocks for a few pages", memory.blocks());
    for _ in 0..3 {
        assert_eq!(saved.run(), ("y".to_owned(), Ending::PoweredOff));
    }
    let again = saved.memory.metadata().unwrap();
    assert_eq!((memory.mtime_nsec(), memory.blocks()), (again.mtime_nsec(), again.blocks()));
}

#[test]
fn a_saved_machine_can_be_saved_again_before_it_finds_a_disk() {
    if !there_is_kvm() {
        return;
    }
    let (first, _) = save(&|_| ());
    let second = Saved { state: file(b""), memory: file(b"") };
    let mut vm = start(b"", &|spec, open| {
        first.go_on(spec, open);
        spec.disks = vec![None, None];
        spec.capture = Some(SnapshotSpec {
            state: keep(open, second.state.try_clone().unwrap()),
            memory: keep(open, second.memory.try_clone().unwrap()),
        });
    });
    vm.reach("vcpus running");
    vm.order(Order::Capture);
    assert_eq!(vm.end().0, Ending::Captured);
    assert_eq!(second.run(), ("y".to_owned(), Ending::PoweredOff));
}

#[test]
fn what_a_guest_wrote_to_is_written_down_and_found_by_the_next() {
    if !there_is_kvm() {
        return;
    }
    let (saved, _) = save(&|_| ());
    let record = file(b"");
    let mut vm = start(b"", &|spec, open| {
        saved.go_on(spec, open);
        spec.disks = vec![None, None];
        spec.record = Some(keep(open, record.try_clone().unwrap()));
    });
    vm.reach("vcpus running");
    vm.order(Order::Record);
    assert_eq!(vm.end().0, Ending::Recorded);
    vmm::machine::belong_together(&saved.state, &saved.memory, Some(&record)).unwrap();
    let mut vm = start(b"", &|spec, open| {
        saved.go_on(spec, open);
        spec.working_set = Some(keep(open, record.try_clone().unwrap()));
    });
    assert_eq!(vm.end().0, Ending::PoweredOff);
    let mut vm = start(b"", &|spec, open| {
        saved.go_on(spec, open);
        spec.disks = vec![None, None];
    });
    vm.order(Order::Record);
    let message =
        "it was ordered to write down what the guest has done, and nothing given for that".into();
    assert_eq!(vm.end().0, Ending::Failed { message });
}

#[test]
fn a_machine_without_files_to_save_to_is_not_saved() {
    if !there_is_kvm() {
        return;
    }
    let (_, ending) = save(&|spec| spec.capture = None);
    let message = "saving the machine was ordered, and nothing given to save it to".to_owned();
    assert_eq!(ending, Ending::Failed { message });
}

#[test]
fn a_snapshot_that_is_not_this_machines_is_refused_by_the_name_of_the_section() {
    if !there_is_kvm() {
        return;
    }
    let (saved, _) = save(&|_| ());
    let (other, _) = save(&|_| ());
    let mut state = Vec::new();
    (&saved.state).rewind().unwrap();
    (&saved.state).read_to_end(&mut state).unwrap();
    let spoilt = |spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = state.clone();
        spoil(&mut bytes);
        file(&bytes)
    };
    let damaged = spoilt(&|bytes| *bytes.last_mut().unwrap() ^= 1);
    let cut = spoilt(&|bytes| bytes.truncate(2000));
    let mut short = file(b"");
    short.write_all(&[0; 4096]).unwrap();
    let cases: [(owner::Change<'_>, &str); 9] = [
        (&|spec, _| spec.vcpus = 1, "section machine: vcpus was 2 and is 1"),
        (
            &|spec, _| spec.ram_bytes *= 2,
            "section machine: ram_bytes was 67108864 and is 134217728",
        ),
        (&|spec, _| spec.disks.truncate(1), "section machine: disks was 2 and is 1"),
        (
            &|spec, open| with_state(spec, keep(open, damaged.try_clone().unwrap())),
            "section 12, serial is damaged",
        ),
        (
            &|spec, open| with_state(spec, keep(open, cut.try_clone().unwrap())),
            "the snapshot ends in section 1, x86-vcpu",
        ),
        (&|spec, open| with_state(spec, keep(open, file(b"\x7fELF"))), "not a snapshot"),
        (
            &|spec, open| with_memory(spec, keep(open, other.memory.try_clone().unwrap())),
            "the memory file is not this snapshot's",
        ),
        (
            &|spec, open| with_memory(spec, keep(open, short.try_clone().unwrap())),
            "memory file of 4096 bytes, not 67112960",
        ),
        (
            &|spec, open| {
                let image = keep(open, read_only(&[0; 513]));
                spec.disks[1] = Some(DiskSpec::read_only(image));
            },
            "image of disk 1 is 513 bytes",
        ),
    ];
    for (change, want) in cases {
        let mut vm = start(b"", &|spec, open| {
            saved.go_on(spec, open);
            change(spec, open);
        });
        let ending = vm.end().0;
        let Ending::Failed { message } = ending else { panic!("{ending:?}, not {want}") };
        assert!(message.starts_with(want), "{message}, not {want}");
    }
}

fn with_state(spec: &mut VmSpec, file: vmm::spec::Inherited) {
    if let Begin::Restore(SnapshotSpec { state, .. }) = &mut spec.begin {
        *state = file;
    }
}

fn with_memory(spec: &mut VmSpec, file: vmm::spec::Inherited) {
    if let Begin::Restore(SnapshotSpec { memory, .. }) = &mut spec.begin {
        *memory = file;
    }
}
