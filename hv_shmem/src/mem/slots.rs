//! Equal slots in shared memory, checked once and then reached without a check
//! an access.
//!
//! A slot is named by a position, of which the low bits count; no position is
//! outside. This is how a ring touches its slots.
#![expect(
    unsafe_code,
    reason = "the one place that turns a checked shape into unchecked accesses"
)]

use super::LINE_WORDS;
use super::Ordering;
use super::OutOfBounds;
use super::SharedMem;
use core::ops::Range;

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
        // Wrapping only in name: the mask is less than 2^32.
        self.mask.wrapping_add(1)
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

    /// Hands out the first `WORDS` words of consecutive slots, each word loaded
    /// once and given by value: nothing is left that could be loaded again.
    /// Words that a slot does not have are 0.
    ///
    /// # Panics
    /// When there are fewer than `count` slots: a bug of the caller.
    #[inline(always)]
    pub fn read_each<const WORDS: usize>(
        &self,
        position: u64,
        count: u64,
        mut to: impl FnMut([u64; WORDS]),
    ) {
        for run in self.straight(position, count) {
            let mut slots = run;
            if self.in_lines::<WORDS>() {
                let a_line = (LINE_WORDS / WORDS) as u64;
                while slots.end - slots.start >= a_line {
                    // SAFETY: `straight` gives slots inside `mem`; so many of
                    // them as a line takes begin here.
                    let line = unsafe { self.mem.load_line_unchecked(self.offset(slots.start)) };
                    let (messages, _) = line.as_chunks::<WORDS>();
                    messages.iter().for_each(|message| to(*message));
                    slots.start += a_line;
                }
            }
            for slot in slots {
                to(self.load_words(slot));
            }
        }
    }

    /// Fills consecutive slots where they lie, with `WORDS` words and zeros
    /// behind them.
    ///
    /// # Panics
    /// When a slot has fewer than `WORDS` words, or there are fewer than `count`
    /// slots: a bug of the caller.
    #[inline(always)]
    pub fn write_each<const WORDS: usize>(
        &self,
        position: u64,
        count: u64,
        mut from: impl FnMut() -> [u64; WORDS],
    ) {
        for run in self.straight(position, count) {
            let mut slots = run;
            if self.in_lines::<WORDS>() {
                let a_line = (LINE_WORDS / WORDS) as u64;
                while slots.end - slots.start >= a_line {
                    let mut line = [0; LINE_WORDS];
                    let (messages, _) = line.as_chunks_mut::<WORDS>();
                    messages.iter_mut().for_each(|message| *message = from());
                    let at = self.offset(slots.start);
                    // SAFETY: as in `read_each`.
                    unsafe { self.mem.store_line_unchecked(at, line) };
                    slots.start += a_line;
                }
            }
            for slot in slots {
                self.store_words(slot, from());
            }
        }
    }

    /// Whether slots of `WORDS` words follow each other without gaps, so many to
    /// 64 bytes.
    #[inline(always)]
    fn in_lines<const WORDS: usize>(&self) -> bool {
        self.size == 8 * WORDS && LINE_WORDS.is_multiple_of(WORDS)
    }

    #[inline(always)]
    fn load_words<const WORDS: usize>(&self, slot: u64) -> [u64; WORDS] {
        let (at, words) = (self.offset(slot), self.size / 8);
        core::array::from_fn(|word| match word < words {
            // SAFETY: a word of a slot, and slots lie inside `mem`.
            true => unsafe {
                let at = at + 8 * word as u64;
                self.mem.load_u64_unchecked(at, Ordering::Relaxed)
            },
            false => 0,
        })
    }

    #[inline(always)]
    fn store_words<const WORDS: usize>(&self, slot: u64, words: [u64; WORDS]) {
        self.check(0, 8 * WORDS);
        let at = self.offset(slot);
        for (at, word) in (at..).step_by(8).zip(words) {
            // SAFETY: a word of a slot, as just checked.
            unsafe { self.mem.store_u64_unchecked(at, word, Ordering::Relaxed) };
        }
        let rest = (self.size - 8 * WORDS) as u64;
        if rest != 0 {
            self.mem.zero(at + 8 * WORDS as u64, rest);
        }
    }

    /// Consecutive slots as two runs of slot numbers, with the end of the memory
    /// between them.
    #[inline(always)]
    fn straight(&self, position: u64, count: u64) -> [Range<u64>; 2] {
        assert!(count <= self.count(), "run longer than the ring");
        let first = self.index(position);
        let before_end = count.min(self.count() - first);
        [first..first + before_end, 0..count - before_end]
    }

    /// The memory below.
    pub fn mem(&self) -> &M {
        &self.mem
    }

    /// Asks for the cache line with the first u64 of a slot, to write there; only a
    /// hint.
    #[inline(always)]
    pub fn prefetch_first_to_write(&self, position: u64) {
        self.mem.prefetch_write(self.offset(position));
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
