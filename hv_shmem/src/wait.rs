//! Waiting for a peer: spin, sleep, or spin for as long as that has paid before
//! and then sleep.
//!
//! The order is always the same: look (spinning, for a budget), **arm** (tell
//! the peer that its doorbell is wanted), **look again**, sleep. Whoever makes
//! progress publishes it before it looks whether the other side has armed, so
//! that one of the two sees the other and no wake is lost (`ring/progress.rs`
//! has the fences).
//!
//! ```text
//!            ready                 ready
//!   spin ------------> done <--------------- arm, look again
//!     | budget spent            not ready |        ^
//!     +-----------------------------------|--------+
//!                                         v        | rang
//!                              timed out <--- sleep
//! ```
//!
//! Why spin at all: a blocking wake across cores costs about 40 us here whatever
//! the mechanism, a cache line 0.15 us. Why not only spin: it burns a core.
//! [`WaitMode::Adaptive`] learns how long answers take and spins about twice
//! that, never longer than a wake costs ([`MAX_SPIN_NS`]).
//!
//! ```
//! use hv_shmem::doorbell::{Doorbell, EventFd};
//! use hv_shmem::ring::{InlineReceiver, InlineSender, RingKind, RingLayout, RingPlace};
//! use hv_shmem::wait::{MonotonicClock, WaitMode, Waiter};
//!
//! let place = RingPlace::on_heap(RingKind::Stream, RingLayout::Inline, 64, 16)?;
//! let mut sender = InlineSender::new(place.clone())?;
//! let mut receiver = InlineReceiver::new(place)?;
//! let bell = EventFd::new()?;
//! let doorbell = bell.try_clone()?;
//! std::thread::spawn(move || {
//!     sender.try_send(b"hello").unwrap();
//!     if sender.flush().must_ring {
//!         doorbell.ring().unwrap();
//!     }
//! });
//!
//! let mut waiter = Waiter::new(WaitMode::Adaptive, MonotonicClock::new());
//! let mut message = [0; 56];
//! while receiver.try_recv(&mut message)?.is_none() {
//!     waiter.wait(&mut receiver, &bell, None)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Distrusted: the peer may never make progress and may ring without reason. The
//! waiter's own timeout bounds both.

use crate::doorbell::Bell;
use crate::doorbell::DoorbellError;
use crate::doorbell::Heard;
use crate::mem::SharedMem;
use crate::ring::BulkReceiver;
use crate::ring::BulkSender;
use crate::ring::InPlaceCaller;
use crate::ring::InPlaceServer;
use crate::ring::InlineReceiver;
use crate::ring::InlineSender;
use crate::ring::MpscReceiver;
use crate::ring::RecvError;
use crate::ring::SendError;
use crate::violation::Violation;
use core::time::Duration;

/// Longest spin of an adaptive wait, in nanoseconds: about what one blocking
/// wake costs, so that a wait costs at most twice the best choice.
pub const MAX_SPIN_NS: u64 = 50_000;
/// Shortest spin of an adaptive wait, in nanoseconds: cheap beside a wake, and
/// long enough to notice that the peer has become fast again.
pub const MIN_SPIN_NS: u64 = 2_000;
/// Spin budget before anything has been learned, in nanoseconds.
pub const FIRST_SPIN_NS: u64 = 20_000;
/// Looks between two readings of the clock: a reading costs as much as a few
/// looks.
const LOOKS_PER_READING: u32 = 32;

/// Spends some four cycles a step and touches no memory: for waits that are
/// shorter than a spin hint, which takes 23 ns on some processors. A side that
/// has just written a line which the other side answers in gains by a rest before
/// its first look.
#[inline(always)]
pub fn rest(steps: u32) {
    let mut value: u64 = 3;
    for _ in 0..steps {
        value = core::hint::black_box(value).wrapping_mul(value);
    }
    core::hint::black_box(value);
}

/// A clock that only goes forward.
pub trait Clock {
    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64;
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}

/// The operating system's monotonic clock.
#[cfg(feature = "std")]
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock(std::time::Instant);

#[cfg(feature = "std")]
impl MonotonicClock {
    /// A clock that starts at 0 now.
    pub fn new() -> Self {
        Self(std::time::Instant::now())
    }
}

#[cfg(feature = "std")]
impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "std")]
impl Clock for MonotonicClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// How to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitMode {
    /// Never sleep: lowest latency, a whole core.
    Spin,
    /// Spin for a learned budget, then sleep.
    #[default]
    Adaptive,
    /// Sleep at once.
    Sleep,
}

/// Something that becomes ready through a peer's progress.
pub trait Source {
    /// Whether it is ready now.
    ///
    /// # Errors
    /// What the peer did wrong; waiting for it makes no sense any more.
    fn ready(&mut self) -> Result<bool, Violation>;

    /// Asks the peer for a doorbell when it becomes ready. The waiter looks
    /// again after this.
    fn arm(&mut self);
}

fn of_recv(result: Result<bool, RecvError>) -> Result<bool, Violation> {
    result.map_err(|RecvError::Poisoned(v)| v)
}

fn of_send(result: Result<bool, SendError>) -> Result<bool, Violation> {
    match result {
        Ok(ready) => Ok(ready),
        Err(SendError::Poisoned(v)) => Err(v),
        Err(SendError::Full | SendError::TooLong { .. }) => Ok(false),
    }
}

macro_rules! source_of_messages {
    ($($ring:ident),*) => {$(
        /// Ready when a message waits.
        impl<M: SharedMem> Source for $ring<M> {
            #[inline]
            fn ready(&mut self) -> Result<bool, Violation> {
                of_recv(self.has_message())
            }

            fn arm(&mut self) {
                $ring::arm(self);
            }
        }
    )*};
}

source_of_messages!(InlineReceiver, MpscReceiver, BulkReceiver, InPlaceServer);

/// Ready when the oldest call is answered.
impl<M: SharedMem> Source for InPlaceCaller<M> {
    #[inline]
    fn ready(&mut self) -> Result<bool, Violation> {
        of_recv(self.has_answer())
    }

    fn arm(&mut self) {
        InPlaceCaller::arm(self);
    }
}

/// Ready when a message can be sent.
impl<M: SharedMem> Source for InlineSender<M> {
    #[inline]
    fn ready(&mut self) -> Result<bool, Violation> {
        of_send(self.has_space())
    }

    fn arm(&mut self) {
        self.arm_space();
    }
}

/// Ready when a message can be sent.
impl<M: SharedMem> Source for BulkSender<M> {
    #[inline]
    fn ready(&mut self) -> Result<bool, Violation> {
        of_send(self.has_space())
    }

    fn arm(&mut self) {
        self.arm_space();
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The source is ready.
    Ready,
    /// The timeout passed first.
    TimedOut,
}

/// Why waiting makes no sense any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The peer broke the ring's rules.
    #[error("waiting on a poisoned ring: {0}")]
    Poisoned(Violation),
    /// The bell cannot be waited on.
    #[error("waiting for a doorbell: {0}")]
    Bell(#[from] DoorbellError),
}

impl From<Violation> for WaitError {
    fn from(v: Violation) -> Self {
        Self::Poisoned(v)
    }
}

/// What the waits of a [`Waiter`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitCounters {
    /// Waits that ended while spinning (or needed no waiting at all).
    pub spun: u64,
    /// Times the waiter slept.
    pub slept: u64,
    /// Sleeps after which the source was not ready.
    pub spurious: u64,
    /// Waits that timed out.
    pub timed_out: u64,
}

/// Learned spin budget: what spinning longer than this has not paid for lately.
#[derive(Debug, Clone, Copy)]
struct Budget {
    ns: u64,
}

impl Budget {
    /// The wait ended after `ns` of spinning: room for twice that next time,
    /// given quickly and taken back slowly.
    fn hit(&mut self, ns: u64) {
        let target = ns
            .saturating_mul(2)
            .saturating_add(MIN_SPIN_NS)
            .clamp(MIN_SPIN_NS, MAX_SPIN_NS);
        if target >= self.ns {
            self.ns = target;
        } else {
            self.ns -= (self.ns - target) / 16;
        }
    }

    /// The wait ended asleep, `ns` after it began: would the longest spin have
    /// caught it? A wake itself takes about as long as the longest spin.
    fn miss(&mut self, ns: u64) {
        if ns < MAX_SPIN_NS.saturating_mul(2) {
            self.ns = self.ns.saturating_mul(2).min(MAX_SPIN_NS);
        } else {
            self.ns = (self.ns / 2).max(MIN_SPIN_NS);
        }
    }
}

/// Waits for one source; remembers how long that took. Keep one for each source.
#[derive(Debug)]
pub struct Waiter<C> {
    mode: WaitMode,
    clock: C,
    budget: Budget,
    counters: WaitCounters,
}

impl<C: Clock> Waiter<C> {
    /// A waiter that has learned nothing yet.
    pub fn new(mode: WaitMode, clock: C) -> Self {
        Self {
            mode,
            clock,
            budget: Budget { ns: FIRST_SPIN_NS },
            counters: WaitCounters::default(),
        }
    }

    /// How its waits ended so far.
    pub fn counters(&self) -> WaitCounters {
        self.counters
    }

    /// The spin budget of the next adaptive wait, in nanoseconds.
    pub fn budget_ns(&self) -> u64 {
        self.budget.ns
    }

    /// Waits until `source` is ready or `timeout` has passed (`None`: for ever).
    /// `bell` is what the peer rings for this source.
    ///
    /// # Errors
    /// [`WaitError`].
    #[inline]
    pub fn wait<S: Source, B: Bell>(
        &mut self,
        source: &mut S,
        bell: &B,
        timeout: Option<Duration>,
    ) -> Result<Waited, WaitError> {
        // The first looks come before the first reading of the clock: a fast
        // peer's answer does not pay for it.
        if self.look(source)? {
            self.counters.spun += 1;
            if self.mode == WaitMode::Adaptive {
                self.budget.hit(0);
            }
            return Ok(Waited::Ready);
        }
        let start = self.clock.now_ns();
        let end = timeout.map(|t| {
            let ns = u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
            start.saturating_add(ns)
        });
        let spin_until = match self.mode {
            WaitMode::Spin => end,
            WaitMode::Adaptive => {
                let budget = start.saturating_add(self.budget.ns);
                Some(end.map_or(budget, |end| end.min(budget)))
            }
            WaitMode::Sleep => Some(start),
        };
        if self.mode != WaitMode::Sleep && self.spin(source, start, spin_until)? {
            self.counters.spun += 1;
            return Ok(Waited::Ready);
        }
        if self.mode == WaitMode::Spin {
            self.counters.timed_out += 1;
            return Ok(Waited::TimedOut);
        }
        self.sleep(source, bell, start, end)
    }

    /// Looks once, or (unless told to sleep) a few times.
    #[inline]
    fn look<S: Source>(&mut self, source: &mut S) -> Result<bool, Violation> {
        if self.mode == WaitMode::Sleep {
            return source.ready();
        }
        for _ in 0..LOOKS_PER_READING {
            if source.ready()? {
                return Ok(true);
            }
            core::hint::spin_loop();
        }
        Ok(false)
    }

    /// Spins until ready (true) or `until` has passed (false).
    #[inline]
    fn spin<S: Source>(
        &mut self,
        source: &mut S,
        start: u64,
        until: Option<u64>,
    ) -> Result<bool, Violation> {
        loop {
            if self.look(source)? {
                if self.mode == WaitMode::Adaptive {
                    let now = self.clock.now_ns();
                    self.budget.hit(now.saturating_sub(start));
                }
                return Ok(true);
            }
            if until.is_some_and(|until| self.clock.now_ns() >= until) {
                return Ok(false);
            }
        }
    }

    /// Arms, looks again, sleeps, until ready or the time is up.
    #[cold]
    fn sleep<S: Source, B: Bell>(
        &mut self,
        source: &mut S,
        bell: &B,
        start: u64,
        end: Option<u64>,
    ) -> Result<Waited, WaitError> {
        let waited = self.sleep_until_ready(source, bell, end)?;
        if self.mode == WaitMode::Adaptive {
            let now = self.clock.now_ns();
            self.budget.miss(now.saturating_sub(start));
        }
        if waited == Waited::TimedOut {
            self.counters.timed_out += 1;
        }
        Ok(waited)
    }

    fn sleep_until_ready<S: Source, B: Bell>(
        &mut self,
        source: &mut S,
        bell: &B,
        end: Option<u64>,
    ) -> Result<Waited, WaitError> {
        loop {
            source.arm();
            if source.ready()? {
                return Ok(Waited::Ready);
            }
            let left = match end {
                None => None,
                Some(end) => match end.saturating_sub(self.clock.now_ns()) {
                    0 => return Ok(Waited::TimedOut),
                    ns => Some(Duration::from_nanos(ns)),
                },
            };
            self.counters.slept += 1;
            let heard = bell.wait(left)?;
            if source.ready()? {
                return Ok(Waited::Ready);
            }
            if heard == Heard::Rang {
                self.counters.spurious += 1;
            }
        }
    }
}
