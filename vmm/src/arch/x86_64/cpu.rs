//! A vCPU at power-on.

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use super::boot::SEGMENTS;
use super::cpuid;
use super::layout::{BOOT_PARAMS, BOOT_STACK, GDT, PAGE_TABLES};

/// Index of the code segment in the GDT.
const CODE: u16 = 2;
/// Index of the data segment in the GDT.
const DATA: u16 = 3;

const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
const RFLAGS_ALWAYS_ONE: u64 = 1 << 1;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Why a vCPU is not ready to run, or cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM refused a set of registers.
    #[error("KVM refused the {what} of vCPU {index}: {source}")]
    Refused {
        /// Which registers.
        what: &'static str,
        /// Whose.
        index: u8,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// KVM did not take one of the model-specific registers.
    #[error("KVM took {taken} of {wanted} model-specific registers of vCPU {index}")]
    Msrs {
        /// Whose.
        index: u8,
        /// How many it took.
        taken: usize,
        /// How many there are.
        wanted: usize,
    },
    /// KVM does not take what one of the model-specific registers was when it was saved.
    #[error("KVM did not take model-specific register {register:#x} of vCPU {index}")]
    Msr {
        /// Whose.
        index: u8,
        /// Which.
        register: u32,
    },
    /// More entries than KVM has room for.
    #[error("CPUID of {0} entries is more than KVM takes")]
    CpuidTooLong(usize),
}

/// What the vCPUs of a machine have in common.
#[derive(Debug)]
pub struct Processors {
    /// How many there are.
    pub vcpus: u8,
    /// What KVM can tell a guest.
    pub supported_cpuid: CpuId,
    /// KVM's local APIC has a deadline timer.
    pub tsc_deadline: bool,
}

impl Processors {
    /// What the first vCPU is told of itself, in short: the others differ from it by their number alone.
    /// A machine that was saved where this was another cannot go on here.
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for entry in self.cpuid(0) {
            let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = entry;
            for word in [function, index, flags, eax, ebx, ecx, edx] {
                hasher.update(&word.to_le_bytes());
            }
        }
        hasher.finalize()
    }

    fn cpuid(&self, index: u8) -> Vec<kvm_cpuid_entry2> {
        cpuid::of_vcpu(&self.supported_cpuid, index, self.vcpus, self.tsc_deadline)
    }

    /// Tells vCPU `index` what it is. Gives back what it was told.
    pub fn introduce(&self, vcpu: &VcpuFd, index: u8) -> Result<Vec<kvm_cpuid_entry2>, CpuError> {
        let entries = self.cpuid(index);
        let cpuid =
            CpuId::from_entries(&entries).map_err(|_| CpuError::CpuidTooLong(entries.len()))?;
        vcpu.set_cpuid2(&cpuid).map_err(|source| CpuError::Refused {
            what: "CPUID",
            index,
            source,
        })?;
        Ok(entries)
    }

    /// Readies vCPU `index`. The first is left at the kernel's `entry`, the others wait for it.
    pub fn power_on(&self, vcpu: &VcpuFd, index: u8, entry: u64) -> Result<(), CpuError> {
        let refused = |what| move |source| CpuError::Refused { what, index, source };
        let entries = self.introduce(vcpu, index)?;
        vcpu.set_xcrs(&extended_state(&entries)).map_err(refused("extended state"))?;
        if index != 0 {
            return Ok(());
        }
        self.set_msrs(vcpu, index)?;
        let mut sregs = vcpu.get_sregs().map_err(refused("segments"))?;
        sregs.gdt.base = GDT;
        sregs.gdt.limit = (size_of_val(&SEGMENTS) - 1) as u16;
        sregs.idt.base = 0;
        sregs.idt.limit = 0;
        sregs.cs = segment(CODE);
        [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] = [segment(DATA); 5];
        sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
        sregs.cr3 = PAGE_TABLES;
        sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
        sregs.efer = EFER_LONG_MODE;
        vcpu.set_sregs(&sregs).map_err(refused("segments"))?;
        vcpu.set_regs(&kvm_regs {
            rip: entry,
            rsi: BOOT_PARAMS,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            rflags: RFLAGS_ALWAYS_ONE,
            ..Default::default()
        })
        .map_err(refused("registers"))
    }

    /// Linux copies these to the other processors by itself.
    fn set_msrs(&self, vcpu: &VcpuFd, index: u8) -> Result<(), CpuError> {
        let entries = [
            (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
            (MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLED_WRITE_BACK),
        ]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let wanted = entries.len();
        let short = move |taken| CpuError::Msrs { index, taken, wanted };
        let msrs = Msrs::from_entries(&entries).map_err(|_| short(0))?;
        match vcpu.set_msrs(&msrs) {
            Ok(taken) if taken == wanted => Ok(()),
            Ok(taken) => Err(short(taken)),
            Err(source) => {
                Err(CpuError::Refused { what: "model-specific registers", index, source })
            }
        }
    }
}

/// Every part of the extended state on, as a kernel sets it. A KVM inside QEMU's emulation does not
/// notice when the guest does so itself, and would go on to load less.
fn extended_state(cpuid: &[kvm_cpuid_entry2]) -> kvm_xcrs {
    let parts = cpuid.iter().find(|entry| entry.function == 0xd && entry.index == 0);
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    // Bit 0, the x87, is always on (Intel SDM volume 1, 13.3).
    xcrs.xcrs[0].value =
        parts.map_or(0, |parts| u64::from(parts.edx) << 32 | u64::from(parts.eax)) | 1;
    xcrs
}

/// What a processor would load from the descriptor at `index` of the GDT.
fn segment(index: u16) -> kvm_segment {
    let descriptor = SEGMENTS[usize::from(index)];
    let bits = |from: u32, count: u32| (descriptor >> from & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: index * 8,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..Default::default()
    }
}
