//! Timing many round trips: a robust figure, and a distribution.
//!
//! Reading the counter costs a few percent of a round trip, so the figure that
//! is judged times [`BATCH`] round trips at once and takes the median of the
//! batches (an interrupt spoils one batch, not the figure). The distribution
//! times each round trip of a further stretch on its own.

use super::clock;
use crate::BenchError;
use hdrhistogram::Histogram;

/// Round trips that are timed together.
pub(crate) const BATCH: usize = 16;

/// What one sample of round trips gave.
#[derive(Debug, Clone)]
pub(crate) struct Trips {
    /// Median over the batches of the mean round trip, in nanoseconds.
    pub(crate) ns: f64,
    /// Single round trips in ticks of the counter.
    pub(crate) singles: Histogram<u64>,
}

/// Times round trips: `batches` times [`BATCH`] for the figure (after a tenth as
/// many to warm up), then `singles` for the distribution.
pub(crate) fn time(
    batches: usize,
    singles: usize,
    mut trip: impl FnMut() -> Result<(), BenchError>,
) -> Result<Trips, BenchError> {
    for _ in 0..batches * BATCH / 10 {
        trip()?;
    }
    let mut means = Vec::with_capacity(batches);
    let mut last = clock::ticks();
    for _ in 0..batches {
        for _ in 0..BATCH {
            trip()?;
        }
        let now = clock::ticks();
        means.push(now - last);
        last = now;
    }
    let mut histogram = empty();
    for _ in 0..singles {
        let begun = clock::ticks();
        trip()?;
        histogram.saturating_record(clock::ticks() - begun);
    }
    Ok(Trips {
        ns: clock::to_ns(median(&mut means)) / BATCH as f64,
        singles: histogram,
    })
}

/// Round trips that [`time`] makes with these arguments: what the echoing side
/// must answer.
pub(crate) const fn total(batches: usize, singles: usize) -> usize {
    batches * BATCH / 10 + batches * BATCH + singles
}

/// A histogram of ticks with three significant digits.
pub(crate) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 40, 3)
        .expect("bounds and digits are in hdrhistogram's range")
}

fn median(ticks: &mut [u64]) -> u64 {
    if ticks.is_empty() {
        return 0;
    }
    let middle = ticks.len() / 2;
    *ticks.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_exactly_the_round_trips_that_it_says() {
        let mut made = 0;
        let trips = time(20, 7, || {
            made += 1;
            Ok(())
        })
        .expect("trips that cannot fail");
        assert_eq!(made, total(20, 7));
        assert_eq!(trips.singles.len(), 7);
    }

    #[test]
    fn an_outlier_does_not_move_the_figure() {
        let mut made = 0;
        let trips = time(21, 0, || {
            made += 1;
            if made == 100 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(())
        })
        .expect("trips that cannot fail");
        assert!(trips.ns < 10_000.0, "{} ns", trips.ns);
    }
}
