//! The VMM process, from its first line to its last.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::control::{Control, Owner};
use crate::devices::block::Disk;
use crate::devices::fs::Server;
use crate::devices::net::{Card, Plug};
use crate::ending::{Cause, Ends};
use crate::event_loop::{EventLoop, Interest, Readiness, Subscriber};
use crate::inherit::{InheritError, Inheritance};
use crate::jail::{self, JailError, Saving};
use crate::kvm::{Kvm, KvmError};
use crate::machine::{self, BuildError, CaptureError, Machine, Parts, RecordError, Step};
use crate::memory;
use crate::spec::{Begin, Ending, SnapshotSpec, SpecError, VmSpec, WireSpec};
use crate::sync::lock;
use crate::vcpu::{self, SpawnError, Surroundings};

/// Why the VM never ran, or ran no further.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error("spec: {0}")]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("jail: {0}")]
    Jail(#[from] JailError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("saving the machine: {0}")]
    Capture(#[from] CaptureError),
    #[error("file to save to: {0}")]
    CaptureFile(#[source] io::Error),
    #[error("saving the machine was ordered, and nothing given to save it to")]
    NothingToSaveTo,
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("it was ordered to write down what the guest has done, and nothing given for that")]
    NothingToRecordTo,
    #[error("thread of a device: {0}")]
    DeviceThread(#[source] io::Error),
    #[error("event loop: {0}")]
    EventLoop(#[from] io::Error),
}

/// Runs the VM whose [`VmSpec`] is behind `spec_descriptor`, in JSON, to its end, which is told over
/// its control socket. To be called from `main` of a process that does nothing else and has one
/// thread: every descriptor it has and the spec does not name is closed.
///
/// The code is 0 when the guest ended by itself, whichever way; 1 otherwise. A spec that cannot be
/// read at all is told on standard error.
pub fn main(spec_descriptor: RawFd) -> ExitCode {
    let mut inheritance = Inheritance::default();
    let started = inheritance.read_spec(spec_descriptor).and_then(|spec| {
        let control = Control::new(inheritance.take(spec.control, "control")?);
        Ok((spec, control))
    });
    let (spec, control) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("vmm: {error}");
            return ExitCode::FAILURE;
        }
    };
    control.mark("vmm started");
    end_on_panic(control.clone());
    let ending = run(&spec, inheritance, &control)
        .unwrap_or_else(|error| Ending::Failed { message: error.to_string() });
    let by_itself = !matches!(ending, Ending::Failed { .. } | Ending::OwnerGone);
    control.mark("ended");
    control.ended(ending);
    // Other threads may still run the guest, if only to find it at its end.
    std::process::exit(if by_itself { 0 } else { 1 })
}

fn run(spec: &VmSpec, mut inheritance: Inheritance, control: &Control) -> Result<Ending, RunError> {
    spec.check()?;
    jail::close_all_but(spec)?;
    let ends = Ends::new()?;
    let mut event_loop = EventLoop::new()?;
    event_loop.subscribe(|watch| {
        watch.add(ends.as_fd(), 0, Interest::Edges)?;
        Ok::<_, io::Error>(Woken)
    })?;

    let parts = parts(spec, &mut inheritance, control)?;
    let capture = capture_into(spec, &mut inheritance)?;
    let record = spec.record.map(|file| inheritance.take(file, "record")).transpose()?;
    let saved_msrs = match &capture {
        Some(_) => parts.kvm.saved_msrs()?,
        None => vec![],
    };
    let machine = machine::build(parts, &mut event_loop, &ends)?;

    jail::drop_privileges()?;
    let surroundings = Surroundings {
        memory: machine.memory_bus.clone(),
        ports: machine.port_bus.clone(),
        ends: ends.clone(),
        start_line: Arc::new(Barrier::new(
            machine.vcpus.len() + machine.disk_loops.len() + machine.net_loops.len() + 1,
        )),
        saved_msrs: saved_msrs.into(),
    };
    let Machine { vcpus, last_words, disk_loops, net_loops, net_slots, leave, body, .. } = machine;
    event_loop.subscribe(|watch| Owner::new(control.clone(), ends.clone(), net_slots, &watch))?;
    let saving = match (&capture, &record) {
        (None, None) => Saving::Forbidden,
        _ => Saving::Allowed,
    };
    for own in disk_loops {
        serve("disk", jail::confine_disk, own, &surroundings).map_err(RunError::DeviceThread)?;
    }
    for own in net_loops {
        serve("net", jail::confine_net, own, &surroundings).map_err(RunError::DeviceThread)?;
    }
    let vcpus = vcpu::spawn(vcpus, &surroundings, move || jail::confine_vcpu(saving))?;
    jail::confine_event_loop(saving)?;
    surroundings.start_line.wait();
    control.mark("vcpus running");

    let cause = loop {
        match ends.cause() {
            Some(cause) => break cause.clone(),
            None => event_loop.turn()?,
        }
    };
    if cause == Cause::CaptureOrdered {
        body.capture(vcpus, capture.ok_or(RunError::NothingToSaveTo)?)?;
        return Ok(Ending::Captured);
    }
    if cause == Cause::RecordOrdered {
        body.record(record.ok_or(RunError::NothingToRecordTo)?.into())?;
        std::mem::forget(body);
        return Ok(Ending::Recorded);
    }
    // What the guest wrote before its end arrives whole, for as long as there is somebody to care.
    leave.hang_up();
    while !leave.is_drained() && !control.owner_is_gone() {
        event_loop.turn()?;
    }
    let words = lock(&last_words);
    let ending = ending(cause, words.panic(), words.text());
    // The guest's other vCPUs may still be running in these; the process takes them along.
    std::mem::forget(body);
    Ok(ending)
}

/// Starts a thread of a device that has some for itself. It waits at the start line like all others.
fn serve(
    name: &'static str,
    confine: fn() -> Result<(), JailError>,
    event_loop: EventLoop,
    surroundings: &Surroundings,
) -> io::Result<()> {
    let (start_line, ends) = (surroundings.start_line.clone(), surroundings.ends.clone());
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(DEVICE_STACK_BYTES);
    thread.spawn(move || {
        let jailed = confine();
        start_line.wait();
        let end = jailed.map_err(|error| format!("jail of a {name}: {error}")).and_then(|()| {
            loop {
                event_loop.turn().map_err(|error| format!("event loop of a {name}: {error}"))?;
            }
        });
        let Err::<Infallible, _>(message) = end;
        ends.tell(Cause::Failed(message));
        // Its jail has no way for a thread to end: the process ends with all of them.
        loop {
            thread::park();
        }
    })?;
    Ok(())
}

/// A request of a disk and the list of its parts: more than the 16 KiB that 1,024 of those take.
const DEVICE_STACK_BYTES: usize = 256 << 10;

/// Takes over the files to save to. The memory's is given its length while that is still allowed.
fn capture_into(
    spec: &VmSpec,
    inheritance: &mut Inheritance,
) -> Result<Option<machine::SaveTo>, RunError> {
    let Some(SnapshotSpec { state, memory }) = &spec.capture else { return Ok(None) };
    let state = inheritance.take(*state, "capture.state")?.into();
    let file = File::from(inheritance.take(*memory, "capture.memory")?);
    file.set_len(memory::file_bytes(spec.ram_bytes)).map_err(RunError::CaptureFile)?;
    Ok(Some(machine::SaveTo { state, memory: file }))
}

/// Takes over everything the spec names.
fn parts(
    spec: &VmSpec,
    inheritance: &mut Inheritance,
    control: &Control,
) -> Result<Parts, RunError> {
    let mut disks = Vec::with_capacity(spec.disks.len());
    for disk in &spec.disks {
        let disk = disk.as_ref().map(|disk| {
            let image = inheritance.take(disk.image, "a disk")?;
            Ok::<_, InheritError>(Disk {
                image: File::from(image),
                read_only: disk.read_only,
                own_threads: disk.own_threads,
                limits: disk.limits,
            })
        });
        disks.push(disk.transpose()?);
    }
    let host_ports = spec.vsock.host_ports.iter();
    let host_ports = host_ports
        .map(|port| Ok((port.port, inheritance.take(port.socket, "a port of the host")?)))
        .collect::<Result<_, InheritError>>()?;
    let serial_log = spec.serial_log.map(|log| inheritance.take(log, "serial_log")).transpose()?;
    let fs = spec.fs.as_ref().map(|fs| {
        let socket = fs.socket.map(|socket| inheritance.take(socket, "fs.socket")).transpose()?;
        Ok::<_, InheritError>(Server { tag: fs.tag.clone(), socket })
    });
    let mut nets = Vec::with_capacity(spec.nets.len());
    for net in &spec.nets {
        let card = net.as_ref().map(|net| {
            let plug = match net.wire {
                WireSpec::Tap(ref queues) => {
                    let taken = queues.iter().map(|queue| inheritance.take(*queue, "a tap"));
                    Plug::Tap(taken.collect::<Result<_, _>>()?)
                }
                WireSpec::Stream(socket) => Plug::Stream(inheritance.take(socket, "a stream")?),
            };
            let limits = [net.to_guest, net.from_guest];
            Ok::<_, InheritError>(Card { plug, mac: net.mac, mtu: net.mtu, limits })
        });
        nets.push(card.transpose()?);
    }
    let (dialling, reaching) = (control.clone(), control.clone());
    Ok(Parts {
        vcpus: spec.vcpus,
        ram_bytes: spec.ram_bytes,
        kvm: Kvm::new(inheritance.take(spec.kvm, "kvm")?)?,
        begin: match &spec.begin {
            Begin::Boot { kernel, initramfs, command_line } => machine::Begin::Boot {
                kernel: inheritance.take(*kernel, "kernel")?.into(),
                initramfs: inheritance.take(*initramfs, "initramfs")?.into(),
                command_line: command_line.clone(),
            },
            Begin::Restore(SnapshotSpec { state, memory }) => machine::Begin::Restore {
                state: inheritance.take(*state, "begin.state")?.into(),
                memory: inheritance.take(*memory, "begin.memory")?.into(),
            },
        },
        working_set: spec
            .working_set
            .map(|file| inheritance.take(file, "working_set").map(File::from))
            .transpose()?,
        recorded: spec.record.is_some(),
        disks,
        guest_cid: spec.vsock.guest_cid,
        listener: inheritance.take(spec.vsock.listener, "vsock.listener")?,
        host_ports,
        fs: fs.transpose()?,
        nets,
        serial_log: serial_log.map(File::from),
        dialled: Box::new(move |port| dialling.mark(format!("guest dialled host port {port}"))),
        reached: Box::new(move |step| {
            reaching.mark(match step {
                Step::KvmReady => "kvm ready",
                Step::Loaded => "kernel loaded",
                Step::Restored => "machine restored",
            });
        }),
    })
}

/// What the owner is told.
fn ending(cause: Cause, panic: Option<&str>, last_words: String) -> Ending {
    match (cause, panic) {
        (Cause::Reset | Cause::TripleFault, Some(message)) => {
            Ending::Panicked { message: message.to_owned(), last_words }
        }
        (Cause::Reset, None) => Ending::PoweredOff,
        (Cause::TripleFault, None) => Ending::TripleFault { last_words },
        (Cause::KvmStopped(reason), _) => Ending::KvmStopped { reason, last_words },
        (Cause::OwnerGone, _) => Ending::OwnerGone,
        (Cause::CaptureOrdered, _) => Ending::Captured,
        (Cause::RecordOrdered, _) => Ending::Recorded,
        (Cause::Failed(message), _) => Ending::Failed { message },
    }
}

/// A thread that panics takes the VM along, and the owner hears where.
fn end_on_panic(control: Control) {
    std::panic::set_hook(Box::new(move |panic| {
        control.ended(Ending::Failed { message: format!("the VMM has a bug: {panic}") });
        std::process::exit(1);
    }));
}

/// Ends wake the event loop, which then looks at them.
struct Woken;

impl Subscriber for Woken {
    fn ready(&mut self, _: u32, _: Readiness) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_power_off_unless_the_guest_spoke_of_a_panic() {
        let words = || "last".to_owned();
        assert_eq!(ending(Cause::Reset, None, words()), Ending::PoweredOff);
        assert_eq!(
            ending(Cause::Reset, Some("no init"), words()),
            Ending::Panicked { message: "no init".into(), last_words: words() }
        );
        assert_eq!(
            ending(Cause::TripleFault, None, words()),
            Ending::TripleFault { last_words: words() }
        );
        assert_eq!(ending(Cause::OwnerGone, Some("no init"), words()), Ending::OwnerGone);
    }
}
