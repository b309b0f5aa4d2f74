//! What crossing from core to core costs a stream of bytes: one core writes a
//! buffer, the other reads it.
#![expect(
    unsafe_code,
    reason = "the two cores take turns at plain buffers so that the compiler may use vector loads and stores"
)]

use crate::BenchError;
use crate::harness::calibrate::Line;
use crate::harness::clock;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use std::cell::UnsafeCell;
use std::sync::atomic::Ordering;

/// Buffers of `u64` words, and how many of them were written and read so far.
#[derive(Debug)]
pub(crate) struct Stream {
    buffers: Vec<UnsafeCell<Vec<u64>>>,
    written: Line,
    read: Line,
    by: Writing,
}

/// How the writer fills a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// As the compiler sees fit: vector stores.
    Stores,
    /// By `rep stosq`, as the agents fill a span: whole lines are taken without
    /// being read, which pays when the reader's core is far.
    Strings,
}

// SAFETY: a buffer belongs to the writer until `written` passes it and to the
// reader until `read` passes it; both counters are stored with release and
// loaded with acquire.
unsafe impl Sync for Stream {}

impl Stream {
    /// `count` buffers (at least one) of `bytes` each, rounded down to whole
    /// words. The writer fills one while the reader reads another.
    pub(crate) fn new(bytes: usize, count: usize, by: Writing) -> Self {
        let buffer = || UnsafeCell::new(vec![1; bytes / 8]);
        Self {
            buffers: (0..count.max(1)).map(|_| buffer()).collect(),
            written: Line::default(),
            read: Line::default(),
            by,
        }
    }

    /// Crosses `turns` buffers from the first core to the second; the value is
    /// GB/s (10^9 bytes).
    pub(crate) fn sample(&self, pair: &Pair, turns: u64) -> Result<Sample, BenchError> {
        self.written.0.store(0, Ordering::Relaxed);
        self.read.0.store(0, Ordering::Relaxed);
        let ((), (ticks, sum), preempted) = pair.run(
            |start| {
                start.wait()?;
                self.write(turns)
            },
            |start| {
                start.wait()?;
                let begun = clock::ticks();
                let sum = self.read(turns)?;
                Ok((clock::ticks() - begun, sum))
            },
        )?;
        let words = self.words() as u64;
        let expected =
            (1..=turns).fold(0u64, |sum, turn| sum.wrapping_add(turn.wrapping_mul(words)));
        if sum != expected {
            return Err(BenchError::Broken("the stream lost bytes".into()));
        }
        let bytes = turns as f64 * words as f64 * 8.0;
        Ok(Sample::of(bytes / clock::to_ns(ticks), preempted))
    }

    fn words(&self) -> usize {
        // SAFETY: the length of the vector never changes after `new`.
        unsafe { (*self.buffers[0].get()).len() }
    }

    fn write(&self, turns: u64) -> Result<(), BenchError> {
        let mut patience = Patience::of("a free buffer");
        for turn in 1..=turns {
            // Acquire pairs with the reader's release: it is done with the buffer.
            while turn - self.read.0.load(Ordering::Acquire) > self.buffers.len() as u64 {
                patience.tight()?;
            }
            // SAFETY: not yet written in this turn, so it is the writer's.
            let buffer = unsafe { &mut *self.buffers[turn as usize % self.buffers.len()].get() };
            match self.by {
                Writing::Stores => buffer.fill(turn),
                Writing::Strings => fill_by_string(buffer, turn),
            }
            // Release pairs with the reader's acquire: the words are there.
            self.written.0.store(turn, Ordering::Release);
        }
        Ok(())
    }

    fn read(&self, turns: u64) -> Result<u64, BenchError> {
        let mut patience = Patience::of("a written buffer");
        let mut sum = 0u64;
        for turn in 1..=turns {
            // Acquire pairs with the writer's release.
            while self.written.0.load(Ordering::Acquire) < turn {
                patience.tight()?;
            }
            // SAFETY: written and not yet given back, so it is the reader's.
            let buffer = unsafe { &*self.buffers[turn as usize % self.buffers.len()].get() };
            sum = buffer.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
            // Release pairs with the writer's acquire: no load comes later.
            self.read.0.store(turn, Ordering::Release);
        }
        Ok(sum)
    }
}
/// Fills `buffer` with `word` by one string instruction.
fn fill_by_string(buffer: &mut [u64], word: u64) {
    // SAFETY: writes the buffer's own words and nothing else; the direction flag
    // is clear (System V ABI).
    unsafe {
        std::arch::asm!(
            "rep stosq",
            inout("rcx") buffer.len() => _,
            inout("rdi") buffer.as_mut_ptr() => _,
            in("rax") word,
            options(nostack, preserves_flags),
        );
    }
}
