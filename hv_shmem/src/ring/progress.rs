//! Progress of the two ends: each end's own line, and its checked view of the
//! other end's.
//!
//! All ring layouts share this file, so that the guards on a peer's cursor and
//! the handshake before sleeping exist once.
//!
//! The handshake (both directions alike): the sleeper stores its threshold,
//! fences, and looks for progress again; the other end publishes progress,
//! fences, and loads the threshold. The two sequentially consistent fences order
//! each store before the load that follows it, so that at least one of the two
//! sees the other: no wake is lost.

use super::place::EVENT_INDEX;
use super::place::Line;
use super::place::PlaceError;
use super::place::SPACE_THRESHOLD;
use super::place::consumer_line;
use super::wake::Wake;
use crate::guard::Guard;
use crate::guard::stands;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::violation::Violation;

/// Most messages consumed that are not published: the line moves between the
/// cores once for so many, and a sender that found the ring full sees space soon.
const CURSOR_BATCH: u64 = 16;

/// Messages of a ring of `slots` from which on consumption is published: one
/// less than these may be consumed while the cursor stands.
pub(crate) fn cursor_batch(slots: u64) -> u64 {
    (slots / 4).clamp(1, CURSOR_BATCH)
}

/// Position of the slot that a line is: its first word is the index or cursor.
pub(crate) const FIRST_WORD: u64 = 0;

/// The producer's view of the consumer's line.
#[derive(Debug, Clone)]
pub(crate) struct PeerCursor<M> {
    line: Option<Line<M>>,
    seen: u64,
}

impl<M: SharedMem> PeerCursor<M> {
    pub(crate) fn new(line: Option<M>) -> Result<Self, PlaceError> {
        let line = line.map(consumer_line).transpose()?;
        Ok(Self { line, seen: 0 })
    }

    /// Takes the consumer's line, once the consumer has one.
    pub(crate) fn attach(&mut self, line: M) -> Result<(), PlaceError> {
        self.line = Some(consumer_line(line)?);
        Ok(())
    }

    /// Fetches the cursor once and checks it against what this side knows.
    /// `produced` is called after the fetch and gives the highest position that
    /// the consumer can have reached.
    #[inline]
    pub(crate) fn fetch(&mut self, produced: impl FnOnce() -> u64) -> Result<u64, Violation> {
        let Some(line) = &self.line else {
            return Ok(0);
        };
        // Acquire: pairs with the release store in `OwnCursor::publish`. What
        // the consumer read from the freed slots happened before; this side may
        // overwrite them.
        let found = line.load(FIRST_WORD, Ordering::Acquire);
        let high = produced();
        let possible = high.wrapping_sub(self.seen);
        if stands(Guard::Cursor) && found.wrapping_sub(self.seen) > possible {
            return Err(Violation::Cursor {
                found,
                low: self.seen,
                high,
            });
        }
        self.seen = found;
        Ok(found)
    }

    /// After publishing progress from `old` to `new`: does the consumer sleep
    /// on it?
    #[inline]
    pub(crate) fn wake(&self, old: u64, new: u64) -> Wake {
        let Some(line) = &self.line else {
            // A consumer that has no line yet counts as armed at 0.
            return Wake::on_passing(0, old, new);
        };
        // Pairs with the fence in `OwnCursor::arm`.
        line.mem().fence(Ordering::SeqCst);
        let threshold = line.mem().load_u64(EVENT_INDEX, Ordering::Relaxed);
        Wake::on_passing(threshold, old, new)
    }
}

/// The consumer's own line, and its view of the producer's threshold.
#[derive(Debug, Clone)]
pub(crate) struct OwnCursor<M> {
    line: Line<M>,
    producer: Line<M>,
    published: u64,
    /// Position from which on consumption is published.
    due: u64,
    flushed: u64,
    batch: u64,
}

impl<M: SharedMem> OwnCursor<M> {
    /// `slots` bounds how much may stay unpublished: less than a quarter of the
    /// ring, so that a sender never waits for it, and less than
    /// [`CURSOR_BATCH`].
    pub(crate) fn new(line: Option<M>, producer: Line<M>, slots: u64) -> Result<Self, PlaceError> {
        let batch = cursor_batch(slots);
        Ok(Self {
            line: consumer_line(line.ok_or(PlaceError::NoCursor)?)?,
            producer,
            published: 0,
            due: batch,
            flushed: 0,
            batch,
        })
    }

    /// Everything before `position` is consumed; publishes when that is a batch.
    #[inline(always)]
    pub(crate) fn advance(&mut self, position: u64) {
        // Modulo 2^64: `position` is at or past `due`.
        if position.wrapping_sub(self.due) <= u64::MAX / 2 {
            self.store(position);
        }
    }

    /// Everything before `position` is consumed; publishes if that is news.
    #[inline]
    pub(crate) fn publish(&mut self, position: u64) {
        if position != self.published {
            self.store(position);
        }
    }

    #[inline]
    fn store(&mut self, position: u64) {
        // Release: pairs with the acquire load in `PeerCursor::fetch`; this
        // side's reads of the freed slots come before it.
        self.line.store(FIRST_WORD, position, Ordering::Release);
        self.published = position;
        self.due = position.wrapping_add(self.batch);
    }

    /// Publishes, and says whether the producer sleeps for want of space.
    pub(crate) fn flush(&mut self, position: u64) -> Wake {
        self.publish(position);
        let old = core::mem::replace(&mut self.flushed, position);
        if old == position {
            return Wake::QUIET;
        }
        // Pairs with the fence in `arm_space`.
        self.line.mem().fence(Ordering::SeqCst);
        let threshold = self
            .producer
            .mem()
            .load_u64(SPACE_THRESHOLD, Ordering::Relaxed);
        Wake::on_passing(threshold, old, position)
    }

    /// Asks for a doorbell when the message at `position` arrives. The caller
    /// must look for it once more before it sleeps.
    pub(crate) fn arm(&mut self, position: u64) {
        self.publish(position);
        self.line
            .mem()
            .store_u64(EVENT_INDEX, position, Ordering::Relaxed);
        // Pairs with the fence in `PeerCursor::wake`.
        if !cfg!(feature = "negative_control_loom_fence") {
            self.line.mem().fence(Ordering::SeqCst);
        }
    }
}

/// Asks for a doorbell when half of a full ring has been freed. `cursor` is the
/// consumer's cursor as last seen. The caller must look for space once more
/// before it sleeps.
pub(crate) fn arm_space<M: SharedMem>(own: &Line<M>, cursor: u64, slots: u64) {
    let threshold = cursor.wrapping_add((slots / 2).max(1)).wrapping_sub(1);
    own.mem()
        .store_u64(SPACE_THRESHOLD, threshold, Ordering::Relaxed);
    // Pairs with the fence in `OwnCursor::flush`.
    own.mem().fence(Ordering::SeqCst);
}
