//! A thread per vCPU: runs the guest and carries its accesses to the buses.

use std::io;
use std::sync::{Arc, Barrier};
use std::thread;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
    kvm_run__bindgen_ty_1__bindgen_ty_14 as EmulationFailure,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::bus::Bus;
use crate::ending::{Cause, Ends};

/// What the vCPUs of a machine share.
#[derive(Clone)]
pub struct Surroundings {
    /// Memory-mapped devices.
    pub memory: Arc<Bus>,
    /// Devices at I/O ports.
    pub ports: Arc<Bus>,
    /// Where an end is told.
    pub ends: Ends,
    /// Nobody runs a guest's instruction before everybody is here: each vCPU and the event loop.
    pub start_line: Arc<Barrier>,
}

/// Starts the thread of vCPU `index`. It does `jail` first, and then waits at the start line.
pub fn spawn<E: std::fmt::Display + Send + 'static>(
    index: u8,
    vcpu: VcpuFd,
    surroundings: Surroundings,
    jail: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK_BYTES).spawn(move || {
        let jailed = jail();
        surroundings.start_line.wait();
        let cause = match jailed {
            Ok(()) => run(index, vcpu, &surroundings),
            Err(error) => Cause::Failed(format!("jail of vCPU {index}: {error}")),
        };
        surroundings.ends.tell(cause);
    })
}

/// Serving an exit needs little: the largest is the activation of a device.
const STACK_BYTES: usize = 256 << 10;

/// Runs until something ends the VM.
fn run(index: u8, mut vcpu: VcpuFd, surroundings: &Surroundings) -> Cause {
    let Surroundings { memory, ports, ends, .. } = surroundings;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => memory.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => memory.write(address, data),
            Ok(VcpuExit::IoIn(port, data)) => ports.read(u64::from(port), data),
            Ok(VcpuExit::IoOut(port, data)) => {
                ports.write(u64::from(port), data);
                if let Some(cause) = ends.cause() {
                    return cause.clone();
                }
            }
            Ok(VcpuExit::Shutdown) => return Cause::TripleFault,
            Ok(VcpuExit::InternalError) => {
                return Cause::KvmStopped(format!("vCPU {index}: {}", internal_error(&mut vcpu)));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Cause::KvmStopped(format!(
                    "vCPU {index}: the processor (CPU {cpu}) refused to enter the guest, \
                     reason {reason:#x}"
                ));
            }
            Ok(exit) => {
                let exit = format!("vCPU {index}: unexpected exit {exit:?}");
                return Cause::KvmStopped(exit);
            }
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            Err(error) => return Cause::KvmStopped(format!("vCPU {index}: {error}")),
        }
    }
}

/// What KVM says about an exit with `KVM_EXIT_INTERNAL_ERROR`, and where the guest was.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: KVM filled this member before it gave the exit reason that leads here, and every bit
    // pattern is a value of it.
    let error = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.emulation_failure };
    let what = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit that KVM does not know",
        _ => "an internal error of KVM",
    };
    let place = vcpu.get_regs().map_or(String::new(), |regs| format!(" at {:#x}", regs.rip));
    format!("{what} (suberror {}){place}{}", error.suberror, code_bytes(&error))
}

fn code_bytes(error: &EmulationFailure) -> String {
    // Flags, length and bytes of the instruction: there if `ndata` counts that far.
    let told = error.suberror == KVM_INTERNAL_ERROR_EMULATION
        && error.ndata >= 3
        && error.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !told {
        return String::new();
    }
    // SAFETY: the flag says that KVM filled this member, and every bit pattern is a value of it.
    let code = unsafe { error.__bindgen_anon_1.__bindgen_anon_1 };
    let length = usize::from(code.insn_size).min(code.insn_bytes.len());
    code.insn_bytes[..length]
        .iter()
        .fold(", code".into(), |text, byte| format!("{text} {byte:02x}"))
}
