//! What a vCPU's CPUID says: the host's, as KVM passes it on, with one package of as
//! many cores as the partition has vCPUs, one thread each (Intel SDM 2A, `CPUID`;
//! AMD APM 3, appendix E).
//!
//! Guests that look at different leaves have to find the same numbers, or Linux
//! tells of a firmware bug and puts every vCPU into a package of its own.

use crate::VmmError;
use kvm_bindings::CpuId;
use kvm_bindings::kvm_cpuid_entry2;

/// Leaf 1, ECX: the local APIC's timer fires at a TSC value; a hypervisor is there.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the number of logical processors in EBX counts.
const HTT: u32 = 1 << 28;
/// Kinds of level in leaf Bh.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The host's entries with the APIC id `index` and `count` vCPUs in the package.
///
/// # Errors
/// [`VmmError::Hypervisor`] when there are more entries than KVM takes.
pub(super) fn of_vcpu(host: &CpuId, index: u32, count: u32) -> Result<CpuId, VmmError> {
    // Bits of the APIC id that number the cores.
    let bits = count.next_power_of_two().ilog2();
    let levels = |entry: &kvm_cpuid_entry2| matches!(entry.function, 0xB | 0x1F);
    let mut entries = host.as_slice().to_vec();
    let topology = entries.iter().find(|entry| levels(entry)).copied();
    entries.retain(|entry| !levels(entry));
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = (entry.ebx & 0x0000_FFFF) | (index & 0xFF) << 24;
                entry.ebx |= (count & 0xFF) << 16;
                if count > 1 {
                    entry.edx |= HTT;
                } else {
                    entry.edx &= !HTT;
                }
                // KVM has this timer wherever it has local APICs, and does not say so.
                entry.ecx |= HYPERVISOR | TSC_DEADLINE;
            }
            // Caches: no thread shares with another core; cores in the package.
            4 if entry.eax & 0x1F != 0 => {
                entry.eax &= 0x0000_3FFF;
                entry.eax |= ((1 << bits) - 1) << 26;
            }
            0x8000_0008 => {
                entry.ecx = (entry.ecx & !0xF0FF) | (count - 1) & 0xFF | bits << 12;
            }
            // Caches on AMD: as above.
            0x8000_001D => entry.eax &= 0x0000_3FFF,
            // APIC id; core id, one thread a core; one node.
            0x8000_001E => {
                entry.eax = index;
                entry.ebx = index & 0xFF;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    if let Some(from) = topology {
        for (level, (kind, shift, logical)) in
            (0..).zip([(LEVEL_THREAD, 0, 1), (LEVEL_CORE, bits, count), (0, 0, 0)])
        {
            entries.push(kvm_cpuid_entry2 {
                function: 0xB,
                index: level,
                eax: shift,
                ebx: logical,
                ecx: kind << 8 | level,
                edx: index,
                ..from
            });
        }
    }
    CpuId::from_entries(&entries).map_err(|_| VmmError::Hypervisor {
        call: "KVM_SET_CPUID2",
        source: std::io::Error::from(std::io::ErrorKind::OutOfMemory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn every_leaf_says_the_same_number_of_cores() {
        let host = [1, 4, 0xB, 0x8000_0008, 0x8000_001E].map(|function| leaf(function, 0));
        let host = CpuId::from_entries(&host).unwrap();
        for (index, count, bits) in [(0, 1, 0), (1, 2, 1), (2, 3, 2), (63, 64, 6)] {
            let own = of_vcpu(&host, index, count).unwrap();
            let find = |function, index| {
                let mut all = own.as_slice().iter();
                *all.find(|e| (e.function, e.index) == (function, index))
                    .unwrap()
            };
            assert_eq!(find(1, 0).ebx >> 24, index);
            assert_eq!(find(1, 0).ebx >> 16 & 0xFF, count);
            assert_eq!(find(1, 0).edx & HTT != 0, count > 1);
            assert_eq!(find(4, 0).eax >> 26, (1 << bits) - 1);
            assert_eq!(find(4, 0).eax >> 14 & 0xFFF, 0);
            assert_eq!(find(0x8000_0008, 0).ecx & 0xFF, count - 1);
            assert_eq!(find(0x8000_0008, 0).ecx >> 12 & 0xF, bits);
            assert_eq!(find(0x8000_001E, 0).eax, index);
            let (threads, cores) = (find(0xB, 0), find(0xB, 1));
            assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
            assert_eq!((cores.eax, cores.ebx, cores.ecx), (bits, count, 0x201));
            assert_eq!((find(0xB, 2).ebx, find(0xB, 2).edx), (0, index));
        }
    }
}
