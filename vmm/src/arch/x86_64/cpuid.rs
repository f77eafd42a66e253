//! What CPUID says in the guest: what KVM supports, with a topology that is true for the VM.
//!
//! Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E. Every vCPU is a core of its own in one
//! package.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HYPERTHREADING: u32 = 1 << 28;

const LEVEL_NONE: u32 = 0;
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The CPUID of vCPU `index` of `vcpus`, made from what KVM supports.
pub(super) fn of_vcpu(
    supported: &CpuId,
    index: u8,
    vcpus: u8,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let id = u32::from(index);
    let count = u32::from(vcpus);
    let id_bits = count.next_power_of_two().trailing_zeros();
    let mut entries = Vec::with_capacity(supported.as_slice().len() + 3);
    for mut entry in supported.as_slice().iter().copied() {
        match entry.function {
            0x1 => {
                // CLFLUSH line size stays; logical processors and identifier are ours.
                entry.ebx = entry.ebx & 0xffff | (1 << id_bits) << 16 | id << 24;
                entry.ecx |= HYPERVISOR;
                set(&mut entry.ecx, TSC_DEADLINE, tsc_deadline);
                set(&mut entry.edx, HYPERTHREADING, vcpus > 1);
            }
            // Caches: each core has its own, but the last level, which all share.
            0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 0b111;
                let sharers = if level >= 3 { count } else { 1 };
                entry.eax = entry.eax & 0x3fff | (sharers - 1) << 14;
                if entry.function == 0x4 {
                    entry.eax |= ((1 << id_bits) - 1) << 26;
                }
            }
            // Performance counters: not virtualised for containers, and slow to set up.
            0xa => [entry.eax, entry.ebx, entry.ecx, entry.edx] = [0; 4],
            // Topology: written below.
            0xb | 0x1f => continue,
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | (count - 1),
            0x8000_001e => [entry.eax, entry.ebx, entry.ecx] = [id, id, 0],
            _ => {}
        }
        entries.push(entry);
    }
    for (index, shift, processors, level) in
        [(0, 0, 1, LEVEL_THREAD), (1, id_bits, count, LEVEL_CORE), (2, 0, 0, LEVEL_NONE)]
    {
        entries.push(kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: level << 8 | index,
            edx: id,
            ..Default::default()
        });
    }
    entries
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn the_third_of_five_vcpus_finds_itself_in_the_topology() {
        let host = CpuId::from_entries(&[
            leaf(0x1, 0, [0x806f8, 0x0720_0800, TSC_DEADLINE, HYPERTHREADING]),
            leaf(0x4, 0, [0x1c00_4121, 1, 2, 3]),
            leaf(0x4, 3, [0x1c03_c163, 1, 2, 3]),
            leaf(0xa, 0, [0x0730_0404, 0, 0, 0x603]),
            leaf(0xb, 0, [1, 2, 0x100, 7]),
            leaf(0x8000_0008, 0, [0x3039, 0, 0x700f, 0]),
        ])
        .unwrap();
        let got = of_vcpu(&host, 2, 5, false);
        let want = [
            leaf(0x1, 0, [0x806f8, 0x0208_0800, HYPERVISOR, HYPERTHREADING]),
            leaf(0x4, 0, [0x1c00_0121, 1, 2, 3]),
            leaf(0x4, 3, [0x1c01_0163, 1, 2, 3]),
            leaf(0xa, 0, [0, 0, 0, 0]),
            leaf(0x8000_0008, 0, [0x3039, 0, 0x3004, 0]),
            kvm_cpuid_entry2 { flags: 1, ..leaf(0xb, 0, [0, 1, 0x100, 2]) },
            kvm_cpuid_entry2 { flags: 1, ..leaf(0xb, 1, [3, 5, 0x201, 2]) },
            kvm_cpuid_entry2 { flags: 1, ..leaf(0xb, 2, [0, 0, 0x002, 2]) },
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn a_lone_vcpu_has_a_deadline_timer_where_kvm_has_one() {
        let host =
            CpuId::from_entries(&[leaf(0x1, 0, [0, 0xffff_0000, 0, HYPERTHREADING])]).unwrap();
        let got = of_vcpu(&host, 0, 1, true);
        assert_eq!(got[0], leaf(0x1, 0, [0, 0x0001_0000, HYPERVISOR | TSC_DEADLINE, 0]));
    }
}
