//! One VM as its owner holds it: a process, and what it says about itself.

mod card;

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{Signal, pidfd_send_signal};
use vmm::spec::{
    Begin, DiskSpec, Ending, FsSpec, HostPort, Inherited, Limits, Order, Report, SnapshotSpec,
    VmSpec, VsockSpec,
};

pub(crate) use self::card::{Card, NETWORK_SLOTS, Wire};
use crate::attend::AttendError;
use crate::birth::Newborn;
use crate::labels::{LabelError, Labels};
use crate::platform::Platform;
use crate::session::printable;
use crate::template::Template;
use crate::timeline::{Source, Timeline};
use crate::{descriptors, shares, signals};

/// The hidden verb behind which this program is the VM's process.
pub(crate) const VERB: &str = "vmm";

/// The program that runs, whatever became of the file it was started from.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// The first context id that is nobody's. Every VM has the same: its sockets are its own.
const GUEST_CID: u32 = 3;

/// The longest report: an ending with the last words of a serial port, escaped.
const MAX_REPORT_BYTES: usize = 256 << 10;

/// Lines of a guest's last words that are shown.
const SHOWN_LINES: usize = 20;

/// Is the VM: what this program does behind [`VERB`] and the number of a descriptor with the spec.
pub(crate) fn be_the_vm(spec: Option<&OsStr>) -> ExitCode {
    // A supervisor that catches signals gave us its mask.
    let _ = signals::uncatch();
    match spec.and_then(OsStr::to_str).map(str::parse) {
        Some(Ok(descriptor)) => vmm::main(descriptor),
        _ => ExitCode::FAILURE,
    }
}

/// Everything a VM is made of, opened.
pub(crate) struct Parts {
    /// KVM, a kernel and an initramfs.
    pub(crate) platform: Platform,
    /// How it begins.
    pub(crate) beginning: Beginning,
    /// The root's disk, unless the root is a share.
    pub(crate) disk: Option<File>,
    /// The disk it writes to, if it has one. Only a VM with the other disk does.
    pub(crate) storage: Option<Storage>,
    /// The way to the server of the host's files, if the guest sees any.
    pub(crate) files: Option<OwnedFd>,
    /// Its network cards, [`NETWORK_SLOTS`] at most.
    pub(crate) cards: Vec<Card>,
    /// Where clients of the guest's ports come.
    pub(crate) listener: UnixListener,
    /// What the guest's agent dials when it is ready.
    pub(crate) agent: UnixStream,
    /// Virtual CPUs.
    pub(crate) vcpus: u8,
    /// Guest memory.
    pub(crate) ram_bytes: u64,
    /// The guest's serial port goes to our standard error.
    pub(crate) debug: bool,
    /// The directory of the cgroup that its process is in from the beginning, if not in ours.
    pub(crate) cgroup: Option<OwnedFd>,
    /// What the process is to the host's security modules.
    pub(crate) labels: Labels,
}

/// A disk that a VM writes to.
pub(crate) struct Storage {
    /// Opened for reading and writing.
    pub(crate) file: File,
    /// How fast it may be.
    pub(crate) limits: Limits,
}

/// A disk in its slot.
struct Slot {
    file: File,
    read_only: bool,
    own_threads: bool,
    limits: Limits,
}

/// How a VM begins.
pub(crate) enum Beginning {
    /// It boots, with the slots that it needs.
    Boot,
    /// It goes on where a template was saved, whose slots it has.
    Restore(Template),
    /// The same, to learn which pages it writes to.
    Rehearsal {
        /// Where it goes on.
        template: Template,
        /// The empty file for what is learnt.
        record: File,
    },
    /// It boots, with the slots of a template, to become one.
    ToBeSaved {
        /// The empty file for its state.
        state: File,
        /// The empty file for its memory.
        memory: File,
    },
}

/// A VM. Dropping it ends it, and waits until nothing of it is left.
pub(crate) struct Vm {
    process: Newborn,
    control: OwnedFd,
    ending: Option<Ending>,
    disk_sectors: Vec<u64>,
    template: Option<PathBuf>,
}

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// No process, socket or memory for it.
    #[error("process of the VM")]
    Process(#[from] io::Error),
    /// Its labels.
    #[error("label of the VM")]
    Label(#[from] LabelError),
}

impl Vm {
    /// Starts a VM.
    pub(crate) fn start(mut parts: Parts) -> Result<Self, StartError> {
        let has_every_slot = !matches!(parts.beginning, Beginning::Boot);
        if has_every_slot && parts.disk.is_none() {
            parts.disk = Some(read_only(&no_disk()?)?);
        }
        let mut slots: Vec<_> = parts.disk.into_iter().map(Slot::to_read).collect();
        match parts.storage {
            Some(storage) => slots.push(Slot::to_write(storage)),
            // Nothing waits for so little.
            None if has_every_slot => {
                slots.push(Slot { own_threads: false, ..Slot::to_write(Storage::empty()?) });
            }
            None => {}
        }
        let disk_sectors = slots.iter().map(Slot::sectors).collect::<io::Result<_>>()?;
        let (control, control_theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let spec = VmSpec {
            vcpus: parts.vcpus,
            ram_bytes: parts.ram_bytes,
            kvm: inherited(&parts.platform.kvm),
            begin: match &parts.beginning {
                Beginning::Restore(Template { state, memory, .. })
                | Beginning::Rehearsal { template: Template { state, memory, .. }, .. } => {
                    Begin::Restore(SnapshotSpec {
                        state: inherited(state),
                        memory: inherited(memory),
                    })
                }
                Beginning::Boot | Beginning::ToBeSaved { .. } => Begin::Boot {
                    kernel: inherited(&parts.platform.kernel),
                    initramfs: inherited(&parts.platform.initramfs),
                    command_line: String::new(),
                },
            },
            disks: slots.iter().map(|slot| Some(slot.spec())).collect(),
            vsock: VsockSpec {
                guest_cid: GUEST_CID,
                listener: inherited(&parts.listener),
                host_ports: vec![HostPort {
                    port: proto::READY_PORT,
                    socket: inherited(&parts.agent),
                }],
            },
            fs: (has_every_slot || parts.files.is_some()).then(|| FsSpec {
                tag: shares::TAG.to_owned(),
                socket: parts.files.as_ref().map(inherited),
            }),
            nets: card::specs(&parts.cards, has_every_slot),
            serial_log: parts.debug.then(|| inherited(&stderr)),
            capture: match &parts.beginning {
                Beginning::ToBeSaved { state, memory } => {
                    Some(SnapshotSpec { state: inherited(state), memory: inherited(memory) })
                }
                Beginning::Boot | Beginning::Restore(_) | Beginning::Rehearsal { .. } => None,
            },
            working_set: match &parts.beginning {
                Beginning::Restore(template) => template.working_set.as_ref().map(inherited),
                _ => None,
            },
            record: match &parts.beginning {
                Beginning::Rehearsal { record, .. } => Some(inherited(record)),
                _ => None,
            },
            control: inherited(&control_theirs),
        };
        let mut command = Command::new(THIS_PROGRAM);
        // In a process group of its own: Ctrl-C is for the container and not for its machine.
        command.arg0("microvm").arg(VERB).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let _spec = vmm::launch::hand_over(&mut command, &spec)?;
        let process = start(&mut command, parts.cgroup.as_ref(), &parts.labels)?;
        let template = match &parts.beginning {
            Beginning::Restore(template) => Some(template.directory().to_owned()),
            Beginning::Boot | Beginning::ToBeSaved { .. } | Beginning::Rehearsal { .. } => None,
        };
        Ok(Self { process, control, ending: None, disk_sectors, template })
    }

    /// Readable when the VM has something to report.
    pub(crate) fn reports(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Readable when the VM's process is gone.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Takes in every report there is.
    pub(crate) fn take_reports(&mut self, timeline: &Timeline) {
        let mut packet = vec![0; MAX_REPORT_BYTES];
        while let Ok((length @ 1.., _)) =
            recv(&self.control, packet.as_mut_slice(), RecvFlags::DONTWAIT)
        {
            match serde_json::from_slice(&packet[..length]) {
                Ok(Report::Mark { name, monotonic_ns }) => {
                    timeline.mark_at(Source::Vmm, &printable(&name), monotonic_ns);
                }
                Ok(Report::Ended { ending }) => self.ending = Some(ending),
                Err(error) => {
                    let message = format!("the VM's process reports nonsense: {error}");
                    self.ending = Some(Ending::Failed { message });
                }
            }
        }
    }

    /// Sectors of each of its disks.
    pub(crate) fn disk_sectors(&self) -> &[u64] {
        &self.disk_sectors
    }

    /// Has it saved to the files it was started with, which ends it.
    pub(crate) fn save(&self) -> io::Result<()> {
        self.order(Order::Capture)
    }

    /// Has it write down what its guest has touched, which ends it.
    pub(crate) fn record(&self) -> io::Result<()> {
        self.order(Order::Record)
    }

    fn order(&self, order: Order) -> io::Result<()> {
        send(&self.control, &serde_json::to_vec(&order)?, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Puts a tap into a network slot, or takes away what is there. Only a VM that has begun from a template has slots
    /// that are free ([`Self::has_free_slots`]).
    pub(crate) fn plug(&self, slot: u8, tap: Option<OwnedFd>) -> io::Result<()> {
        let order = if tap.is_some() { Order::Plug { slot } } else { Order::Unplug { slot } };
        descriptors::send(
            &self.control,
            &serde_json::to_vec(&order)?,
            tap.as_ref().map(AsFd::as_fd),
        )
    }

    /// Whether it has slots for interfaces that come later.
    pub(crate) fn has_free_slots(&self) -> bool {
        self.template.is_some()
    }

    /// Its process could not even put it together: its template, if it has one, is not used again.
    pub(crate) fn doubt_template(&self, error: &AttendError) {
        if let (Some(template), AttendError::Vm(ended)) = (&self.template, error)
            && matches!(ended.ending, Some(Ending::Failed { .. }))
        {
            Template::discard(template);
        }
    }

    /// Stops its process: no virtual CPU and no device does anything until [`Self::resume`].
    pub(crate) fn pause(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process, Signal::STOP)?)
    }

    /// Lets a paused VM go on.
    pub(crate) fn resume(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process, Signal::CONT)?)
    }

    /// How it ended, once its process is gone.
    pub(crate) fn ended(&mut self) -> VmEnded {
        let status = self.process.wait().unwrap_or_default();
        VmEnded { ending: self.ending.take(), status }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It holds nothing that has to be written back: what its guest wrote to a disk is in the host's kernel, its
        // memory is its own.
        self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(
    command: &mut Command,
    cgroup: Option<&OwnedFd>,
    labels: &Labels,
) -> Result<Newborn, StartError> {
    let cgroup = cgroup.map(AsFd::as_fd);
    if labels.is_empty() {
        return Ok(Newborn::start(command, cgroup)?);
    }
    // The order to label the next program is the thread's that gave it.
    let labelled = || -> Result<Newborn, StartError> {
        labels.give_to_next()?;
        Ok(Newborn::start(command, cgroup)?)
    };
    thread::scope(|scope| scope.spawn(labelled).join())
        .unwrap_or_else(|_| Err(io::Error::other("its starter panicked").into()))
}

impl Storage {
    fn empty() -> io::Result<Self> {
        Ok(Self { file: no_disk()?, limits: Limits::default() })
    }
}

impl Slot {
    fn to_read(file: File) -> Self {
        Self { file, read_only: true, own_threads: false, limits: Limits::default() }
    }

    fn to_write(Storage { file, limits }: Storage) -> Self {
        Self { file, read_only: false, own_threads: true, limits }
    }

    fn sectors(&self) -> io::Result<u64> {
        Ok((&self.file).seek(SeekFrom::End(0))? / SECTOR)
    }

    fn spec(&self) -> DiskSpec {
        let &Self { ref file, read_only, own_threads, limits } = self;
        DiskSpec { image: inherited(file), read_only, own_threads, limits }
    }
}

/// What is in the disk slot of a machine without a disk: one sector of zeros. The guest's kernel tells of a
/// disk that has changed, and not of one that was not there.
fn no_disk() -> io::Result<File> {
    let file = File::from(memfd_create("no-disk", MemfdFlags::CLOEXEC)?);
    file.set_len(SECTOR)?;
    Ok(file)
}

/// The same file, open for reading alone.
pub(crate) fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn inherited(fd: &impl AsRawFd) -> Inherited {
    Inherited(fd.as_raw_fd())
}

/// A VM that ended before it was done with.
#[derive(Debug)]
pub(crate) struct VmEnded {
    /// What it said about it.
    pub(crate) ending: Option<Ending>,
    status: ExitStatus,
}

impl std::error::Error for VmEnded {}

impl fmt::Display for VmEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ending {
            Some(Ending::PoweredOff) => write!(f, "the guest powered itself off"),
            Some(Ending::OwnerGone) => write!(f, "the VM lost its owner"),
            Some(Ending::Captured) => write!(f, "the VM was saved"),
            Some(Ending::Recorded) => write!(f, "the VM's pages were written down"),
            Some(Ending::Panicked { message, .. }) => {
                write!(f, "the guest's kernel panicked: {}", printable(message))
            }
            Some(Ending::TripleFault { .. }) => {
                write!(f, "the guest ended in a triple fault")
            }
            Some(Ending::KvmStopped { reason, .. }) => {
                write!(f, "KVM could not go on with the guest: {}", printable(reason))
            }
            Some(Ending::Failed { message }) => {
                write!(f, "the VM: {}", printable(message))
            }
            None => match (self.status.signal(), self.status.code()) {
                (Some(signal), _) => write!(f, "the VM's process was killed by signal {signal}"),
                (None, Some(code)) => write!(f, "the VM's process ended with code {code}"),
                (None, None) => write!(f, "the VM's process ended"),
            },
        }
    }
}

impl VmEnded {
    /// KVM itself gave up on the guest.
    pub(crate) fn is_kvms_doing(&self) -> bool {
        matches!(self.ending, Some(Ending::KvmStopped { .. }))
    }

    /// The end of what the guest said on its serial port, fit for a terminal.
    pub(crate) fn last_words(&self) -> Vec<String> {
        let words = match &self.ending {
            Some(
                Ending::Panicked { last_words, .. }
                | Ending::TripleFault { last_words }
                | Ending::KvmStopped { last_words, .. },
            ) => last_words.as_str(),
            Some(
                Ending::PoweredOff
                | Ending::OwnerGone
                | Ending::Captured
                | Ending::Recorded
                | Ending::Failed { .. },
            )
            | None => "",
        };
        let lines: Vec<_> = words.lines().map(printable).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ending: Option<Ending>, raw_status: i32) -> VmEnded {
        let status = ExitStatus::from_raw(raw_status);
        VmEnded { ending, status }
    }

    #[test]
    fn a_killed_vm_is_named_by_its_signal_and_a_panic_by_its_message() {
        assert_eq!(ended(None, 9).to_string(), "the VM's process was killed by signal 9");
        let panic = ended(
            Some(Ending::Panicked {
                message: "Attempted to kill init!\x1b[2J".to_owned(),
                last_words: "one\r\n\x1b[31mtwo\n".to_owned(),
            }),
            0,
        );
        assert_eq!(panic.to_string(), "the guest's kernel panicked: Attempted to kill init![2J");
        assert_eq!(panic.last_words(), ["one", "[31mtwo"]);
    }

    #[test]
    fn of_long_last_words_the_end_is_shown() {
        let last_words: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let words = ended(Some(Ending::TripleFault { last_words }), 0).last_words();
        assert_eq!((words.len(), words.last().unwrap().as_str()), (20, "line 99"));
    }
}
