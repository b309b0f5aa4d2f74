//! Memory that other peers may change at any moment, behind one trait.
//!
//! Everything in this crate that touches a region does so through
//! [`SharedMem`]: raw pointers, atomics and volatile copies, never a reference.
//! The same ring, arena and table code therefore runs over a mapping
//! ([`RawMem`]), a heap ([`HeapMem`]), a loom model (`LoomMem`, feature `loom`)
//! and the fetch ledger ([`LedgerMem`]).
//!
//! Offsets are bytes from the start of the window. Values are little-endian.
//! A window is checked once, when it is made; inside it an out-of-range offset
//! is a bug of this crate, not of a peer, and panics. Rings check the shape of
//! their slots once and then go through [`Slots`], which checks nothing twice.
#![expect(unsafe_code, reason = "declares the accesses that Slots has checked")]

mod copy;
#[cfg(feature = "std")]
mod heap;
#[cfg(feature = "std")]
mod kept;
#[cfg(feature = "std")]
mod ledger;
#[cfg(feature = "loom")]
mod loom;
mod raw;
mod slots;

pub use core::sync::atomic::Ordering;
#[cfg(feature = "std")]
pub use heap::Heap;
#[cfg(feature = "std")]
pub use heap::HeapMem;
#[cfg(feature = "std")]
pub use kept::KeptMem;
#[cfg(feature = "std")]
pub use ledger::Ledger;
#[cfg(feature = "std")]
pub use ledger::LedgerMem;
#[cfg(feature = "loom")]
pub use loom::LoomMem;
pub use raw::RawMem;
pub use slots::Slots;

/// Words of a cache line.
pub const LINE_WORDS: usize = 8;

/// An offset and length that do not lie inside the memory they were meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at offset {at:#x} do not fit in {limit:#x} bytes (or are misaligned)")]
pub struct OutOfBounds {
    /// Offset of the first byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Length of the memory in bytes.
    pub limit: u64,
}

/// Byte-addressed memory shared with peers that are not trusted.
pub trait SharedMem: Clone {
    /// Length of this window in bytes.
    fn len(&self) -> u64;

    /// Whether the window has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A narrower view: `len` bytes from `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not lie inside this window.
    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds>;

    /// Loads the aligned u32 at `at`, once.
    fn load_u32(&self, at: u64, order: Ordering) -> u32;
    /// Loads the aligned u64 at `at`, once.
    fn load_u64(&self, at: u64, order: Ordering) -> u64;
    /// Stores the aligned u32 at `at`.
    fn store_u32(&self, at: u64, value: u32, order: Ordering);
    /// Stores the aligned u64 at `at`.
    fn store_u64(&self, at: u64, value: u64, order: Ordering);
    /// Adds to the aligned u64 at `at`; returns the value before. Only for
    /// bytes that this peer alone writes (several threads of it may).
    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64;
    /// Replaces the aligned u64 at `at` when it holds `current`.
    ///
    /// # Errors
    /// The value found, when it was another one.
    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;

    /// Copies out of the window; each byte is fetched exactly once.
    fn read(&self, at: u64, to: &mut [u8]);
    /// Copies into the window.
    fn write(&self, at: u64, from: &[u8]);
    /// Sets `len` bytes to zero.
    fn zero(&self, at: u64, len: u64);
    /// [`load_u64`](Self::load_u64) for [`Slots`].
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + 8 <= self.len()`.
    #[inline(always)]
    unsafe fn load_u64_unchecked(&self, at: u64, order: Ordering) -> u64 {
        self.load_u64(at, order)
    }
    /// [`store_u64`](Self::store_u64) for [`Slots`].
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + 8 <= self.len()`.
    #[inline(always)]
    unsafe fn store_u64_unchecked(&self, at: u64, value: u64, order: Ordering) {
        self.store_u64(at, value, order);
    }
    /// [`read`](Self::read) for [`Slots`].
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + to.len() <= self.len()`.
    #[inline(always)]
    unsafe fn read_unchecked(&self, at: u64, to: &mut [u8]) {
        self.read(at, to);
    }
    /// [`write`](Self::write) for [`Slots`].
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + from.len() <= self.len()`.
    #[inline(always)]
    unsafe fn write_unchecked(&self, at: u64, from: &[u8]) {
        self.write(at, from);
    }
    /// Loads the words of 64 bytes, each once; they need not be a cache line.
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + 64 <= self.len()`.
    #[inline(always)]
    unsafe fn load_line_unchecked(&self, at: u64) -> [u64; LINE_WORDS] {
        core::array::from_fn(|word| {
            // SAFETY: one of the eight words that the caller promises.
            unsafe { self.load_u64_unchecked(at + 8 * word as u64, Ordering::Relaxed) }
        })
    }
    /// Stores the words of 64 bytes, each once; they need not be a cache line.
    ///
    /// # Safety
    /// `at` is a multiple of 8 and `at + 64 <= self.len()`.
    #[inline(always)]
    unsafe fn store_line_unchecked(&self, at: u64, line: [u64; LINE_WORDS]) {
        for (at, word) in (at..).step_by(8).zip(line) {
            // SAFETY: one of the eight words that the caller promises.
            unsafe { self.store_u64_unchecked(at, word, Ordering::Relaxed) };
        }
    }
    /// Orders this peer's accesses before and after it, as
    /// [`core::sync::atomic::fence`] does.
    #[inline(always)]
    fn fence(&self, order: Ordering) {
        core::sync::atomic::fence(order);
    }
    /// Asks for the cache line at `at`, to write there; only a hint.
    fn prefetch_write(&self, _at: u64) {}
}

/// Shared memory that has an address, and so can hold a futex word.
pub trait Addressed: SharedMem {
    /// The aligned u32 at `at`, in place.
    fn atomic_u32(&self, at: u64) -> &core::sync::atomic::AtomicU32;
}
