//! Is this KVM real?
//!
//! A `/dev/kvm` that opens and makes VMs proves nothing: there are KVMs without hardware behind them
//! that interpret a guest's kernel instruction by instruction, at a hundredth of the speed and with
//! instructions missing. So a throw-away VM is asked to run some, at the privilege a kernel has: first
//! those that such interpreters lack and no kernel can do without, each in a VM of its own since the
//! first failure ends it; then a loop that is timed. `docs/emulated-host.md` has the figures.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use crate::arch::code::{self, Snippet};
use crate::arch::cpu::{CpuError, Processors};
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::{self, Memory, MemoryError, Range};
use crate::vcpu::internal_error;

/// A guest slower than this is interpreted. Hardware runs such a loop at more than 500 million
/// instructions a second and KVM inside an emulated machine at 80 to 120, both of which boot a kernel
/// in good time, and a third of that when the machine is overcommitted; interpreters manage 2.
pub const SLOWEST_REAL: u64 = 8_000_000;

/// Memory of the throw-away VM: tables, code and a page of scratch.
const RAM: Range = Range { start: 0, bytes: 2 << 20 };

/// The loop is timed in portions, and the fastest counts: a neighbour can only slow one down.
const PORTIONS: u32 = 8;

/// No new portion begins after this much time.
const ENOUGH: Duration = Duration::from_millis(100);

/// Why there is no answer: KVM does not even make a VM.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The vCPU could not be readied.
    #[error(transparent)]
    PowerOn(#[from] CpuError),
    /// The code did not go in.
    #[error("memory of the probe: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Each instruction that was tried, in words, and what stopped it if it was stopped.
    pub instructions: Vec<(&'static str, Option<String>)>,
    /// Instructions a second in a loop of plain ones. `None` if even that was stopped.
    pub per_second: Option<u64>,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A kernel will run here.
    Real,
    /// An instruction that kernels use does not work.
    Lacks {
        /// Which.
        instruction: &'static str,
        /// What KVM said.
        reason: String,
    },
    /// Everything works, at less than [`SLOWEST_REAL`].
    Slow {
        /// Instructions a second.
        per_second: u64,
    },
}

impl Facts {
    /// Whether a kernel will run here, and what is in the way.
    pub fn verdict(&self) -> Verdict {
        for (instruction, stopped) in &self.instructions {
            if let Some(reason) = stopped {
                return Verdict::Lacks { instruction, reason: reason.clone() };
            }
        }
        match self.per_second {
            Some(per_second) if per_second >= SLOWEST_REAL => Verdict::Real,
            slow => Verdict::Slow { per_second: slow.unwrap_or(0) },
        }
    }
}

impl std::fmt::Display for Verdict {
    /// One sentence for a person, in small letters and without a full stop.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Real => write!(f, "KVM is real"),
            Self::Lacks { instruction, reason } => write!(
                f,
                "KVM is not backed by hardware: {instruction} at kernel privilege ended in {reason}"
            ),
            Self::Slow { per_second } => write!(
                f,
                "KVM is not backed by hardware: a guest runs {:.1} million instructions a second, \
                 and a real one at least {}",
                *per_second as f64 / 1e6,
                SLOWEST_REAL / 1_000_000
            ),
        }
    }
}

/// Tries an opened `/dev/kvm`. Takes a few milliseconds where KVM is real, and up to half a
/// second where it is not.
pub fn probe(kvm: OwnedFd) -> Result<Facts, ProbeError> {
    let kvm = Kvm::new(kvm)?;
    let processors = Processors {
        vcpus: 1,
        supported_cpuid: kvm.supported_cpuid()?,
        tsc_deadline: kvm.has_tsc_deadline(),
    };
    let mut instructions = Vec::new();
    for snippet in code::NEEDED {
        let outcome = Guest::new(&kvm, &processors, snippet)?.run();
        instructions.push((snippet.name, outcome.err()));
    }
    let mut guest = Guest::new(&kvm, &processors, &code::LOOP)?;
    let per_second = time(|| guest.run());
    Ok(Facts { instructions, per_second })
}

/// The speed of the fastest portion. The first one is not timed, since with it memory is mapped, and
/// one that is real ends the search.
fn time(mut portion: impl FnMut() -> Result<(), String>) -> Option<u64> {
    let begin = Instant::now();
    portion().ok()?;
    let mut best = 0;
    for _ in 0..PORTIONS {
        let start = Instant::now();
        portion().ok()?;
        let nanos = start.elapsed().as_nanos().max(1);
        let per_second = u128::from(code::LOOP_INSTRUCTIONS) * 1_000_000_000 / nanos;
        best = best.max(u64::try_from(per_second).unwrap_or(u64::MAX));
        if best >= SLOWEST_REAL || begin.elapsed() > ENOUGH {
            break;
        }
    }
    Some(best)
}

/// A VM with one vCPU and some instructions.
struct Guest {
    vcpu: VcpuFd,
    _vm: Vm,
    /// Dropped last: the VM looks at it.
    _memory: Memory,
}

impl Guest {
    fn new(kvm: &Kvm, processors: &Processors, snippet: &Snippet) -> Result<Self, ProbeError> {
        let memory = memory::allocate(&[RAM])?;
        crate::arch::boot::write_processor_tables(&memory)?;
        memory.write_slice(snippet.bytes, GuestAddress(code::ADDRESS))?;
        let vm = kvm.create_vm()?;
        vm.map(&memory)?;
        let vcpu = vm.create_vcpu(0)?;
        processors.power_on(&vcpu, 0, code::ADDRESS)?;
        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    /// Runs until the instructions report back.
    fn run(&mut self) -> Result<(), String> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(code::DONE_PORT, _)) => return Ok(()),
                Ok(VcpuExit::InternalError) => return Err(internal_error(&mut self.vcpu)),
                Ok(VcpuExit::Shutdown) => return Err("a triple fault".into()),
                Ok(exit) => return Err(format!("an unexpected exit {exit:?}")),
                Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(stopped: Option<&str>, per_second: Option<u64>) -> Facts {
        let instructions = vec![("popcnt", None), ("xsave", stopped.map(str::to_owned))];
        Facts { instructions, per_second }
    }

    #[test]
    fn a_missing_instruction_weighs_more_than_speed_and_both_have_to_be_right() {
        let lacks = Verdict::Lacks { instruction: "xsave", reason: "tears".into() };
        assert_eq!(facts(Some("tears"), Some(1 << 40)).verdict(), lacks);
        assert_eq!(facts(None, Some(80_000_000)).verdict(), Verdict::Real);
        assert_eq!(facts(None, Some(1_700_000)).verdict(), Verdict::Slow { per_second: 1_700_000 });
        assert_eq!(facts(None, None).verdict(), Verdict::Slow { per_second: 0 });
    }

    #[test]
    fn the_machine_at_hand_gets_an_answer_that_agrees_with_its_facts() {
        let Ok(kvm) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
            eprintln!("skipped: no /dev/kvm");
            return;
        };
        let facts = probe(kvm.into()).unwrap();
        eprintln!("{facts:?}: {}", facts.verdict());
        assert_eq!(facts.instructions.len(), code::NEEDED.len());
        // Whatever it is, it turns the loop.
        assert!(facts.per_second.is_some_and(|per_second| per_second > 0), "{facts:?}");
    }

    #[test]
    fn a_descriptor_that_is_not_kvm_is_called_so() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = probe(null.into()).unwrap_err();
        assert_eq!(error.to_string(), "the descriptor given as /dev/kvm is not KVM");
    }
}
