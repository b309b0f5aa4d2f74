//! [`SharedMem`] over an address range: a mapping, a guest's view of a BAR.
#![expect(
    unsafe_code,
    reason = "the one place where a shared mapping's address is dereferenced"
)]

use super::LINE_WORDS;
use super::Ordering;
use super::OutOfBounds;
use super::SharedMem;
use super::copy;
use super::copy::copy_in;
use super::copy::copy_out;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;

/// A range of addresses that stays mapped for as long as any copy of this
/// value is used.
#[derive(Debug, Clone, Copy)]
pub struct RawMem {
    base: *mut u8,
    len: u64,
}

// SAFETY: every access goes through an atomic or an equally racy-safe copy; the
// type gives out no reference.
unsafe impl Send for RawMem {}
// SAFETY: as above.
unsafe impl Sync for RawMem {}

impl RawMem {
    /// Takes `len` bytes at `base` as shared memory.
    ///
    /// # Safety
    /// The range is mapped readable (and writable, where this peer writes) for
    /// as long as the value or a window of it is used; `base` is 8-byte aligned;
    /// no Rust reference into the range exists.
    pub const unsafe fn new(base: *mut u8, len: u64) -> Self {
        Self { base, len }
    }

    /// The address of the first byte, for handing to a VMM or a system call.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    #[inline(always)]
    fn at(&self, at: u64, len: u64, align: u64) -> *mut u8 {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(fits && at & (align - 1) == 0, "unchecked offset {at:#x}");
        // SAFETY: inside the range, just checked.
        unsafe { self.base.add(at as usize) }
    }

    #[inline(always)]
    fn u32_at(&self, at: u64) -> &AtomicU32 {
        let p = self.at(at, 4, 4);
        // SAFETY: mapped, aligned (base is 8-byte aligned), atomic access only.
        unsafe { AtomicU32::from_ptr(p.cast()) }
    }

    #[inline(always)]
    fn u64_at(&self, at: u64) -> &AtomicU64 {
        let p = self.at(at, 8, 8);
        // SAFETY: as in `u32_at`.
        unsafe { AtomicU64::from_ptr(p.cast()) }
    }
}

impl super::Addressed for RawMem {
    fn atomic_u32(&self, at: u64) -> &AtomicU32 {
        self.u32_at(at)
    }
}

impl SharedMem for RawMem {
    #[inline(always)]
    fn len(&self) -> u64 {
        self.len
    }

    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        match at.checked_add(len) {
            Some(end) if end <= self.len && at.is_multiple_of(8) => Ok(Self {
                // SAFETY: inside the range, just checked.
                base: unsafe { self.base.add(at as usize) },
                len,
            }),
            _ => Err(OutOfBounds {
                at,
                len,
                limit: self.len,
            }),
        }
    }

    #[inline(always)]
    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        u32::from_le(self.u32_at(at).load(order))
    }

    #[inline(always)]
    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        u64::from_le(self.u64_at(at).load(order))
    }

    #[inline(always)]
    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        self.u32_at(at).store(value.to_le(), order);
    }

    #[inline(always)]
    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        self.u64_at(at).store(value.to_le(), order);
    }

    #[inline(always)]
    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        self.u64_at(at).fetch_add(value, order)
    }

    #[inline(always)]
    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.u64_at(at)
            .compare_exchange(current, new, success, failure)
    }

    #[inline]
    fn read(&self, at: u64, to: &mut [u8]) {
        let from = self.at(at, to.len() as u64, 1);
        // SAFETY: inside the mapped range, just checked.
        unsafe { copy_out(from, to) }
    }

    #[inline]
    fn write(&self, at: u64, from: &[u8]) {
        let to = self.at(at, from.len() as u64, 1);
        // SAFETY: inside the mapped range, just checked.
        unsafe { copy_in(from, to) }
    }

    fn zero(&self, at: u64, len: u64) {
        let to = self.at(at, len, 1);
        // SAFETY: inside the mapped range, just checked.
        unsafe { copy::zero(to, len as usize) }
    }

    #[inline(always)]
    unsafe fn load_u64_unchecked(&self, at: u64, order: Ordering) -> u64 {
        // SAFETY: mapped, inside and aligned, as the caller promises.
        let word = unsafe { AtomicU64::from_ptr(self.base.add(at as usize).cast()) };
        u64::from_le(word.load(order))
    }

    #[inline(always)]
    unsafe fn store_u64_unchecked(&self, at: u64, value: u64, order: Ordering) {
        // SAFETY: mapped, inside and aligned, as the caller promises.
        let word = unsafe { AtomicU64::from_ptr(self.base.add(at as usize).cast()) };
        word.store(value.to_le(), order);
    }

    #[inline(always)]
    unsafe fn read_unchecked(&self, at: u64, to: &mut [u8]) {
        // SAFETY: mapped, inside and aligned (the base is), as promised.
        unsafe { copy::copy_out_aligned(self.base.add(at as usize), to) }
    }

    #[inline(always)]
    unsafe fn write_unchecked(&self, at: u64, from: &[u8]) {
        // SAFETY: mapped, inside and aligned (the base is), as promised.
        unsafe { copy::copy_in_aligned(from, self.base.add(at as usize)) }
    }

    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[inline(always)]
    unsafe fn load_line_unchecked(&self, at: u64) -> [u64; LINE_WORDS] {
        // SAFETY: mapped, inside and aligned (the base is), as promised.
        unsafe { copy::line_out(self.base.add(at as usize)) }
    }

    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[inline(always)]
    unsafe fn store_line_unchecked(&self, at: u64, line: [u64; LINE_WORDS]) {
        // SAFETY: mapped, inside and aligned (the base is), as promised.
        unsafe { copy::line_in(line, self.base.add(at as usize)) }
    }

    #[inline(always)]
    fn prefetch_write(&self, at: u64) {
        #[cfg(target_arch = "x86_64")]
        if at < self.len {
            // SAFETY: a hint; the address is inside the range.
            unsafe {
                core::arch::asm!(
                    "prefetchw [{base} + {at}]",
                    base = in(reg) self.base,
                    at = in(reg) at,
                    options(nostack, preserves_flags),
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}
