//! The whole process, with guests of a few instructions: they run on every KVM, also on one without
//! hardware behind it.
//!
//! The VMM is the example `boot` under its hidden name; `cargo test` builds it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use vmm::spec::{
    DiskSpec, Ending, HostPort, Inherited, MAX_DISKS, MAX_VCPUS, MIN_RAM_BYTES, Report, VmSpec,
    VsockSpec,
};

/// Where guests are loaded and entered.
const ENTRY: u64 = 0x10_0000;

/// `mov al, 0xfe; out 0x64, al`, and stay.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

/// `jmp $`.
const STAY: &[u8] = &[0xeb, 0xfe];

/// `ud2`, without anything that would take the fault.
const FAULT: &[u8] = &[0x0f, 0x0b];

/// Says `text` on the serial port.
fn say(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// An ELF file that loads `code` and enters it.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    file.extend(ENTRY.to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // sections
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]); // PT_LOAD, rwx
    let bytes = code.len() as u64;
    for word in [120, ENTRY, ENTRY, bytes, bytes, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// A VM that was started, and the owner's end of its control socket.
struct Vm {
    process: Child,
    control: OwnedFd,
    marks: Vec<String>,
}

/// A change to a good spec, and what it opened for that.
type Change<'a> = &'a dyn Fn(&mut VmSpec, &mut Vec<OwnedFd>);

/// Opens what a VM with this kernel needs, changes the spec as wanted, and starts it.
fn start(kernel: &[u8], change: Change<'_>) -> Vm {
    let mut open: Vec<OwnedFd> = Vec::new();
    let directory = tempfile::tempdir().unwrap();
    let (control, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    let listener = UnixListener::bind(directory.path().join("calls")).unwrap();
    let mut spec = VmSpec {
        vcpus: 1,
        ram_bytes: MIN_RAM_BYTES,
        kvm: keep(&mut open, kvm),
        kernel: keep(&mut open, file(kernel)),
        initramfs: keep(&mut open, file(b"initramfs")),
        command_line: String::new(),
        disks: vec![],
        vsock: VsockSpec { guest_cid: 3, listener: keep(&mut open, listener), host_ports: vec![] },
        fs: None,
        serial_log: None,
        control: keep(&mut open, theirs),
    };
    change(&mut spec, &mut open);
    let mut command = Command::new(program());
    command.arg("--vmm").stdin(Stdio::null());
    let _spec = vmm::launch::hand_over(&mut command, &spec).unwrap();
    Vm { process: command.spawn().unwrap(), control, marks: vec![] }
}

fn keep(open: &mut Vec<OwnedFd>, fd: impl Into<OwnedFd>) -> Inherited {
    let fd = fd.into();
    let number = Inherited(fd.as_raw_fd());
    open.push(fd);
    number
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/boot");
    assert!(program.exists(), "{} is missing: run all of `cargo test -p vmm`", program.display());
    program
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

impl Vm {
    /// The next report. `None` when there will be no more.
    fn report(&mut self) -> Option<Report> {
        let mut packet = vec![0; 64 << 10];
        let bytes = recv(self.control.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        (bytes > 0).then(|| serde_json::from_slice(&packet[..bytes]).unwrap())
    }

    /// Waits until this mark was passed.
    fn reach(&mut self, mark: &str) {
        while self.marks.last().is_none_or(|last| last != mark) {
            match self.report() {
                Some(Report::Mark { name, .. }) => self.marks.push(name),
                other => panic!("{other:?} before {mark}"),
            }
        }
    }

    /// Waits for the end.
    fn end(&mut self) -> (Ending, ExitStatus) {
        loop {
            match self.report().expect("the last report tells of the end") {
                Report::Mark { name, .. } => self.marks.push(name),
                Report::Ended { ending } => return (ending, self.process.wait().unwrap()),
            }
        }
    }

    fn threads(&self) -> Vec<Thread> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        tasks
            .map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let name = status.lines().next().unwrap().trim_start_matches("Name:").trim();
                Thread { name: name.to_owned(), status }
            })
            .collect()
    }
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

impl Drop for Vm {
    fn drop(&mut self) {
        // Whoever expected its end has waited for it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether there is a KVM to test with; says so if not.
fn there_is_kvm() -> bool {
    let there = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        eprintln!("skipped: no /dev/kvm");
    }
    there
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
        let image = keep(open, file(&[0; 1024]));
        spec.disks.push(Some(DiskSpec { image, read_only: true }));
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
    drop(std::mem::replace(&mut vm.control, other.into()));
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
    let threads = vm.threads();
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
            &|spec, _| std::mem::swap(&mut spec.kvm, &mut spec.initramfs),
            "the descriptor given as /dev/kvm is not KVM",
        ),
        (&good, &|spec, _| spec.kernel = spec.kvm, "descriptor"),
        (&good, &|spec, _| spec.command_line = "x".repeat(2000), "kernel command line of 2"),
        (
            &good,
            &|spec, open| {
                let image = keep(open, file(&[0; 513]));
                spec.disks = vec![Some(DiskSpec { image, read_only: true })];
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
