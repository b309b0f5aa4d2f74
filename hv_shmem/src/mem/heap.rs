//! [`SharedMem`] over the heap: for tests, and for two threads of one process.
#![expect(unsafe_code, reason = "hands the allocation's address to RawMem")]

use super::Addressed;
use super::LINE_WORDS;
use super::Ordering;
use super::OutOfBounds;
use super::RawMem;
use super::SharedMem;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU32;

/// What the heap hands out: one pair of cache lines.
#[repr(C, align(128))]
struct Pair(UnsafeCell<[u8; 128]>);

/// The allocation itself, kept by every window into it.
struct Block(Vec<Pair>);

// SAFETY: the bytes are only reached through `RawMem`, whose accesses are all
// atomic; nothing else touches them until the block is dropped.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Zeroed, 128-byte aligned heap memory; clones and windows share it and keep
/// it alive.
#[derive(Clone)]
pub struct HeapMem {
    block: Arc<Block>,
    raw: RawMem,
}

impl HeapMem {
    /// Allocates `len` zero bytes.
    pub fn new(len: u64) -> Self {
        let pairs = len.div_ceil(128) as usize;
        let block = Arc::new(Block(
            (0..pairs)
                .map(|_| Pair(UnsafeCell::new([0; 128])))
                .collect(),
        ));
        // SAFETY: the allocation has at least `len` bytes behind interior
        // mutability, lives as long as `block`, which each window keeps, and is
        // never touched by reference.
        let raw = unsafe { RawMem::new(block.0.as_ptr().cast_mut().cast(), len) };
        Self { block, raw }
    }

    /// The same memory without its owner, for code that is measured.
    ///
    /// # Safety
    /// The result is not used after the last clone or window of `self` is gone.
    pub unsafe fn raw(&self) -> RawMem {
        self.raw
    }
}

impl core::fmt::Debug for HeapMem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapMem").field("len", &self.len()).finish()
    }
}

impl Addressed for HeapMem {
    fn atomic_u32(&self, at: u64) -> &AtomicU32 {
        self.raw.atomic_u32(at)
    }
}

impl SharedMem for HeapMem {
    #[inline(always)]
    fn len(&self) -> u64 {
        self.raw.len()
    }

    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            block: self.block.clone(),
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
    fn prefetch(&self, at: u64) {
        self.raw.prefetch(at);
    }

    #[inline(always)]
    fn prefetch_write(&self, at: u64) {
        self.raw.prefetch_write(at);
    }
}
