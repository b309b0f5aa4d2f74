//! [`SharedMem`] over an address range, together with what keeps it there.
#![expect(unsafe_code, reason = "hands the checked accesses of Slots to RawMem")]

use super::Addressed;
use super::LINE_WORDS;
use super::Ordering;
use super::OutOfBounds;
use super::RawMem;
use super::SharedMem;
use core::sync::atomic::AtomicU32;

/// Shared memory and its keeper: as long as a clone or a window is there, so is a
/// clone of `K`, and with it the memory.
#[derive(Clone)]
pub struct KeptMem<K> {
    keeper: K,
    raw: RawMem,
}

impl<K> KeptMem<K> {
    /// `raw`, kept by `keeper`.
    ///
    /// # Safety
    /// What [`RawMem::new`] asks for holds as long as a clone of `keeper` is there.
    pub(crate) unsafe fn keep(keeper: K, raw: RawMem) -> Self {
        Self { keeper, raw }
    }

    /// The same memory without its keeper, for code that is measured.
    ///
    /// # Safety
    /// The result is not used after the last clone of the keeper is gone: this
    /// value, its clones and windows, and for a [`MappedMem`] the [`Mapping`] that
    /// it came from.
    ///
    /// [`MappedMem`]: crate::backing::MappedMem
    /// [`Mapping`]: crate::backing::Mapping
    pub unsafe fn raw(&self) -> RawMem {
        self.raw
    }

    pub(crate) fn keeper(&self) -> &K {
        &self.keeper
    }
}

impl<K> core::fmt::Debug for KeptMem<K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut view = f.debug_struct("KeptMem");
        view.field("len", &self.raw.len()).finish_non_exhaustive()
    }
}

impl<K: Clone> Addressed for KeptMem<K> {
    fn atomic_u32(&self, at: u64) -> &AtomicU32 {
        self.raw.atomic_u32(at)
    }
}

impl<K: Clone> SharedMem for KeptMem<K> {
    #[inline(always)]
    fn len(&self) -> u64 {
        self.raw.len()
    }

    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            keeper: self.keeper.clone(),
            raw: self.raw.window(at, len)?,
        })
    }

    #[inline(always)]
    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        self.raw.load_u32(at, order)
    }

    #[inline(always)]
    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        self.raw.load_u64(at, order)
    }

    #[inline(always)]
    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        self.raw.store_u32(at, value, order);
    }

    #[inline(always)]
    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        self.raw.store_u64(at, value, order);
    }

    #[inline(always)]
    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        self.raw.fetch_add_u64(at, value, order)
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
        self.raw
            .compare_exchange_u64(at, current, new, success, failure)
    }

    #[inline(always)]
    fn read(&self, at: u64, to: &mut [u8]) {
        self.raw.read(at, to);
    }

    #[inline(always)]
    fn write(&self, at: u64, from: &[u8]) {
        self.raw.write(at, from);
    }

    fn zero(&self, at: u64, len: u64) {
        self.raw.zero(at, len);
    }

    #[inline(always)]
    unsafe fn load_u64_unchecked(&self, at: u64, order: Ordering) -> u64 {
        // SAFETY: the caller's promise, which is about the same range.
        unsafe { self.raw.load_u64_unchecked(at, order) }
    }

    #[inline(always)]
    unsafe fn store_u64_unchecked(&self, at: u64, value: u64, order: Ordering) {
        // SAFETY: as above.
        unsafe { self.raw.store_u64_unchecked(at, value, order) }
    }

    #[inline(always)]
    unsafe fn read_unchecked(&self, at: u64, to: &mut [u8]) {
        // SAFETY: as above.
        unsafe { self.raw.read_unchecked(at, to) }
    }

    #[inline(always)]
    unsafe fn write_unchecked(&self, at: u64, from: &[u8]) {
        // SAFETY: as above.
        unsafe { self.raw.write_unchecked(at, from) }
    }

    #[inline(always)]
    unsafe fn load_line_unchecked(&self, at: u64) -> [u64; LINE_WORDS] {
        // SAFETY: as above.
        unsafe { self.raw.load_line_unchecked(at) }
    }

    #[inline(always)]
    unsafe fn store_line_unchecked(&self, at: u64, line: [u64; LINE_WORDS]) {
        // SAFETY: as above.
        unsafe { self.raw.store_line_unchecked(at, line) }
    }

    #[inline(always)]
    fn prefetch_write(&self, at: u64) {
        self.raw.prefetch_write(at);
    }
}
