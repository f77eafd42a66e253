//! A vCPU and the chips around it, to be saved and to go on from.
//!
//! What KVM gives is what KVM is given back, whole: none of it is understood here but the order, which
//! is the one that `KVM_SET_*` need (Linux, `Documentation/virt/kvm/api.rst`). CPUID is not among it: it
//! is made again, and the machine's section says what it has to be.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::cpu::CpuError;
use crate::kvm::{KvmError, Vm};
use crate::section::State;

/// The most registers one call carries (`KVM_MAX_MSR_ENTRIES`).
const MSRS_AT_ONCE: usize = 256;

/// What a vCPU knows.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    registers: kvm_regs,
    segments: kvm_sregs,
    extended_controls: kvm_xcrs,
    extended: kvm_xsave,
    debug: kvm_debugregs,
    local_apic: kvm_lapic_state,
    /// Among them the time-stamp counter, its deadline, and where the guest wants KVM's clock.
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    running: kvm_mp_state,
}

impl State for VcpuState {
    const KIND: &'static str = "x86-vcpu";
    const VERSION: u16 = 1;
}

impl VcpuState {
    /// What vCPU `index` knows, which has to stand still. `msrs` are the registers that this KVM saves.
    pub fn save(vcpu: &VcpuFd, index: u8, msrs: &[u32]) -> Result<Self, CpuError> {
        let refused = |what| move |source| CpuError::Refused { what, index, source };
        Ok(Self {
            // Before the rest: taking it lets a start-up signal through that waits.
            running: vcpu.get_mp_state().map_err(refused("running state"))?,
            registers: vcpu.get_regs().map_err(refused("registers"))?,
            segments: vcpu.get_sregs().map_err(refused("segments"))?,
            extended_controls: vcpu.get_xcrs().map_err(refused("extended control"))?,
            extended: vcpu.get_xsave().map_err(refused("extended state"))?,
            debug: vcpu.get_debug_regs().map_err(refused("debug registers"))?,
            local_apic: vcpu.get_lapic().map_err(refused("local APIC"))?,
            msrs: get_msrs(vcpu, index, msrs)?,
            events: vcpu.get_vcpu_events().map_err(refused("pending events"))?,
        })
    }

    /// Lets vCPU `index` go on from here. It has its CPUID.
    pub fn restore(&self, vcpu: &VcpuFd, index: u8) -> Result<(), CpuError> {
        let refused = |what| move |source| CpuError::Refused { what, index, source };
        vcpu.set_mp_state(self.running).map_err(refused("running state"))?;
        vcpu.set_regs(&self.registers).map_err(refused("registers"))?;
        // Says whether there is a local APIC, and so stands before it.
        vcpu.set_sregs(&self.segments).map_err(refused("segments"))?;
        vcpu.set_xcrs(&self.extended_controls).map_err(refused("extended control"))?;
        // SAFETY: the state is as long as this KVM reads, unless somebody has asked it, by `arch_prctl`,
        // for parts that come at will; nobody here has.
        unsafe { vcpu.set_xsave(&self.extended) }.map_err(refused("extended state"))?;
        vcpu.set_debug_regs(&self.debug).map_err(refused("debug registers"))?;
        vcpu.set_lapic(&self.local_apic).map_err(refused("local APIC"))?;
        // Behind the local APIC, which would stop the timer that a deadline starts.
        set_msrs(vcpu, index, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(refused("pending events"))
    }
}

/// Reads `wanted`. Those are all that KVM knows of: what this processor does not have is left out.
fn get_msrs(vcpu: &VcpuFd, index: u8, wanted: &[u32]) -> Result<Vec<kvm_msr_entry>, CpuError> {
    let mut entries = Vec::with_capacity(wanted.len());
    let mut left = wanted;
    while !left.is_empty() {
        let asked: Vec<_> = (left.iter().take(MSRS_AT_ONCE))
            .map(|&index| kvm_msr_entry { index, ..Default::default() })
            .collect();
        let mut msrs = list(index, &asked)?;
        let got = vcpu.get_msrs(&mut msrs).map_err(|source| CpuError::Refused {
            what: "model-specific registers",
            index,
            source,
        })?;
        entries.extend_from_slice(msrs.as_slice().get(..got).unwrap_or_default());
        // KVM stops in front of the first that it does not give.
        let passed = if got < asked.len() { got + 1 } else { got };
        left = left.get(passed..).unwrap_or_default();
    }
    Ok(entries)
}

/// Writes `entries`. One that cannot be written is passed over if it is what it should be: some of what
/// KVM saves can only be read.
fn set_msrs(vcpu: &VcpuFd, index: u8, entries: &[kvm_msr_entry]) -> Result<(), CpuError> {
    let mut left = entries;
    while !left.is_empty() {
        let now = left.len().min(MSRS_AT_ONCE);
        let refused =
            |source| CpuError::Refused { what: "model-specific registers", index, source };
        let taken = vcpu.set_msrs(&list(index, &left[..now])?).map_err(refused)?;
        let mut passed = taken;
        if let Some(stuck) = left[..now].get(taken) {
            let is = get_msrs(vcpu, index, &[stuck.index])?;
            if is.first().is_none_or(|is| is.data != stuck.data) {
                return Err(CpuError::Msr { index, register: stuck.index });
            }
            passed += 1;
        }
        left = &left[passed..];
    }
    Ok(())
}

fn list(index: u8, entries: &[kvm_msr_entry]) -> Result<Msrs, CpuError> {
    let wanted = entries.len();
    Msrs::from_entries(entries).map_err(|_| CpuError::Msrs { index, taken: 0, wanted })
}

/// What the chips know that all vCPUs share: both PICs, the I/O APIC, and KVM's clock.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChipsState {
    controllers: [kvm_irqchip; 3],
    clock: kvm_clock_data,
}

impl State for ChipsState {
    const KIND: &'static str = "x86-chips";
    const VERSION: u16 = 1;
}

impl ChipsState {
    /// What they know while every vCPU stands still.
    pub fn save(vm: &Vm) -> Result<Self, KvmError> {
        let clock = vm.clock()?;
        Ok(Self {
            controllers: [
                vm.interrupt_controller(KVM_IRQCHIP_PIC_MASTER)?,
                vm.interrupt_controller(KVM_IRQCHIP_PIC_SLAVE)?,
                vm.interrupt_controller(KVM_IRQCHIP_IOAPIC)?,
            ],
            // The time alone: at which moment of the host's it was read is of no use to another VM.
            clock: kvm_clock_data { clock: clock.clock, ..Default::default() },
        })
    }

    /// Lets them go on from here, once there are vCPUs and before anybody raises an interrupt.
    pub fn restore(&self, vm: &Vm) -> Result<(), KvmError> {
        self.controllers.iter().try_for_each(|state| vm.set_interrupt_controller(state))?;
        vm.set_clock(&self.clock)
    }
}
