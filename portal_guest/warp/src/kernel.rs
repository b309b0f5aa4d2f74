//! The ring-0 half: assembly, and the page through which ring 3 sees its counts.
//!
//! About sixty instructions set up the machine, three serve an interrupt, and
//! fourteen halt until one comes: on a host whose ring 0 is emulated each costs
//! 0.4 µs, so everything that can be is a table laid out at link time. Sources:
//! Intel SDM volume 3, chapters 3 to 7 (descriptors, interrupts, tasks), 4
//! (paging), 11 (APIC); `portal_boot_abi` for the entry.
//!
//! Trust: ring 3 is the agent that this kernel was linked with, so the calls
//! guard against mistakes rather than malice. The VMM owns the partition.
//!
//! Left out: more than one running vCPU (the others halt), tasks, a heap.
#![cfg_attr(
    warp_image,
    expect(unsafe_code, reason = "a kernel is assembled into the image")
)]

/// Address at which ring 3 reads [`Info`].
pub const INFO_VA: u64 = 0xF_0000;
/// Vector of the first device interrupt; vector n of a device is `VECTOR_BASE + n`.
pub const VECTOR_BASE: u32 = 0x40;
/// Device interrupts that are told apart.
pub const VECTORS: usize = 64;
/// Exit code of a partition that took an exception: this, or'ed with its vector.
pub const EXIT_EXCEPTION: u32 = 0xE000_0000;
/// Exit code of an agent that panicked.
pub const EXIT_PANIC: u32 = 0xE000_0100;
/// Exit code when `BootInfo` is of a kind that this image does not know.
pub const EXIT_BOOT_INFO: u32 = 0xE000_0101;
/// Most bytes that one print call takes.
pub const PRINT_MAX: usize = 4096;

/// Wait for an interrupt: counter index, value seen, timer count seen.
pub const SYS_WAIT: u32 = 0;
/// Set the timer: TSC deadline (0: none), nanoseconds (0: none).
pub const SYS_TIMER: u32 = 1;
/// Print: address, length in bytes.
pub const SYS_PRINT: u32 = 2;
/// Stop the partition: exit code.
pub const SYS_EXIT: u32 = 3;

/// What the kernel lets ring 3 read, at [`INFO_VA`]. The kernel writes, ring 3
/// cannot.
#[repr(C)]
#[derive(Debug)]
pub struct Info {
    /// +0: interrupts taken, per vector from [`VECTOR_BASE`].
    pub counters: [u64; VECTORS],
    /// +0x200: timer interrupts.
    pub timer: u64,
    /// +0x208: interrupts on any other vector.
    pub other: u64,
    /// +0x210: address of [`portal_boot_abi::BootInfo`].
    pub boot_info: u64,
    /// +0x218: id of this vCPU's local APIC, the destination of its MSIs.
    pub apic_id: u32,
    /// +0x21C: 1 when the local APIC is in x2APIC mode.
    pub x2apic: u32,
    /// +0x220: 1 when the timer takes a TSC value.
    pub tsc_deadline: u32,
}

const _: () = {
    assert!(core::mem::offset_of!(Info, timer) == 0x200);
    assert!(core::mem::offset_of!(Info, boot_info) == 0x210);
    assert!(core::mem::offset_of!(Info, apic_id) == 0x218);
    assert!(core::mem::offset_of!(Info, tsc_deadline) == 0x220);
};

#[cfg(warp_image)]
core::arch::global_asm!(
    include_str!("../kernel/entry.s"),
    include_str!("../kernel/syscall.s"),
    include_str!("../kernel/interrupt.s"),
    include_str!("../kernel/exception.s"),
    include_str!("../kernel/tables.s"),
    ".text",
    BOOT_VCPU_INDEX = const core::mem::offset_of!(portal_boot_abi::BootInfo, vcpu_index),
    CONSOLE_PORT = const portal_boot_abi::CONSOLE_PORT,
    EXIT_PORT = const portal_boot_abi::EXIT_PORT,
    LAPIC_GPA = const portal_boot_abi::LAPIC_GPA,
    SELECTOR_USER_CODE = const portal_boot_abi::SELECTOR_USER_CODE,
    SELECTOR_USER_DATA = const portal_boot_abi::SELECTOR_USER_DATA,
    SELECTOR_TSS = const 0x28,
    LAPIC_VA = const INFO_VA + 0x1000,
    VECTOR_TIMER = const VECTOR_BASE as usize + VECTORS + 1,
    EXIT_EXCEPTION = const EXIT_EXCEPTION,
    SYS_TIMER = const SYS_TIMER,
    SYS_PRINT = const SYS_PRINT,
    SYS_EXIT = const SYS_EXIT,
    PRINT_MAX = const PRINT_MAX,
    USER_BASE = const 0x11_0000,
    USER_END = const portal_boot_abi::LOW_RAM_MAX,
);
