//! Equal slots in shared memory, checked once and then reached without a check
//! an access.
//!
//! A slot is named by a position, of which the low bits count; no position is
//! outside. This is how a ring touches its slots.
#![expect(
    unsafe_code,
    reason = "the one place that turns a checked shape into unchecked accesses"
)]

use super::Ordering;
use super::OutOfBounds;
use super::SharedMem;

/// `2^k` slots of `2^shift` bytes each.
#[derive(Debug, Clone)]
pub struct Slots<M> {
    mem: M,
    shift: u32,
    size: usize,
    mask: u64,
}

impl<M: SharedMem> Slots<M> {
    /// Slots of `slot_size` bytes from the start of `mem`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when either number is no power of two, a slot is shorter
    /// than 8 bytes, or `mem` is too short.
    pub fn new(mem: M, slot_size: u32, count: u32) -> Result<Self, OutOfBounds> {
        let bytes = u64::from(slot_size) * u64::from(count);
        let shaped = slot_size.is_power_of_two() && slot_size >= 8 && count.is_power_of_two();
        if !shaped || bytes > mem.len() {
            return Err(OutOfBounds {
                at: 0,
                len: bytes,
                limit: mem.len(),
            });
        }
        Ok(Self {
            mem,
            shift: slot_size.trailing_zeros(),
            size: slot_size as usize,
            mask: u64::from(count) - 1,
        })
    }

    /// Bytes a slot.
    #[inline(always)]
    pub fn slot_size(&self) -> usize {
        self.size
    }

    /// The binary logarithm of [`slot_size`](Self::slot_size).
    #[inline(always)]
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// Number of slots.
    #[inline(always)]
    pub fn count(&self) -> u64 {
        self.mask + 1
    }

    /// Number of the slot that `position` names.
    #[inline(always)]
    pub fn index(&self, position: u64) -> u64 {
        position & self.mask
    }

    #[inline(always)]
    fn offset(&self, position: u64) -> u64 {
        // Wrapping only in name: the shift is less than 32.
        (position & self.mask).wrapping_shl(self.shift)
    }

    /// Loads the first u64 of a slot, once.
    #[inline(always)]
    pub fn load(&self, position: u64, order: Ordering) -> u64 {
        // SAFETY: a slot has at least 8 bytes, begins at a multiple of 8 and
        // lies inside `mem`, whose length `new` compared.
        unsafe { self.mem.load_u64_unchecked(self.offset(position), order) }
    }

    /// Stores the first u64 of a slot.
    #[inline(always)]
    pub fn store(&self, position: u64, value: u64, order: Ordering) {
        let at = self.offset(position);
        // SAFETY: as in `load`.
        unsafe { self.mem.store_u64_unchecked(at, value, order) }
    }

    /// Copies out of a slot, from byte `at` of it on; each byte is fetched once.
    ///
    /// # Panics
    /// When the range does not lie in the slot, or `at` is no multiple of 8: a
    /// bug of the caller.
    #[inline(always)]
    pub fn read(&self, position: u64, at: usize, to: &mut [u8]) {
        self.check(at, to.len());
        // SAFETY: inside the slot and aligned, just checked; so inside `mem`.
        unsafe {
            self.mem
                .read_unchecked(self.offset(position) + at as u64, to);
        }
    }

    /// Copies into a slot, from byte `at` of it on.
    ///
    /// # Panics
    /// When the range does not lie in the slot, or `at` is no multiple of 8: a
    /// bug of the caller.
    #[inline(always)]
    pub fn write(&self, position: u64, at: usize, from: &[u8]) {
        self.check(at, from.len());
        // SAFETY: inside the slot and aligned, just checked; so inside `mem`.
        unsafe {
            self.mem
                .write_unchecked(self.offset(position) + at as u64, from);
        }
    }

    /// Copies `message` into a slot from byte `at` on, and zeros up to its end.
    ///
    /// # Panics
    /// When the message does not fit: a bug of the caller.
    pub fn write_padded(&self, position: u64, at: usize, message: &[u8]) {
        self.write(position, at, message);
        let from = at + message.len();
        let offset = self.offset(position) + from as u64;
        self.mem.zero(offset, (self.slot_size() - from) as u64);
    }

    /// Copies whole consecutive slots out, across the end of the memory to its
    /// beginning.
    ///
    /// # Panics
    /// When `to` is longer than all slots together: a bug of the caller.
    #[inline]
    pub fn read_run(&self, position: u64, to: &mut [u8]) {
        let (offset, split) = self.run(position, to.len());
        let (first, second) = to.split_at_mut(split);
        // SAFETY: `run` splits at the end of the slots, and both parts are
        // together no longer than they are.
        unsafe {
            self.mem.read_unchecked(offset, first);
            if !second.is_empty() {
                self.mem.read_unchecked(0, second);
            }
        }
    }

    /// Copies whole consecutive slots in, across the end of the memory to its
    /// beginning.
    ///
    /// # Panics
    /// When `from` is longer than all slots together: a bug of the caller.
    #[inline]
    pub fn write_run(&self, position: u64, from: &[u8]) {
        let (offset, split) = self.run(position, from.len());
        let (first, second) = from.split_at(split);
        // SAFETY: as in `read_run`.
        unsafe {
            self.mem.write_unchecked(offset, first);
            if !second.is_empty() {
                self.mem.write_unchecked(0, second);
            }
        }
    }

    /// The memory below.
    pub fn mem(&self) -> &M {
        &self.mem
    }

    /// Asks for a slot's cache line; only a hint.
    #[inline(always)]
    pub fn prefetch(&self, position: u64) {
        self.mem.prefetch(self.offset(position));
    }

    /// Where a run begins, and how much of it lies before the end.
    #[inline(always)]
    fn run(&self, position: u64, len: usize) -> (u64, usize) {
        let offset = self.offset(position);
        let total = self.count().wrapping_shl(self.shift);
        assert!(len as u64 <= total, "run longer than the ring");
        (offset, len.min((total - offset) as usize))
    }

    /// Asks for the cache lines of `bytes` bytes from a slot on, to write them;
    /// only a hint. Rounds down to whole lines of 64 bytes.
    #[inline(always)]
    pub fn prefetch_write(&self, position: u64, bytes: u64) {
        let last = self.count().wrapping_shl(self.shift) - 1;
        let first = self.offset(position);
        for line in 0..bytes / 64 {
            self.mem.prefetch_write((first + line * 64) & last);
        }
    }

    #[inline(always)]
    fn check(&self, at: usize, len: usize) {
        if len > self.size || at > self.size - len || !at.is_multiple_of(8) {
            outside_slot(at, len, self.slot_size());
        }
    }
}

#[cold]
#[inline(never)]
fn outside_slot(at: usize, len: usize, size: usize) -> ! {
    panic!("{len} bytes at {at} of a slot of {size} bytes")
}
