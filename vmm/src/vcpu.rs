//! A thread per vCPU: runs the guest and carries its accesses to the buses.
//!
//! When the machine is to be saved, each is interrupted by a signal, saves its own vCPU, and ends. KVM
//! finishes an access of the guest's when it is asked to run once more, so a thread stops where that was
//! interrupted, and nowhere else.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::thread;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
    kvm_run__bindgen_ty_1__bindgen_ty_14 as EmulationFailure,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::arch::cpu::CpuError;
use crate::arch::state::VcpuState;
use crate::bus::Bus;
use crate::ending::{Cause, Ends};
use crate::kvm::{self, KvmError};
use crate::sync::lock;

/// Interrupts a vCPU that runs. Its threads block it, so it means nothing to anyone else.
const STOP: libc::c_int = libc::SIGUSR1;

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
    /// The model-specific registers that are saved with a vCPU; none if it will not be saved.
    pub saved_msrs: Arc<[u32]>,
}

/// The vCPUs of a machine that runs.
#[derive(Debug)]
pub struct Running {
    threads: Vec<Arc<AtomicI32>>,
    ends: Arc<ThreadEnds>,
}

/// How each of the threads has ended. A channel would do, but whoever waits at one yields the processor now
/// and then, which is a system call more for the jail.
#[derive(Debug, Default)]
struct ThreadEnds {
    all: Mutex<Vec<(u8, ThreadEnd)>>,
    news: Condvar,
}

/// With the state of its vCPU, or by itself.
#[derive(Debug)]
enum ThreadEnd {
    Saved(Result<Box<VcpuState>, CpuError>),
    ByItself,
}

/// Why there is no state of every vCPU.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// One of them cannot be saved.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// One of them came to its end by itself meanwhile.
    #[error("a vCPU ended before it was saved")]
    Ended,
}

/// Why a vCPU has no thread.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system has none.
    #[error("thread of a vCPU: {0}")]
    Thread(#[from] io::Error),
    /// It could not be interrupted.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// Starts a thread for each of `vcpus`. It does `jail` first, and then waits at the start line.
pub fn spawn<E: std::fmt::Display + Send + 'static>(
    vcpus: Vec<VcpuFd>,
    surroundings: &Surroundings,
    jail: impl FnOnce() -> Result<(), E> + Clone + Send + 'static,
) -> Result<Running, SpawnError> {
    let ends = Arc::new(ThreadEnds::default());
    let mut threads = Vec::with_capacity(vcpus.len());
    // Threads begin with the mask of who makes them, and none of them may meet the signal unprepared.
    block(STOP, libc::SIG_BLOCK)?;
    for (index, vcpu) in (0..).zip(vcpus) {
        kvm::interruptible_by(&vcpu, STOP)?;
        let number = Arc::new(AtomicI32::new(0));
        threads.push(number.clone());
        let (surroundings, jail, ends) = (surroundings.clone(), jail.clone(), ends.clone());
        let thread = thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK_BYTES);
        thread.spawn(move || {
            // SAFETY: no memory is passed.
            number.store(unsafe { libc::gettid() }, Ordering::Release);
            let jailed = jail();
            surroundings.start_line.wait();
            let end = match jailed {
                Ok(()) => run(index, vcpu, &surroundings),
                Err(error) => Err(Cause::Failed(format!("jail of vCPU {index}: {error}"))),
            };
            let end = match end {
                Ok(saved) => ThreadEnd::Saved(saved.map(Box::new)),
                Err(cause) => {
                    surroundings.ends.tell(cause);
                    ThreadEnd::ByItself
                }
            };
            lock(&ends.all).push((index, end));
            ends.news.notify_one();
        })?;
    }
    block(STOP, libc::SIG_UNBLOCK)?;
    Ok(Running { threads, ends })
}

fn block(signal: libc::c_int, how: libc::c_int) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `set` was emptied just now.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: `set` is a signal set; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl Running {
    /// Stops every vCPU for good, once [`Cause::CaptureOrdered`] was told, and gives their states.
    pub fn stop(self) -> Result<Vec<VcpuState>, StopError> {
        for thread in &self.threads {
            let thread = thread.load(Ordering::Acquire);
            // By its number, as `pthread_kill` does: C libraries differ in the call, and the jail knows this
            // one. A thread that has ended by itself is not there, and will be missed below.
            // SAFETY: no memory is passed.
            unsafe { libc::syscall(libc::SYS_tkill, thread, STOP) };
        }
        let all = lock(&self.ends.all);
        let ended = |all: &mut Vec<_>| all.len() < self.threads.len();
        let mut all = self.ends.news.wait_while(all, ended).unwrap_or_else(PoisonError::into_inner);
        all.sort_by_key(|(index, _)| *index);
        all.drain(..)
            .map(|(_, end)| match end {
                ThreadEnd::Saved(state) => Ok(*state?),
                ThreadEnd::ByItself => Err(StopError::Ended),
            })
            .collect()
    }
}

/// Serving an exit needs little: the largest is the activation of a device.
const STACK_BYTES: usize = 256 << 10;

/// Runs until something ends the VM, or until it is stopped, and then saved.
fn run(
    index: u8,
    mut vcpu: VcpuFd,
    surroundings: &Surroundings,
) -> Result<Result<VcpuState, CpuError>, Cause> {
    let Surroundings { memory, ports, ends, saved_msrs, .. } = surroundings;
    Err(loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => memory.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => memory.write(address, data),
            Ok(VcpuExit::IoIn(port, data)) => ports.read(u64::from(port), data),
            Ok(VcpuExit::IoOut(port, data)) => {
                ports.write(u64::from(port), data);
                match ends.cause() {
                    None | Some(Cause::CaptureOrdered) => {}
                    Some(cause) => break cause.clone(),
                }
            }
            Ok(VcpuExit::Shutdown) => break Cause::TripleFault,
            Ok(VcpuExit::InternalError) => {
                break Cause::KvmStopped(format!("vCPU {index}: {}", internal_error(&mut vcpu)));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                break Cause::KvmStopped(format!(
                    "vCPU {index}: the processor (CPU {cpu}) refused to enter the guest, \
                     reason {reason:#x}"
                ));
            }
            Ok(exit) => {
                let exit = format!("vCPU {index}: unexpected exit {exit:?}");
                break Cause::KvmStopped(exit);
            }
            Err(error) if error.errno() == libc::EINTR && must_stop(ends) => {
                return Ok(VcpuState::save(&vcpu, index, saved_msrs));
            }
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            Err(error) => break Cause::KvmStopped(format!("vCPU {index}: {error}")),
        }
    })
}

fn must_stop(ends: &Ends) -> bool {
    ends.cause() == Some(&Cause::CaptureOrdered)
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
