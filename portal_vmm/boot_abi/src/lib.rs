//! What `portal_vmm` tells a flat 64-bit image at its entry point: where things
//! lie in guest physical memory, which ports mean what, and the [`BootInfo`]
//! that every vCPU gets a pointer to.
//!
//! The interface is Portal's own; no outside specification governs it. Both
//! sides are built from this crate, and [`BootInfo::check`] lets a guest refuse
//! a VMM of another version. The guest trusts its VMM: a partition can never
//! defend itself against the process that owns its memory.
//!
//! # State at entry (every vCPU, all started together)
//!
//! | what | value |
//! |---|---|
//! | mode | 64-bit, ring 0, interrupts off, `CR0` = PE, MP, ET, NE, WP, PG |
//! | `RIP` | [`IMAGE_GPA`], the first byte of the image |
//! | `RDI` | address of this vCPU's own [`BootInfo`] |
//! | `RSP` | top of this vCPU's boot stack ([`boot_stack_top`]), 16-byte aligned |
//! | other general registers | 0 |
//! | `CR4` | PAE, OSFXSR, OSXMMEXCPT, and OSXSAVE where the host has it |
//! | `XCR0` | [`BootInfo::xcr0`]: x87, SSE and what the host has of AVX and AVX-512 |
//! | GDT | at [`GDT_GPA`], selectors below; no IDT (limit 0), no TSS, no LDT |
//! | paging | identity, 2 MiB or 1 GiB pages, writable and open to ring 3, over RAM, ECAM, the 32-bit BAR window, the APICs, and each GiB of the 64-bit window that holds a region or a BAR |
//! | local APIC | on in xAPIC mode at [`LAPIC_GPA`], its software-enable bit (SVR) clear; x2APIC is offered by CPUID |
//! | PCI | a host bridge at 00:00.0, devices from slot 1 on; BARs assigned, memory decoding and bus mastering on, MSI-X off; the interrupt line register holds the I/O APIC input of INTx (16 + slot mod 8) |
//!
//! All vCPUs start at the same entry and tell themselves apart by
//! [`BootInfo::vcpu_index`]; there is no INIT/SIPI dance to do.
//!
//! Left out: ACPI tables, a memory map (RAM is one or two ranges, see
//! [`low_ram`] and [`high_ram`]) and any loading of ELF files.
#![no_std]

mod info;
mod map;

pub use info::BootInfo;
pub use info::BootInfoError;
pub use info::FLAG_TSC_IS_HOST;
pub use info::FLAG_XSAVE;
pub use info::MAGIC;
pub use info::MAX_REGIONS;
pub use info::REGION_FLAT;
pub use info::REGION_SECTIONED;
pub use info::RegionInfo;
pub use info::VERSION;
pub use map::*;
