//! The whole process, with guests of a few instructions: they run on every KVM, also on one without
//! hardware behind it.

mod owner;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use owner::{Change, RESET, Vm, elf, file, keep, read_only, say, start, there_is_kvm};
use vmm::spec::{Begin, DiskSpec, Ending, HostPort, MAX_DISKS, MAX_VCPUS};

/// `jmp $`.
const STAY: &[u8] = &[0xeb, 0xfe];

/// `ud2`, without anything that would take the fault.
const FAULT: &[u8] = &[0x0f, 0x0b];

fn threads(vm: &Vm) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.process.id())).unwrap();
    tasks
        .map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let name = status.lines().next().unwrap().trim_start_matches("Name:").trim();
            Thread { name: name.to_owned(), status }
        })
        .collect()
}

/// What `/proc` says of a thread.
#[derive(Debug)]
struct Thread {
    name: String,
    status: String,
}

impl Thread {
    /// The first word of a line.
    fn field(&self, field: &str) -> &str {
        let line = self.status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap()
    }
}

#[test]
fn a_guest_that_pulls_its_reset_line_has_powered_itself_off() {
    if !there_is_kvm() {
        return;
    }
    let mut vm = start(&elf(RESET), &|_, _| ());
    let (ending, status) = vm.end();
    assert_eq!(ending, Ending::PoweredOff);
    assert_eq!(status.code(), Some(0));
    assert_eq!(vm.marks, ["vmm started", "kvm ready", "kernel loaded", "vcpus running", "ended"]);
}

#[test]
fn a_guest_that_panics_ends_with_its_reason_and_its_last_words() {
    if !there_is_kvm() {
        return;
    }
    let words = "hello\nKernel panic - not syncing: no init\nCall Trace:\n";
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut vm = start(&elf(&[&say(words), RESET].concat()), &|spec, open| {
        spec.serial_log = Some(keep(open, log.reopen().unwrap()));
    });
    let (ending, status) = vm.end();
    assert_eq!(ending, Ending::Panicked { message: "no init".into(), last_words: words.into() });
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_to_string(log.path()).unwrap(), words);
}

#[test]
fn a_guest_that_cannot_take_a_fault_ends_with_its_last_words() {
    if !there_is_kvm() {
        return;
    }
    let mut vm = start(&elf(&[&say("oh"), FAULT].concat()), &|_, _| ());
    assert_eq!(vm.end().0, Ending::TripleFault { last_words: "oh".into() });
}

#[test]
fn the_largest_machine_there_can_be_starts_and_ends() {
    if !there_is_kvm() {
        return;
    }
    let mut vm = start(&elf(RESET), &|spec, open| {
        spec.vcpus = MAX_VCPUS;
        spec.ram_bytes = 5 << 30;
        spec.disks = vec![None; MAX_DISKS - 1];
        let image = keep(open, read_only(&[0; 1024]));
        spec.disks.push(Some(DiskSpec::read_only(image)));
    });
    assert_eq!(vm.end().0, Ending::PoweredOff);
}

#[test]
fn an_owner_who_goes_takes_the_machine_along() {
    if !there_is_kvm() {
        return;
    }
    let mut vm = start(&elf(STAY), &|_, _| ());
    vm.reach("vcpus running");
    let (other, _kept) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut vm.control, OwnedFd::from(other)));
    assert_eq!(vm.process.wait().unwrap().code(), Some(1));
}

#[test]
fn a_running_guest_is_in_a_jail() {
    if !there_is_kvm() {
        return;
    }
    // Inherited by mistake: it must not be there once the guest runs.
    let stray = File::open("/etc/passwd").unwrap();
    fcntl(&stray, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut vm = start(&elf(STAY), &|_, _| ());
    vm.reach("vcpus running");
    let threads = threads(&vm);
    assert!(threads.iter().any(|thread| thread.name == "vcpu0"), "{threads:?}");
    // KVM may have a thread of the kernel's own in the process.
    for thread in threads.iter().filter(|thread| !thread.name.starts_with("kvm")) {
        assert_eq!(thread.field("Seccomp:"), "2", "{thread:?}");
        assert_eq!(thread.field("NoNewPrivs:"), "1", "{thread:?}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(thread.field("Uid:"), "65534", "{thread:?}");
            assert_eq!(thread.field("CapEff:"), "0000000000000000", "{thread:?}");
        }
    }
    for descriptor in fs::read_dir(format!("/proc/{}/fd", vm.process.id())).unwrap() {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap();
        assert_ne!(target, Path::new("/etc/passwd"));
    }
}

#[test]
fn a_spec_that_makes_no_machine_is_refused_in_one_line_that_names_the_thing() {
    if !there_is_kvm() {
        return;
    }
    let good = elf(RESET);
    let script = b"#!/bin/sh\necho I am a kernel\n".as_slice();
    let cases: [(&[u8], Change<'_>, &str); 10] = [
        (script, &|_, _| (), "kernel file is not a 64-bit ELF file"),
        (b"", &|_, _| (), "kernel file is not a 64-bit ELF file"),
        (b"\x7fELF\x02\x01", &|_, _| (), "kernel file: "),
        (&good, &|spec, _| spec.vcpus = 0, "spec: vcpus is 0, not 1 to 32"),
        (&good, &|spec, _| spec.ram_bytes = 1 << 20, "spec: ram_bytes is 1048576, not a multiple"),
        (
            &good,
            &|spec, open| spec.kvm = keep(open, file(b"not KVM")),
            "the descriptor given as /dev/kvm is not KVM",
        ),
        (
            &good,
            &|spec, _| {
                if let Begin::Boot { kernel, .. } = &mut spec.begin {
                    *kernel = spec.kvm;
                }
            },
            "descriptor",
        ),
        (
            &good,
            &|spec, _| {
                if let Begin::Boot { command_line, .. } = &mut spec.begin {
                    *command_line = "x".repeat(2000);
                }
            },
            "kernel command line of 2",
        ),
        (
            &good,
            &|spec, open| {
                let image = keep(open, read_only(&[0; 513]));
                spec.disks = vec![Some(DiskSpec::read_only(image))];
            },
            "image of disk 0 is 513 bytes, not a multiple of 512",
        ),
        (
            &good,
            &|spec, open| {
                for _ in 0..2 {
                    let socket = keep(open, UnixStream::pair().unwrap().0);
                    spec.vsock.host_ports.push(HostPort { port: 7, socket });
                }
            },
            "spec: vsock.host_ports names port 7 twice",
        ),
    ];
    for (kernel, change, want) in cases {
        let (ending, status) = start(kernel, change).end();
        let Ending::Failed { message } = ending else { panic!("{ending:?}, not {want}") };
        assert!(message.starts_with(want) && !message.contains('\n'), "{message}, not {want}");
        assert_eq!(status.code(), Some(1));
    }
}
