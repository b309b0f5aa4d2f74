//! Two threads, pinned to two cores, that start together.

use super::machine;
use crate::BenchError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// Spins for which a side waits before it gives up: seconds, where a sample
/// takes milliseconds. Keeps a bench with a dead or stuck peer from hanging.
const PATIENCE: u32 = 1 << 31;

/// The two cores that a measurement runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) cores: [usize; 2],
}

/// A value with two cache lines of its own: what one core works on must not lie
/// beside what the other core works on.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);

impl<T> std::ops::Deref for Alone<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::DerefMut for Alone<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Where both sides meet before the first measured instruction.
#[derive(Debug, Default)]
pub(crate) struct Start {
    arrived: AtomicU32,
}

impl Start {
    /// Waits, spinning, until the other side is here too.
    pub(crate) fn wait(&self) -> Result<(), BenchError> {
        // Pairs with the other side's fetch_add: what it wrote before is seen.
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut patience = Patience::of("start");
        while self.arrived.load(Ordering::Acquire) < 2 {
            patience.spin()?;
        }
        Ok(())
    }
}

/// Waiting went on for too long. Small, so that a polling loop stays in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stuck(&'static str);

impl From<Stuck> for BenchError {
    fn from(Stuck(what): Stuck) -> Self {
        Self::Stuck(what)
    }
}

/// Counts spins and gives up after too many.
#[derive(Debug)]
pub(crate) struct Patience {
    left: u32,
    what: &'static str,
}

impl Patience {
    /// Waits for `what`.
    #[inline]
    pub(crate) fn of(what: &'static str) -> Self {
        Self {
            left: PATIENCE,
            what,
        }
    }

    /// One more look without success, with the pause of a spin loop.
    #[inline(always)]
    pub(crate) fn spin(&mut self) -> Result<(), Stuck> {
        std::hint::spin_loop();
        self.tight()
    }

    /// One more look without success, without a pause.
    #[inline(always)]
    pub(crate) fn tight(&mut self) -> Result<(), Stuck> {
        self.spent(1)
    }

    /// `spins` looks or pauses without success.
    #[inline(always)]
    pub(crate) fn spent(&mut self, spins: u32) -> Result<(), Stuck> {
        self.left = self.left.saturating_sub(spins);
        if self.left == 0 {
            self.left = PATIENCE;
            return Err(Stuck(self.what));
        }
        Ok(())
    }
}

impl Pair {
    /// Runs `left` on the first core and `right` on the second, and returns what
    /// both gave and how often the kernel took a core away from either.
    pub(crate) fn run<L: Send, R: Send>(
        &self,
        left: impl FnOnce(&Start) -> Result<L, BenchError> + Send,
        right: impl FnOnce(&Start) -> Result<R, BenchError> + Send,
    ) -> Result<(L, R, u64), BenchError> {
        let start = Start::default();
        let [first, second] = self.cores;
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| pinned(first, || left(&start)));
            let right = scope.spawn(|| pinned(second, || right(&start)));
            (left.join(), right.join())
        });
        let ((left, a), (right, b)) = (finished(left)?, finished(right)?);
        Ok((left, right, a + b))
    }

    /// Runs `work` on the first core alone.
    pub(crate) fn alone<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<(T, u64), BenchError> {
        let joined = std::thread::scope(|scope| scope.spawn(|| pinned(self.cores[0], work)).join());
        finished(joined)
    }
}

fn finished<T>(joined: std::thread::Result<Result<T, BenchError>>) -> Result<T, BenchError> {
    joined.unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(BenchError::Broken(format!(
            "a measuring thread panicked: {}",
            said.unwrap_or("no message")
        )))
    })
}

fn pinned<T>(
    core: usize,
    work: impl FnOnce() -> Result<T, BenchError>,
) -> Result<(T, u64), BenchError> {
    machine::pin(core)?;
    let before = machine::preemptions();
    let done = work()?;
    Ok((done, machine::preemptions().saturating_sub(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_pair() -> Pair {
        Pair { cores: [0, 0] }
    }

    #[test]
    fn both_sides_run_and_answer() {
        let (left, right, _) = any_pair()
            .run(|_| Ok(1), |_| Ok("two"))
            .expect("both sides finish");
        assert_eq!((left, right), (1, "two"));
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let failed = any_pair().alone::<()>(|| panic!("said so"));
        assert!(matches!(failed, Err(BenchError::Broken(text)) if text.contains("said so")));
    }

    #[test]
    fn patience_ends() {
        let mut patience = Patience {
            left: 3,
            what: "nobody",
        };
        assert!(patience.tight().is_ok());
        assert!(patience.tight().is_ok());
        assert_eq!(patience.tight(), Err(Stuck("nobody")));
    }
}
