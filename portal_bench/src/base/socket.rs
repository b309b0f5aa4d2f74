//! The round trip of a small message over a pair of Unix stream sockets.

use crate::BenchError;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;
use crate::harness::rtt;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// The median round trip, in nanoseconds, of `size` bytes and the same back.
pub(crate) fn sample(
    pair: &Pair,
    size: usize,
    batches: usize,
    singles: usize,
) -> Result<Sample, BenchError> {
    let (mut near, mut far) = UnixStream::pair().map_err(BenchError::os("a pair of sockets"))?;
    let (trips, (), preempted) = pair.run(
        move |start| {
            let mut message = vec![7; size];
            start.wait()?;
            rtt::time(batches, singles, || {
                near.write_all(&message)
                    .and_then(|()| near.read_exact(&mut message))
                    .map_err(BenchError::os("a round trip over a socket"))
            })
        },
        move |start| {
            let mut message = vec![0; size];
            start.wait()?;
            for _ in 0..rtt::total(batches, singles) {
                far.read_exact(&mut message)
                    .and_then(|()| far.write_all(&message))
                    .map_err(BenchError::os("answering over a socket"))?;
            }
            Ok(())
        },
    )?;
    Ok(Sample::trips(trips, preempted))
}
