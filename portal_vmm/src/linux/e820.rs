//! The memory map that the kernel reads from its boot parameters (ACPI 6.5, 15.1:
//! address range types).
//!
//! RAM lies under the BIOS area too, but the kernel looks for tables there, so
//! that area is told as reserved; so is the ECAM, without which the kernel would
//! not use it.

use crate::boot::GuestRam;
use linux_loader::loader::bootparam::boot_e820_entry;
use linux_loader::loader::bootparam::boot_params;
use portal_boot_abi as abi;

/// Usable memory.
const RAM: u32 = 1;
/// Not to be used for anything.
const RESERVED: u32 = 2;
/// End of conventional memory: one KiB below 640 KiB.
const LOW_END: u64 = 0x9_FC00;

/// Writes the map into the boot parameters.
pub(super) fn describe(ram: &GuestRam, params: &mut boot_params) {
    let mut entries = vec![
        (0, LOW_END, RAM),
        (LOW_END, super::HIGH_MEMORY_GPA - LOW_END, RESERVED),
        (abi::ECAM_GPA, abi::ECAM_BYTES, RESERVED),
    ];
    for (start, range) in ram.ranges() {
        let end = start.saturating_add(range.len());
        let start = start.max(super::HIGH_MEMORY_GPA);
        if end > start {
            entries.push((start, end - start, RAM));
        }
    }
    entries.sort_unstable();
    params.e820_entries = 0;
    for (to, (addr, size, kind)) in params.e820_table.iter_mut().zip(entries) {
        *to = boot_e820_entry {
            addr,
            size,
            r#type: kind,
        };
        params.e820_entries += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use crate::memory::RamBacking;

    #[test]
    fn every_byte_of_ram_above_the_bios_is_told_and_nothing_twice() {
        for bytes in [64 << 20, 5 << 30] {
            let memory = HostMemory::new("test", bytes, RamBacking::Anonymous).unwrap();
            let ram = GuestRam::new(&memory.range()).unwrap();
            let mut params = boot_params::default();
            describe(&ram, &mut params);
            let table = params.e820_table;
            let mut end = 0;
            let mut usable = 0;
            for entry in table.iter().take(params.e820_entries.into()) {
                let (addr, size, kind) = (entry.addr, entry.size, entry.r#type);
                assert!(addr >= end, "{addr:#x} after {end:#x}");
                end = addr + size;
                usable += if kind == RAM { size } else { 0 };
            }
            assert_eq!(usable, bytes - (super::super::HIGH_MEMORY_GPA - LOW_END));
        }
    }
}
