//! C2: the round trip over two cache lines, one a direction, between two cores.
//!
//! It is the physical limit for a message and its answer, measured right before
//! and right after every sample.

use super::pair::Pair;
use super::pair::Patience;
use super::rtt;
use crate::BenchError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Batches of a calibration: 8,000 round trips, about 2.5 ms.
const BATCHES: usize = 500;

/// A word alone in two cache lines (the adjacent-line prefetcher fetches pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Line(pub(crate) AtomicU64);

/// Measures C2 between the pair's cores, in nanoseconds.
pub(crate) fn c2(pair: &Pair) -> Result<f64, BenchError> {
    let (there, back) = (Line::default(), Line::default());
    let (ns, (), _) = pair.run(
        |start| {
            start.wait()?;
            let (mut sent, mut patience) = (0, Patience::of("C2 answer"));
            let trips = rtt::time(BATCHES, 0, || {
                sent += 1;
                there.0.store(sent, Ordering::Release);
                while back.0.load(Ordering::Acquire) != sent {
                    patience.spin()?;
                }
                Ok(())
            })?;
            Ok(trips.ns)
        },
        |start| {
            start.wait()?;
            let mut patience = Patience::of("C2 request");
            for number in 1..=rtt::total(BATCHES, 0) as u64 {
                while there.0.load(Ordering::Acquire) != number {
                    patience.spin()?;
                }
                back.0.store(number, Ordering::Release);
            }
            Ok(())
        },
    )?;
    Ok(ns)
}
