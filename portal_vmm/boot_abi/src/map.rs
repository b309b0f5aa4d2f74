//! The guest physical memory map and the I/O ports of a flat-image partition.
//!
//! | guest physical address | what |
//! |---|---|
//! | 0 | unused page, RAM |
//! | 0x1000 | GDT |
//! | 0x2000 + n * 0x200 | `BootInfo` of vCPU n, n < 64 |
//! | 0xA000..0xB000 | command line and its NUL |
//! | 0x10000..0x80000 | page tables made by the VMM |
//! | 0x80000 + n * 0x1000 | boot stack of vCPU n, 4 KiB, grows down |
//! | 0x10_0000 | the image, then free RAM |
//! | 0xC000_0000..0xE000_0000 | 32-bit BAR window (never RAM) |
//! | 0xE000_0000..0xE010_0000 | ECAM of bus 0 |
//! | 0xFEC0_0000, 0xFEE0_0000 | I/O APIC, local APIC |
//! | 0x1_0000_0000.. | RAM beyond the first 3 GiB |
//! | 0x10_0000_0000..0x20_0000_0000 | regions at fixed addresses and 64-bit BARs |

/// Where the VMM puts the image and where vCPUs start.
pub const IMAGE_GPA: u64 = 0x10_0000;
/// The VMM's GDT; see the `SELECTOR_*` constants.
pub const GDT_GPA: u64 = 0x1000;
/// `BootInfo` of vCPU 0.
pub const BOOT_INFO_GPA: u64 = 0x2000;
/// Distance in bytes between the `BootInfo`s of two neighbouring vCPUs.
pub const BOOT_INFO_STRIDE: u64 = 0x200;
/// The command line.
pub const CMDLINE_GPA: u64 = 0xA000;
/// Longest command line in bytes, without its NUL.
pub const CMDLINE_MAX: usize = 0xFFF;
/// The page-table root (`CR3`) at entry.
pub const PAGE_TABLES_GPA: u64 = 0x1_0000;
/// End (exclusive) of the VMM's page tables.
pub const PAGE_TABLES_END: u64 = 0x8_0000;
/// Lowest byte of the boot stack of vCPU 0.
pub const BOOT_STACKS_GPA: u64 = 0x8_0000;
/// Bytes of one boot stack.
pub const BOOT_STACK_BYTES: u64 = 0x1000;
/// Most vCPUs that the map has room for.
pub const MAX_VCPUS: u32 = 64;
/// RAM that lies below 4 GiB at most; the rest starts at [`HIGH_RAM_GPA`].
pub const LOW_RAM_MAX: u64 = 0xC000_0000;
/// Where RAM goes on when there is more than [`LOW_RAM_MAX`].
pub const HIGH_RAM_GPA: u64 = 0x1_0000_0000;
/// First byte of the window for 32-bit BARs.
pub const BAR32_GPA: u64 = 0xC000_0000;
/// End (exclusive) of the window for 32-bit BARs.
pub const BAR32_END: u64 = 0xE000_0000;
/// ECAM of bus 0: function f of device d has its 4 KiB at `+ d << 15 | f << 12`.
pub const ECAM_GPA: u64 = 0xE000_0000;
/// Bytes of the ECAM: one bus.
pub const ECAM_BYTES: u64 = 0x10_0000;
/// The I/O APIC's registers.
pub const IOAPIC_GPA: u64 = 0xFEC0_0000;
/// The local APIC's registers, and the address that MSIs are written to.
pub const LAPIC_GPA: u64 = 0xFEE0_0000;
/// First byte of the window for fixed regions and 64-bit BARs.
pub const WINDOW64_GPA: u64 = 0x10_0000_0000;
/// End (exclusive) of that window.
pub const WINDOW64_END: u64 = 0x20_0000_0000;

/// First port of the 16550 serial console (eight ports, byte accesses).
pub const CONSOLE_PORT: u16 = 0x3F8;
/// A 32-bit `out` here stops the partition with the value as its exit code.
pub const EXIT_PORT: u16 = 0xF4;

/// Ring-0 64-bit code segment.
pub const SELECTOR_KERNEL_CODE: u16 = 0x08;
/// Ring-0 data segment; loaded in SS, DS and ES at entry.
pub const SELECTOR_KERNEL_DATA: u16 = 0x10;
/// Ring-3 data segment, with its RPL.
pub const SELECTOR_USER_DATA: u16 = 0x18 | 3;
/// Ring-3 64-bit code segment, with its RPL.
pub const SELECTOR_USER_CODE: u16 = 0x20 | 3;

/// Address of the `BootInfo` of vCPU `index`; `None` from [`MAX_VCPUS`] on.
pub const fn boot_info_gpa(index: u32) -> Option<u64> {
    if index < MAX_VCPUS {
        Some(BOOT_INFO_GPA + index as u64 * BOOT_INFO_STRIDE)
    } else {
        None
    }
}

/// Initial `RSP` of vCPU `index`; `None` from [`MAX_VCPUS`] on.
pub const fn boot_stack_top(index: u32) -> Option<u64> {
    if index < MAX_VCPUS {
        Some(BOOT_STACKS_GPA + (index as u64 + 1) * BOOT_STACK_BYTES)
    } else {
        None
    }
}

/// `(start, length)` in bytes of the RAM below 4 GiB.
pub const fn low_ram(ram_bytes: u64) -> (u64, u64) {
    let len = if ram_bytes < LOW_RAM_MAX {
        ram_bytes
    } else {
        LOW_RAM_MAX
    };
    (0, len)
}

/// `(start, length)` in bytes of the RAM above 4 GiB, if there is any.
pub const fn high_ram(ram_bytes: u64) -> Option<(u64, u64)> {
    if ram_bytes > LOW_RAM_MAX {
        Some((HIGH_RAM_GPA, ram_bytes - LOW_RAM_MAX))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootInfo;

    #[test]
    fn boot_tables_do_not_overlap() {
        let last = boot_info_gpa(MAX_VCPUS - 1).unwrap() + BOOT_INFO_STRIDE;
        assert!(size_of::<BootInfo>() as u64 <= BOOT_INFO_STRIDE);
        const { assert!(GDT_GPA + 0x1000 <= BOOT_INFO_GPA) };
        assert!(last <= CMDLINE_GPA);
        const { assert!(CMDLINE_GPA + (CMDLINE_MAX as u64) < PAGE_TABLES_GPA) };
        const { assert!(PAGE_TABLES_END <= BOOT_STACKS_GPA) };
        assert!(boot_stack_top(MAX_VCPUS - 1).unwrap() <= IMAGE_GPA);
        assert_eq!(boot_info_gpa(MAX_VCPUS), None);
        assert_eq!(boot_stack_top(MAX_VCPUS), None);
    }

    #[test]
    fn ram_splits_at_three_gib() {
        assert_eq!(low_ram(1 << 20), (0, 1 << 20));
        assert_eq!(high_ram(LOW_RAM_MAX), None);
        assert_eq!(low_ram(5 << 30), (0, 3 << 30));
        assert_eq!(high_ram(5 << 30), Some((4 << 30, 2 << 30)));
    }
}
