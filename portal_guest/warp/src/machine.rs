//! What an agent is given: boot info, command line, clock, interrupt counts.
#![expect(
    unsafe_code,
    reason = "reads the kernel's info page and what the VMM left in low memory"
)]

use crate::kernel;
use crate::kernel::Info;
use crate::time::Clock;
use crate::time::Deadline;
use core::cell::Cell;
use core::ptr;
use portal_boot_abi::BootInfo;
use portal_boot_abi::BootInfoError;

/// This partition as its agent sees it. There is one; it is not `Sync`.
#[derive(Debug)]
pub struct Machine {
    boot: BootInfo,
    clock: Clock,
    /// TSC value that the timer is set to; 0 when it is not.
    armed: Cell<u64>,
    /// Timer interrupts when it was set.
    armed_at: Cell<u64>,
    /// First byte of RAM that nobody has taken yet.
    free: Cell<u64>,
}

/// First byte behind the image and its stack.
fn image_end() -> u64 {
    #[cfg(warp_image)]
    {
        unsafe extern "C" {
            /// From the linker script.
            static warp_image_end: u8;
        }
        (&raw const warp_image_end).expose_provenance() as u64
    }
    #[cfg(not(warp_image))]
    u64::MAX
}

const INFO: *const Info = ptr::with_exposed_provenance(kernel::INFO_VA as usize);

impl Machine {
    /// Reads and checks the boot info. Only for the start code: on a host there
    /// is no info page.
    #[cfg_attr(
        not(warp_image),
        expect(dead_code, reason = "called by the start code")
    )]
    pub(crate) fn new() -> Result<Self, BootInfoError> {
        // SAFETY: the kernel maps its info page there, readable, for good.
        let at = unsafe { ptr::read_volatile(&raw const (*INFO).boot_info) };
        let at = ptr::with_exposed_provenance::<BootInfo>(at as usize);
        // SAFETY: the kernel stored the address that it was entered with; the
        // page tables map all boot infos; the VMM is done writing it.
        let boot = unsafe { ptr::read_volatile(at) };
        boot.check()?;
        Ok(Self {
            boot,
            clock: Clock::new(boot.tsc_hz),
            armed: Cell::new(0),
            armed_at: Cell::new(0),
            free: Cell::new(image_end()),
        })
    }

    /// What the VMM told this vCPU.
    pub fn boot(&self) -> &BootInfo {
        &self.boot
    }

    /// The rate of the TSC.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The command line; empty when there is none or it is not UTF-8.
    pub fn command_line(&self) -> &'static str {
        let len = (self.boot.cmdline_len as usize).min(portal_boot_abi::CMDLINE_MAX);
        if self.boot.cmdline_gpa != portal_boot_abi::CMDLINE_GPA || len == 0 {
            return "";
        }
        let at = ptr::with_exposed_provenance::<u8>(self.boot.cmdline_gpa as usize);
        // SAFETY: the VMM put it there before the start and writes it no more;
        // the page is mapped read-only; the length is inside the page.
        let bytes = unsafe { core::slice::from_raw_parts(at, len) };
        core::str::from_utf8(bytes).unwrap_or("")
    }

    /// The value of `key=value` on the command line.
    pub fn argument(&self, key: &str) -> Option<&'static str> {
        self.command_line()
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// Id of the local APIC, the destination of this vCPU's MSIs.
    pub fn apic_id(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { ptr::read_volatile(&raw const (*INFO).apic_id) }
    }

    /// Interrupts taken on `vector` (0..64, relative to
    /// [`kernel::VECTOR_BASE`]); 0 for any other.
    #[inline]
    pub fn interrupts(&self, vector: u8) -> u64 {
        if usize::from(vector) >= kernel::VECTORS {
            return 0;
        }
        // SAFETY: as in `new`; the index was checked.
        unsafe {
            ptr::read_volatile(
                (&raw const (*INFO).counters)
                    .cast::<u64>()
                    .add(vector.into()),
            )
        }
    }

    /// As [`Machine::take`], but at most a quarter of the RAM that is left, and
    /// fewer values than asked for when that is less.
    pub fn take_at_most<T>(&self, len: usize, value: impl Fn() -> T) -> &'static mut [T] {
        let (_, end) = portal_boot_abi::low_ram(self.boot.ram_bytes);
        let left = end.saturating_sub(self.free.get()) / 4;
        let room = left / (size_of::<T>() as u64).max(1);
        let len = len.min(usize::try_from(room).unwrap_or(usize::MAX));
        self.take(len, |_| value()).unwrap_or_default()
    }

    /// Takes RAM for `len` values for good; `None` when less is left below 3 GiB.
    /// There is no way to give it back: take once, at the start.
    pub fn take<T>(
        &self,
        len: usize,
        mut value: impl FnMut(usize) -> T,
    ) -> Option<&'static mut [T]> {
        let (_, end) = portal_boot_abi::low_ram(self.boot.ram_bytes);
        let start = self
            .free
            .get()
            .checked_next_multiple_of(align_of::<T>() as u64)?;
        let bytes = (size_of::<T>() as u64).checked_mul(len as u64)?;
        let next = start.checked_add(bytes).filter(|next| *next <= end)?;
        self.free.set(next);
        let first = ptr::with_exposed_provenance_mut::<T>(start as usize);
        for index in 0..len {
            // SAFETY: RAM behind the image, mapped writable, given out once.
            unsafe { first.add(index).write(value(index)) };
        }
        // SAFETY: as above; every value was just written.
        Some(unsafe { core::slice::from_raw_parts_mut(first, len) })
    }

    /// Halts until the count of `vector` moves on from `seen` or the deadline
    /// comes. Returns the count; it equals `seen` when time ran out.
    pub fn wait(&self, vector: u8, seen: u64, deadline: Deadline) -> u64 {
        loop {
            let count = self.interrupts(vector);
            if count != seen || deadline.passed() {
                return count;
            }
            let timer = self.arm(deadline);
            crate::syscall::wait(vector, seen, timer);
        }
    }

    /// Halts until the deadline.
    pub fn sleep(&self, deadline: Deadline) {
        while !deadline.passed() {
            let timer = self.arm(deadline);
            // Any interrupt ends the halt; the loop minds the deadline.
            crate::syscall::wait(0, self.interrupts(0), timer);
        }
    }

    /// Makes sure that the timer wakes this vCPU at `deadline` or before. A
    /// timer that is set for an earlier moment stays: the loop in `wait` sets it
    /// again when it has fired. So a row of waits with one deadline costs one
    /// call. Returns the timer's count from before it can fire.
    fn arm(&self, deadline: Deadline) -> u64 {
        // SAFETY: as in `new`.
        let fired = unsafe { ptr::read_volatile(&raw const (*INFO).timer) };
        let running = self.armed.get() != 0 && fired == self.armed_at.get();
        if running && self.armed.get() <= deadline.tsc() {
            return fired;
        }
        // A deadline far away is waited for in steps, which a counting timer
        // can hold.
        let step = deadline.left().clamp(1, self.clock.ticks(1_000_000));
        let ns = self.clock.nanoseconds(step).clamp(1, u64::from(u32::MAX));
        let at = crate::time::now().saturating_add(step);
        self.armed.set(at);
        self.armed_at.set(fired);
        crate::syscall::timer(at, ns as u32);
        fired
    }
}
