//! The bare round trip over two event descriptors, both sides blocking.

use crate::BenchError;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;
use crate::harness::rtt;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;

/// A pair of eventfds, one a direction.
#[derive(Debug)]
pub(crate) struct Eventfds {
    there: OwnedFd,
    back: OwnedFd,
}

impl Eventfds {
    /// Opens both.
    pub(crate) fn open() -> Result<Self, BenchError> {
        let open =
            || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(BenchError::os("eventfd"));
        Ok(Self {
            there: open()?,
            back: open()?,
        })
    }

    /// The median round trip in nanoseconds.
    pub(crate) fn sample(
        &self,
        pair: &Pair,
        batches: usize,
        singles: usize,
    ) -> Result<Sample, BenchError> {
        let (trips, (), preempted) = pair.run(
            |start| {
                start.wait()?;
                rtt::time(batches, singles, || {
                    ring(&self.there)?;
                    sleep(&self.back)
                })
            },
            |start| {
                start.wait()?;
                for _ in 0..rtt::total(batches, singles) {
                    sleep(&self.there)?;
                    ring(&self.back)?;
                }
                Ok(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    }
}

fn ring(fd: &OwnedFd) -> Result<(), BenchError> {
    rustix::io::write(fd, &1u64.to_ne_bytes())
        .map_err(BenchError::os("writing an eventfd"))
        .map(|_| ())
}

fn sleep(fd: &OwnedFd) -> Result<(), BenchError> {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count)
        .map_err(BenchError::os("reading an eventfd"))
        .map(|_| ())
}
