//! The fence around KVM: what the rest of the house asks of it, and nothing else.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_clock_data, kvm_irqchip, kvm_pre_fault_memory,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{Memory, Pages};

/// The only version of the interface there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Without these there is no machine. Each is as old as Linux 3.x or is in [`KvmError::Missing`].
const NEEDED: [(Cap, &str); 5] = [
    (Cap::Irqchip, "an interrupt controller in the kernel"),
    (Cap::UserMemory, "guest memory in user space"),
    (Cap::Irqfd, "interrupts from descriptors"),
    (Cap::Ioeventfd, "notifications to descriptors"),
    (Cap::ExtCpuid, "CPUID of its own"),
];

/// Why KVM does not do what a machine needs.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The descriptor is something else.
    #[error("the descriptor given as /dev/kvm is not KVM")]
    NotKvm,
    /// A KVM from another world.
    #[error("KVM speaks version {0} of its interface, not {API_VERSION}")]
    Version(i32),
    /// A KVM without something.
    #[error("KVM has no {0}")]
    Missing(&'static str),
    /// It refused a call.
    #[error("KVM refused to {what}: {source}")]
    Refused {
        /// What it was asked to do, a verb first.
        what: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Refused { what, source }
}

/// An opened `/dev/kvm` that was asked for its version and abilities.
#[derive(Debug)]
pub struct Kvm(kvm_ioctls::Kvm);

impl Kvm {
    /// Takes an opened `/dev/kvm`.
    pub fn new(fd: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is owned, and ownership moves into the new value.
        let kvm = unsafe { kvm_ioctls::Kvm::from_raw_fd(fd.into_raw_fd()) };
        match kvm.get_api_version() {
            API_VERSION => {}
            version if version < 0 => return Err(KvmError::NotKvm),
            version => return Err(KvmError::Version(version)),
        }
        for (ability, words) in NEEDED {
            if !kvm.check_extension(ability) {
                return Err(KvmError::Missing(words));
            }
        }
        Ok(Self(kvm))
    }

    /// What a vCPU's CPUID may say here.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.0
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("say which CPUID it supports"))
    }

    /// Whether the local APIC's timer can be given a deadline in TSC ticks.
    pub fn has_tsc_deadline(&self) -> bool {
        self.0.check_extension(Cap::TscDeadlineTimer)
    }

    /// The model-specific registers that make up a vCPU's state.
    pub fn saved_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.0.get_msr_index_list().map_err(refused("list model-specific registers"))?;
        Ok(list.as_slice().to_vec())
    }

    /// An empty machine.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        self.0.create_vm().map(Vm).map_err(refused("create a VM"))
    }
}

/// A virtual machine in the kernel.
#[derive(Debug)]
pub struct Vm(VmFd);

impl Vm {
    /// Lets the guest see `memory`.
    pub fn map(&self, memory: &Memory) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the mapping belongs to `memory`; whoever builds a machine keeps it for as
            // long as a vCPU can run.
            unsafe { self.0.set_user_memory_region(region) }
                .map_err(refused("map guest memory"))?;
        }
        Ok(())
    }

    /// Where KVM may put three pages of its own for real-mode guests on old Intel CPUs, and the
    /// interrupt controllers: PIC, I/O APIC and a local APIC for each vCPU created later.
    #[cfg(target_arch = "x86_64")]
    pub fn create_interrupt_controllers(&self, private_pages: u64) -> Result<(), KvmError> {
        let tss = usize::try_from(private_pages).unwrap_or(usize::MAX);
        self.0.set_tss_address(tss).map_err(refused("place its task segment"))?;
        self.0.create_irq_chip().map_err(refused("create interrupt controllers"))
    }

    /// The next vCPU.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.0.create_vcpu(u64::from(index)).map_err(refused("create a vCPU"))
    }

    /// One of the three interrupt controllers, by KVM's number for it.
    #[cfg(target_arch = "x86_64")]
    pub fn interrupt_controller(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut state = kvm_irqchip { chip_id, ..Default::default() };
        self.0.get_irqchip(&mut state).map_err(refused("save an interrupt controller"))?;
        Ok(state)
    }

    /// Gives the interrupt controller that `state` names this state.
    #[cfg(target_arch = "x86_64")]
    pub fn set_interrupt_controller(&self, state: &kvm_irqchip) -> Result<(), KvmError> {
        self.0.set_irqchip(state).map_err(refused("restore an interrupt controller"))
    }

    /// The guest's clock, in nanoseconds.
    #[cfg(target_arch = "x86_64")]
    pub fn clock(&self) -> Result<kvm_clock_data, KvmError> {
        self.0.get_clock().map_err(refused("read the guest's clock"))
    }

    /// Sets the guest's clock.
    #[cfg(target_arch = "x86_64")]
    pub fn set_clock(&self, clock: &kvm_clock_data) -> Result<(), KvmError> {
        self.0.set_clock(clock).map_err(refused("set the guest's clock"))
    }

    /// From now on a write to `event` raises interrupt `gsi`.
    pub fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.0.register_irqfd(event, gsi).map_err(refused("connect an interrupt"))
    }

    /// From now on a guest's 32-bit write of `value` to `address` signals `event` and costs no exit
    /// to this process.
    pub fn connect_notification(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        self.0
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(refused("connect a queue's notification"))
    }
}

/// While `vcpu` runs the guest, its thread takes `signal`, which interrupts that; at all other times its
/// thread blocks it. So a signal is never lost: one that comes in between waits for the next run, and
/// ends it at its beginning.
pub fn interruptible_by(vcpu: &VcpuFd, signal: libc::c_int) -> Result<(), KvmError> {
    // `struct kvm_signal_mask` with the eight bytes of a kernel's signal set behind its length.
    #[repr(C, packed)]
    struct Mask {
        len: u32,
        blocked: u64,
    }
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    let mask = Mask { len: 8, blocked: !(1 << (signal - 1)) };
    // SAFETY: `mask` is readable, and as long as it says.
    let done = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK as _, &raw const mask) };
    let refused = refused("let a signal interrupt a vCPU");
    if done < 0 { Err(refused(kvm_ioctls::Error::last())) } else { Ok(()) }
}

/// Lets `vcpu` find `pages`, so that it does not leave the guest for it. Says whether it could: KVM
/// does it from Linux 6.11 on.
pub fn prefault(vcpu: &VcpuFd, pages: &Pages) -> bool {
    const KVM_PRE_FAULT_MEMORY: libc::c_ulong = 0xc040_aed5;
    let mut range = kvm_pre_fault_memory {
        gpa: pages.address().0,
        size: pages.bytes() as u64,
        ..Default::default()
    };
    while range.size > 0 {
        // SAFETY: `range` is readable and writable, and as long as the call's number says.
        let done =
            unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_PRE_FAULT_MEMORY as _, &raw mut range) };
        // A signal may come in between, and what is left stands in `range`.
        if done < 0 && kvm_ioctls::Error::last().errno() != libc::EINTR {
            return false;
        }
    }
    true
}
