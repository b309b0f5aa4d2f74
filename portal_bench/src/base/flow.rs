//! A stream of numbered messages from one core to the other, timed the same way
//! for every queue.

use crate::BenchError;
use crate::harness::clock;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;

/// A message of a fixed size whose every byte is written and read.
pub(crate) trait Message: Copy + Default + Send + Sync + 'static {
    /// The message with this number.
    fn numbered(number: u64) -> Self;
    /// The sum of its words: the receiver's proof that it read all of them.
    fn sum(&self) -> u64;
    /// What [`Self::sum`] gives for the messages `0..count` together.
    fn sum_of(count: u64) -> u64;
}

impl Message for u64 {
    #[inline(always)]
    fn numbered(number: u64) -> Self {
        number
    }

    #[inline(always)]
    fn sum(&self) -> u64 {
        *self
    }

    fn sum_of(count: u64) -> u64 {
        (0..count).fold(0, u64::wrapping_add)
    }
}

impl Message for [u64; 8] {
    #[inline(always)]
    fn numbered(number: u64) -> Self {
        [number; 8]
    }

    #[inline(always)]
    fn sum(&self) -> u64 {
        self.iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }

    fn sum_of(count: u64) -> u64 {
        u64::sum_of(count).wrapping_mul(8)
    }
}

/// Runs `produce` on one core and `consume` on the other; `count` messages of
/// type `T` cross. `consume` returns the sum of what it got, which is checked.
/// The value is millions of messages a second, from the common start to the
/// last message consumed.
pub(crate) fn rate<T: Message>(
    pair: &Pair,
    count: u64,
    produce: impl FnOnce() -> Result<(), BenchError> + Send,
    consume: impl FnOnce() -> Result<u64, BenchError> + Send,
) -> Result<Sample, BenchError> {
    let ((), (ticks, sum), preempted) = pair.run(
        |start| {
            start.wait()?;
            produce()
        },
        |start| {
            start.wait()?;
            let begun = clock::ticks();
            let sum = consume()?;
            Ok((clock::ticks() - begun, sum))
        },
    )?;
    if sum != T::sum_of(count) {
        return Err(BenchError::Broken(format!(
            "{count} messages arrived with the wrong sum"
        )));
    }
    Ok(Sample::of(
        count as f64 * 1e3 / clock::to_ns(ticks),
        preempted,
    ))
}
