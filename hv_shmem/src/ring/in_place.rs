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
//! Whoever looks is the next to write, so that a look asks for the line to write
//! it. It then comes over whole, and the write that follows does not have to ask
//! for it again: between cores without a common cache that is a third of the round
//! trip.
//!
//! Requests are served and answers collected in order.

use super::RecvError;
use super::SendError;
use super::place::Line;
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::SPACE_THRESHOLD;
use super::place::producer_line;
use super::progress::OwnCursor;
use super::progress::PeerCursor;
use super::wake::Wake;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::mem::Slots;
use crate::violation::Violation;

/// Bytes of the state word, before the payload.
const STATE: usize = 8;

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
    slots: Slots<M>,
    payload: usize,
    produced: Line<M>,
    peer: PeerCursor<M>,
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
        let slots = place.check(RingLayout::InPlace)?;
        Ok(Self {
            payload: slots.slot_size() - STATE,
            slots,
            produced: producer_line(place.produced)?,
            peer: PeerCursor::new(place.cursor)?,
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
        self.peer.attach(line)
    }

    /// Payload bytes of a request and of an answer.
    pub fn payload(&self) -> usize {
        self.payload
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
    #[inline(always)]
    pub fn try_call(&mut self, request: &[u8]) -> Result<u64, SendError> {
        if request.len() > self.payload {
            return Err(SendError::TooLong {
                len: request.len(),
                limit: self.payload,
            });
        }
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.outstanding() >= self.slots.count() {
            return Err(SendError::Full);
        }
        let position = self.next;
        write(&self.slots, position, request);
        // Release: pairs with the acquire load in `InPlaceServer::claim`; the
        // request comes before it.
        self.slots
            .store(position, requested(position), Ordering::Release);
        self.next = position.wrapping_add(1);
        Ok(position)
    }

    /// Collects the answer to the oldest call: the first `out.len()` bytes of it
    /// are copied. Gives how many, or `None` when it has not come.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline(always)]
    pub fn poll_answer(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if !self.has_answer()? {
            return Ok(None);
        }
        let n = read(&self.slots, self.done, out);
        self.done = self.done.wrapping_add(1);
        Ok(Some(n))
    }

    /// Whether the oldest call has been answered.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline(always)]
    pub fn has_answer(&mut self) -> Result<bool, RecvError> {
        // First, so that it is on its way before the load below can ask to read.
        self.slots.prefetch_first_to_write(self.done);
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.done == self.next {
            return Ok(false);
        }
        // Acquire: pairs with the release store in `InPlaceServer::answer`.
        let found = self.slots.load(self.done, Ordering::Acquire);
        let (empty, full) = (requested(self.done), answered(self.done));
        if found == full {
            return Ok(true);
        }
        if found != empty {
            return Err(
                poison(&mut self.poison, &self.slots, self.done, found, empty, full).into(),
            );
        }
        Ok(false)
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
            .mem()
            .store_u64(SPACE_THRESHOLD, self.done, Ordering::Relaxed);
        // Pairs with the fence in `OwnCursor::flush`, called by the server.
        self.produced.mem().fence(Ordering::SeqCst);
    }
}

/// The serving end of an in-place ring.
#[derive(Debug)]
pub struct InPlaceServer<M> {
    slots: Slots<M>,
    payload: usize,
    own: OwnCursor<M>,
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
        let slots = place.check(RingLayout::InPlace)?;
        Ok(Self {
            own: OwnCursor::new(place.cursor, producer_line(place.produced)?, slots.count())?,
            payload: slots.slot_size() - STATE,
            slots,
            next: 0,
            done: 0,
            poison: None,
        })
    }

    /// Payload bytes of a request and of an answer.
    pub fn payload(&self) -> usize {
        self.payload
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
    #[inline(always)]
    pub fn try_recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if !self.has_message()? {
            return Ok(None);
        }
        let n = read(&self.slots, self.next, out);
        self.next = self.next.wrapping_add(1);
        Ok(Some(n))
    }

    /// Answers the oldest unanswered request, in its own line, with at most
    /// [`payload`](Self::payload) bytes.
    ///
    /// # Errors
    /// [`SendError::TooLong`]; [`SendError::Full`] when no request is
    /// unanswered; [`SendError::Poisoned`].
    #[inline(always)]
    pub fn answer(&mut self, answer: &[u8]) -> Result<(), SendError> {
        if answer.len() > self.payload {
            return Err(SendError::TooLong {
                len: answer.len(),
                limit: self.payload,
            });
        }
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.done == self.next {
            return Err(SendError::Full);
        }
        write(&self.slots, self.done, answer);
        // Release: pairs with the acquire load in `InPlaceCaller::has_answer`.
        self.slots
            .store(self.done, answered(self.done), Ordering::Release);
        self.done = self.done.wrapping_add(1);
        Ok(())
    }

    /// Whether a request waits.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline(always)]
    pub fn has_message(&mut self) -> Result<bool, RecvError> {
        // First, so that it is on its way before the load below can ask to read.
        self.slots.prefetch_first_to_write(self.next);
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        if self.unanswered() >= self.slots.count() {
            return Ok(false);
        }
        // Acquire: pairs with the release store in `InPlaceCaller::try_call`.
        let found = self.slots.load(self.next, Ordering::Acquire);
        let full = requested(self.next);
        if found == full {
            return Ok(true);
        }
        let empty = if self.next < self.slots.count() {
            0
        } else {
            answered(self.next.wrapping_sub(self.slots.count()))
        };
        if found != empty {
            return Err(
                poison(&mut self.poison, &self.slots, self.next, found, empty, full).into(),
            );
        }
        Ok(false)
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

/// Writes a request or an answer and zeros up to the slot's end.
#[inline(always)]
fn write<M: SharedMem>(slots: &Slots<M>, position: u64, message: &[u8]) {
    if message.len() == slots.slot_size() - STATE {
        slots.write(position, STATE, message);
    } else {
        slots.write_padded(position, STATE, message);
    }
}

/// Copies as much of a request or an answer as fits.
#[inline(always)]
fn read<M: SharedMem>(slots: &Slots<M>, position: u64, out: &mut [u8]) -> usize {
    let payload = slots.slot_size() - STATE;
    if out.len() == payload {
        slots.read(position, STATE, out);
        payload
    } else {
        let n = out.len().min(payload);
        slots.read(position, STATE, &mut out[..n]);
        n
    }
}

#[cold]
fn poison<M: SharedMem>(
    poison: &mut Option<Violation>,
    slots: &Slots<M>,
    position: u64,
    found: u64,
    empty: u64,
    full: u64,
) -> Violation {
    *poison.insert(Violation::Sequence {
        slot: slots.index(position),
        found,
        empty,
        full,
    })
}
