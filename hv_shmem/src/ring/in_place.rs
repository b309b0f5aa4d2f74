//! The in-place ring: the answer overwrites the question, in the same cache
//! line.
//!
//! Slot (little-endian, in the region's common section):
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | state: 0 before the first lap; 2p + 1 once the request at position p is there; 2p + 2 once it is answered |
//! | 8 | slot size - 8 | request, then answer, padded with zeros |
//!
//! A round trip moves one line there and back: about half of what two lines
//! cost. The price is the rule "every byte has one writer": both peers write the
//! slots, so that this layout is only for pairs that trust each other, is opted
//! into, and is said in the directory. Even so each word is checked, and an
//! impossible one poisons the ring instead of doing harm.
//!
//! Requests are served and answers collected in order.

use super::RecvError;
use super::SendError;
use super::inline::write_padded;
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::SPACE_THRESHOLD;
use super::place::Shape;
use super::progress::OwnCursor;
use super::progress::PeerCursor;
use super::wake::Wake;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::violation::Violation;

/// State word of a slot that holds the request at `position`.
#[inline(always)]
fn requested(position: u64) -> u64 {
    position.wrapping_mul(2).wrapping_add(1)
}

/// State word of a slot whose request at `position` is answered.
#[inline(always)]
fn answered(position: u64) -> u64 {
    position.wrapping_mul(2).wrapping_add(2)
}

/// The calling end of an in-place ring.
#[derive(Debug)]
pub struct InPlaceCaller<M> {
    storage: M,
    produced: M,
    peer: PeerCursor<M>,
    shape: Shape,
    next: u64,
    done: u64,
    flushed: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> InPlaceCaller<M> {
    /// The caller's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let shape = place.check(RingLayout::InPlace)?;
        Ok(Self {
            storage: place.storage,
            produced: place.produced,
            peer: PeerCursor::new(place.cursor),
            shape,
            next: 0,
            done: 0,
            flushed: 0,
            poison: None,
        })
    }

    /// Takes the server's line, once the server has registered one.
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        super::place::fits("consumer's line", &line, super::place::CURSOR_BYTES)?;
        self.peer.attach(line);
        Ok(())
    }

    /// Payload bytes of a request and of an answer.
    pub fn payload(&self) -> usize {
        self.shape.payload
    }

    /// What poisoned the ring for this side, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Calls made whose answers have not been collected.
    pub fn outstanding(&self) -> u64 {
        self.next.wrapping_sub(self.done)
    }

    /// Position that the next call gets.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Makes a call of at most [`payload`](Self::payload) bytes; gives its
    /// position. Answers come in the order of calls.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent. `Full` means that every slot holds a
    /// call whose answer has not been collected.
    #[inline]
    pub fn try_call(&mut self, request: &[u8]) -> Result<u64, SendError> {
        if request.len() > self.shape.payload {
            return Err(SendError::TooLong {
                len: request.len(),
                limit: self.shape.payload,
            });
        }
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.outstanding() >= self.shape.slots {
            return Err(SendError::Full);
        }
        let position = self.next;
        let at = self.shape.offset(position);
        write_padded(&self.storage, at + 8, request, self.shape.payload);
        // Release: pairs with the acquire load in `InPlaceServer::claim`; the
        // request comes before it.
        self.storage
            .store_u64(at, requested(position), Ordering::Release);
        self.next = position.wrapping_add(1);
        Ok(position)
    }

    /// Collects the answer to the oldest call: the first `out.len()` bytes of it
    /// are copied. Gives how many, or `None` when it has not come.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn poll_answer(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if !self.has_answer()? {
            return Ok(None);
        }
        let n = out.len().min(self.shape.payload);
        let at = self.shape.offset(self.done);
        self.storage.read(at + 8, &mut out[..n]);
        self.done = self.done.wrapping_add(1);
        Ok(Some(n))
    }

    /// Whether the oldest call has been answered.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn has_answer(&mut self) -> Result<bool, RecvError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.done == self.next {
            return Ok(false);
        }
        // Acquire: pairs with the release store in `InPlaceServer::answer`.
        let found = self
            .storage
            .load_u64(self.shape.offset(self.done), Ordering::Acquire);
        let (empty, full) = (requested(self.done), answered(self.done));
        if found != full && found != empty {
            return Err(
                poison(&mut self.poison, &self.shape, self.done, found, empty, full).into(),
            );
        }
        Ok(found == full)
    }

    /// After one or more calls: says whether the server sleeps and wants its
    /// doorbell.
    pub fn flush(&mut self) -> Wake {
        let old = core::mem::replace(&mut self.flushed, self.next);
        if old == self.next {
            return Wake::QUIET;
        }
        self.peer.wake(old, self.next)
    }

    /// Before sleeping: asks for a doorbell when the oldest call is answered.
    /// Look at [`has_answer`](Self::has_answer) once more before sleeping.
    pub fn arm(&mut self) {
        self.produced
            .store_u64(SPACE_THRESHOLD, self.done, Ordering::Relaxed);
        // Pairs with the fence in `OwnCursor::flush`, called by the server.
        self.produced.fence(Ordering::SeqCst);
    }
}

/// The serving end of an in-place ring.
#[derive(Debug)]
pub struct InPlaceServer<M> {
    storage: M,
    own: OwnCursor<M>,
    shape: Shape,
    next: u64,
    done: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> InPlaceServer<M> {
    /// The server's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit, or the place has
    /// no consumer's line.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let shape = place.check(RingLayout::InPlace)?;
        let line = place.cursor.ok_or(PlaceError::NoCursor)?;
        Ok(Self {
            storage: place.storage,
            own: OwnCursor::new(line, place.produced, shape.slots),
            shape,
            next: 0,
            done: 0,
            poison: None,
        })
    }

    /// Payload bytes of a request and of an answer.
    pub fn payload(&self) -> usize {
        self.shape.payload
    }

    /// What poisoned the ring for this side, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Requests taken and not answered yet.
    pub fn unanswered(&self) -> u64 {
        self.next.wrapping_sub(self.done)
    }

    /// Takes the next request: the first `out.len()` bytes of it are copied.
    /// Gives how many, or `None` when nothing has arrived. Several may be taken
    /// before the first is answered.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn try_recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if !self.has_message()? {
            return Ok(None);
        }
        let n = out.len().min(self.shape.payload);
        let at = self.shape.offset(self.next);
        self.storage.read(at + 8, &mut out[..n]);
        self.next = self.next.wrapping_add(1);
        Ok(Some(n))
    }

    /// Answers the oldest unanswered request, in its own line, with at most
    /// [`payload`](Self::payload) bytes.
    ///
    /// # Errors
    /// [`SendError::TooLong`]; [`SendError::Full`] when no request is
    /// unanswered; [`SendError::Poisoned`].
    #[inline]
    pub fn answer(&mut self, answer: &[u8]) -> Result<(), SendError> {
        if answer.len() > self.shape.payload {
            return Err(SendError::TooLong {
                len: answer.len(),
                limit: self.shape.payload,
            });
        }
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.done == self.next {
            return Err(SendError::Full);
        }
        let at = self.shape.offset(self.done);
        write_padded(&self.storage, at + 8, answer, self.shape.payload);
        // Release: pairs with the acquire load in `InPlaceCaller::has_answer`.
        self.storage
            .store_u64(at, answered(self.done), Ordering::Release);
        self.done = self.done.wrapping_add(1);
        Ok(())
    }

    /// Whether a request waits.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn has_message(&mut self) -> Result<bool, RecvError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.unanswered() >= self.shape.slots {
            return Ok(false);
        }
        // Acquire: pairs with the release store in `InPlaceCaller::try_call`.
        let found = self
            .storage
            .load_u64(self.shape.offset(self.next), Ordering::Acquire);
        let full = requested(self.next);
        let empty = if self.next < self.shape.slots {
            0
        } else {
            answered(self.next.wrapping_sub(self.shape.slots))
        };
        if found != full && found != empty {
            return Err(
                poison(&mut self.poison, &self.shape, self.next, found, empty, full).into(),
            );
        }
        Ok(found == full)
    }

    /// After one or more answers: says whether the caller sleeps and wants its
    /// doorbell.
    pub fn flush(&mut self) -> Wake {
        self.own.flush(self.done)
    }

    /// Before sleeping: asks for a doorbell at the next request. Look at
    /// [`has_message`](Self::has_message) once more before sleeping.
    pub fn arm(&mut self) {
        self.own.arm(self.next);
    }
}

#[cold]
fn poison(
    poison: &mut Option<Violation>,
    shape: &Shape,
    position: u64,
    found: u64,
    empty: u64,
    full: u64,
) -> Violation {
    *poison.insert(Violation::Sequence {
        slot: position & shape.mask,
        found,
        empty,
        full,
    })
}
