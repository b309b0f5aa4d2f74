//! Calls into the kernel. Numbers and meaning: [`crate::kernel`].
#![expect(
    unsafe_code,
    reason = "a software interrupt is the way into the kernel"
)]

use crate::kernel;
use core::arch::asm;

/// One system call. Loses RAX, RCX, RDX, RSI, RDI.
#[inline(always)]
fn call(number: u32, a: u64, b: u64, c: u64) {
    // SAFETY: the kernel's contract for every number (kernel/syscall.s): it
    // reads at most the bytes given to print, changes no memory of ring 3, and
    // returns with the registers named here lost. Ring 0 has stacks of its own;
    // the call itself pushes, so `nostack` is not claimed.
    unsafe {
        asm!(
            "call warp_gate",
            inout("rax") u64::from(number) => _,
            inout("rdi") a => _,
            inout("rsi") b => _,
            inout("rdx") c => _,
            lateout("rcx") _,
        );
    }
}

/// Halts until an interrupt comes, unless the count of `vector` (0..64, relative
/// to [`kernel::VECTOR_BASE`]) has already moved on from `seen`, or that of the
/// timer from `timer`.
#[inline]
pub fn wait(vector: u8, seen: u64, timer: u64) {
    call(kernel::SYS_WAIT, u64::from(vector), seen, timer);
}

/// Sets the one timer: it fires at `tsc`, or after `nanoseconds` where the
/// hardware knows no TSC deadline. Zeros stop it.
pub fn timer(tsc: u64, nanoseconds: u32) {
    call(kernel::SYS_TIMER, tsc, u64::from(nanoseconds), 0);
}

/// Prints bytes on the console, in calls of at most [`kernel::PRINT_MAX`].
pub fn print(bytes: &[u8]) {
    for part in bytes.chunks(kernel::PRINT_MAX) {
        call(
            kernel::SYS_PRINT,
            part.as_ptr().expose_provenance() as u64,
            part.len() as u64,
            0,
        );
    }
}

/// Ends the partition with `code`.
pub fn exit(code: u32) -> ! {
    loop {
        call(kernel::SYS_EXIT, u64::from(code), 0, 0);
    }
}
