//! The idle limit: how long a job goes on without progress.

use crate::failure::Failure;
use core::time::Duration;
use portal_warp::time::Clock;
use portal_warp::time::Deadline;

/// Looks between two readings of the clock while spinning.
const LOOKS: u32 = 2048;

/// A deadline that progress moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    clock: Clock,
    microseconds: u64,
    deadline: Deadline,
}

impl Idle {
    /// A limit that counts from now.
    pub(crate) fn new(clock: Clock, microseconds: u64) -> Self {
        Self {
            clock,
            microseconds,
            deadline: clock.after(microseconds),
        }
    }

    /// There was progress: the limit counts from now.
    pub(crate) fn progress(&mut self) {
        self.deadline = self.clock.after(self.microseconds);
    }

    /// When the job gives up.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Time left, for a wait.
    pub(crate) fn left(&self) -> Duration {
        Duration::from_nanos(self.clock.nanoseconds(self.deadline.left()))
    }

    /// Fails when the limit has been reached.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.deadline.passed() {
            return Err(Failure::TimedOut);
        }
        Ok(())
    }

    /// Looks until `look` finds something or the limit is reached, with one spin
    /// hint between looks: a line that is looked at without pause takes a third
    /// longer to arrive (measured: 130 ns a round trip against 90).
    #[inline(always)]
    pub(crate) fn spin<T>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        loop {
            for _ in 0..LOOKS {
                if let Some(found) = look()? {
                    return Ok(found);
                }
                core::hint::spin_loop();
            }
            self.check()?;
        }
    }
}
