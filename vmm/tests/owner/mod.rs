//! The owner of a VM, for tests: starts a VMM process and hears what it says.
//!
//! The VMM is the example `boot` under its hidden name; `cargo test` builds it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use vmm::spec::{Begin, Ending, Inherited, MIN_RAM_BYTES, Order, Report, VmSpec, VsockSpec};

/// Where guests are loaded and entered.
pub const ENTRY: u64 = 0x10_0000;

/// `mov al, 0xfe; out 0x64, al`, and stay.
pub const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

/// Says `text` on the serial port.
pub fn say(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// An ELF file that loads `code` and enters it.
pub fn elf(code: &[u8]) -> Vec<u8> {
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
pub struct Vm {
    pub process: Child,
    pub control: OwnedFd,
    pub marks: Vec<String>,
}

/// A change to a good spec, and what it opened for that.
pub type Change<'a> = &'a dyn Fn(&mut VmSpec, &mut Vec<OwnedFd>);

/// Opens what a VM with this kernel needs, changes the spec as wanted, and starts it.
pub fn start(kernel: &[u8], change: Change<'_>) -> Vm {
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
        begin: Begin::Boot {
            kernel: keep(&mut open, file(kernel)),
            initramfs: keep(&mut open, file(b"initramfs")),
            command_line: String::new(),
        },
        disks: vec![],
        vsock: VsockSpec { guest_cid: 3, listener: keep(&mut open, listener), host_ports: vec![] },
        fs: None,
        nets: vec![],
        serial_log: None,
        capture: None,
        working_set: None,
        record: None,
        control: keep(&mut open, theirs),
    };
    change(&mut spec, &mut open);
    let mut command = Command::new(program());
    command.arg("--vmm").stdin(Stdio::null());
    let _spec = vmm::launch::hand_over(&mut command, &spec).unwrap();
    Vm { process: command.spawn().unwrap(), control, marks: vec![] }
}

pub fn keep(open: &mut Vec<OwnedFd>, fd: impl Into<OwnedFd>) -> Inherited {
    let fd = fd.into();
    let number = Inherited(fd.as_raw_fd());
    open.push(fd);
    number
}

pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/boot");
    assert!(program.exists(), "{} is missing: run all of `cargo test -p vmm`", program.display());
    program
}

pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The same, open for reading alone.
pub fn read_only(bytes: &[u8]) -> File {
    let file = file(bytes);
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

impl Vm {
    /// The next report. `None` when there will be no more.
    pub fn report(&mut self) -> Option<Report> {
        let mut packet = vec![0; 64 << 10];
        let bytes = recv(self.control.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        (bytes > 0).then(|| serde_json::from_slice(&packet[..bytes]).unwrap())
    }

    /// Waits until this mark was passed.
    pub fn reach(&mut self, mark: &str) {
        while self.marks.last().is_none_or(|last| last != mark) {
            match self.report() {
                Some(Report::Mark { name, .. }) => self.marks.push(name),
                other => panic!("{other:?} before {mark}"),
            }
        }
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        let packet = serde_json::to_vec(&order).unwrap();
        send(self.control.as_raw_fd(), &packet, MsgFlags::empty()).unwrap();
    }

    /// Waits for the end.
    pub fn end(&mut self) -> (Ending, ExitStatus) {
        loop {
            match self.report().expect("the last report tells of the end") {
                Report::Mark { name, .. } => self.marks.push(name),
                Report::Ended { ending } => return (ending, self.process.wait().unwrap()),
            }
        }
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
pub fn there_is_kvm() -> bool {
    let there = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        eprintln!("skipped: no /dev/kvm");
    }
    there
}
