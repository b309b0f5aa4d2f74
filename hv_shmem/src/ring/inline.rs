//! The in-line ring: one producer, one consumer, the sequence word in the
//! message's own cache line.
//!
//! Slot (little-endian, in the producer's section):
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | sequence: 0 before the first lap; position + 1 once the message at `position` is there |
//! | 8 | slot size - 8 | payload, padded with zeros |
//!
//! A message costs one cache-line transfer, because the word that announces it
//! travels with it. Use it for requests, answers and calls (56 bytes in a
//! 64-byte slot). For streams take [`BulkSender`](super::BulkSender), or send
//! with [`InlineSender::push_batch`], 32 messages and more at a time.
//!
//! Distrusted: the peer at the other end. The receiver loads a slot's sequence
//! word once an attempt and its payload once a message; a sequence word that no
//! honest producer could have left poisons the ring. What the payload means is
//! for the caller to check.

use super::RecvError;
use super::SendError;
use super::place::Line;
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::producer_line;
use super::progress::OwnCursor;
use super::progress::PeerCursor;
use super::progress::arm_space;
use super::wake::Wake;
use crate::guard::Guard;
use crate::guard::stands;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::mem::Slots;
use crate::violation::Violation;

/// Bytes of the sequence word, before the payload.
pub(crate) const SEQUENCE: usize = 8;

/// The sending end of an in-line ring.
#[derive(Debug)]
pub struct InlineSender<M> {
    slots: Slots<M>,
    payload: usize,
    produced: Line<M>,
    peer: PeerCursor<M>,
    next: u64,
    limit: u64,
    flushed: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> InlineSender<M> {
    /// The producer's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let slots = place.check(RingLayout::Inline)?;
        Ok(Self {
            limit: slots.count(),
            payload: slots.slot_size() - SEQUENCE,
            slots,
            produced: producer_line(place.produced)?,
            peer: PeerCursor::new(place.cursor)?,
            next: 0,
            flushed: 0,
            poison: None,
        })
    }

    /// Takes the consumer's line, once the consumer has registered one.
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        self.peer.attach(line)
    }

    /// Payload bytes a message.
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// What poisoned the ring for this side, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Messages sent so far.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Sends one message of at most [`payload`](Self::payload) bytes; a shorter
    /// one arrives padded with zeros. A spinning receiver sees it at once; one
    /// that may sleep needs [`flush`](Self::flush) too.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    #[inline(always)]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() != self.payload || self.next == self.limit {
            return self.send_slowly(message);
        }
        self.slots.write(self.next, SEQUENCE, message);
        self.commit();
        Ok(())
    }

    /// A message that is short or needs a look for space.
    #[inline(never)]
    fn send_slowly(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > self.payload {
            return Err(self.too_long(message.len()));
        }
        if self.next == self.limit {
            self.refresh()?;
        }
        self.slots.write_padded(self.next, SEQUENCE, message);
        self.commit();
        Ok(())
    }

    /// Sends as many whole messages as there is space for: `messages` is a
    /// sequence of exactly [`payload`](Self::payload) bytes each. Gives how many
    /// went, 0 when the ring is full.
    ///
    /// # Errors
    /// [`SendError::TooLong`] when `messages` is no whole number of messages;
    /// [`SendError::Poisoned`].
    pub fn push_batch(&mut self, messages: &[u8]) -> Result<usize, SendError> {
        if !messages.len().is_multiple_of(self.payload) {
            return Err(self.too_long(messages.len()));
        }
        let mut sent = 0;
        for message in messages.chunks_exact(self.payload) {
            match self.try_send(message) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// After one or more messages: says whether the receiver sleeps and wants
    /// its doorbell. Costs one fence; call it once a batch, or never when the
    /// receiver only spins.
    #[inline]
    pub fn flush(&mut self) -> Wake {
        let old = core::mem::replace(&mut self.flushed, self.next);
        if old == self.next {
            return Wake::QUIET;
        }
        self.peer.wake(old, self.next)
    }

    /// Whether a message can be sent now.
    ///
    /// # Errors
    /// [`SendError::Poisoned`].
    pub fn has_space(&mut self) -> Result<bool, SendError> {
        if self.next != self.limit {
            return Ok(true);
        }
        match self.refresh() {
            Ok(()) => Ok(true),
            Err(SendError::Full) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Before sleeping on a full ring: asks for a doorbell when half of it is
    /// free. Look at [`has_space`](Self::has_space) once more before sleeping.
    pub fn arm_space(&mut self) {
        let cursor = self.limit.wrapping_sub(self.slots.count());
        arm_space(&self.produced, cursor, self.slots.count());
    }

    #[inline(always)]
    fn commit(&mut self) {
        let position = self.next;
        self.next = position.wrapping_add(1);
        // Release: pairs with the acquire load of the sequence word in
        // `InlineReceiver::claim`; the payload written above comes before it.
        self.slots.store(position, self.next, Ordering::Release);
    }

    #[cold]
    fn too_long(&self, len: usize) -> SendError {
        SendError::TooLong {
            len,
            limit: self.payload,
        }
    }

    #[cold]
    #[inline(never)]
    fn refresh(&mut self) -> Result<(), SendError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        match self.peer.fetch(|| self.next) {
            Ok(cursor) => self.limit = cursor.wrapping_add(self.slots.count()),
            Err(v) => {
                self.poison = Some(v);
                self.limit = self.next;
                return Err(v.into());
            }
        }
        if self.next == self.limit {
            return Err(SendError::Full);
        }
        Ok(())
    }
}

/// The receiving end of an in-line ring.
#[derive(Debug)]
pub struct InlineReceiver<M> {
    slots: Slots<M>,
    payload: usize,
    own: OwnCursor<M>,
    next: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> InlineReceiver<M> {
    /// The consumer's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit, or the place has
    /// no consumer's line.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let slots = place.check(RingLayout::Inline)?;
        Ok(Self {
            own: OwnCursor::new(place.cursor, producer_line(place.produced)?, slots.count())?,
            payload: slots.slot_size() - SEQUENCE,
            slots,
            next: 0,
            poison: None,
        })
    }

    /// Payload bytes a message.
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// What poisoned the ring for this side, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Messages received so far.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Takes the next message: the first `out.len()` bytes of its payload are
    /// copied. Gives how many bytes, or `None` when nothing has arrived.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`], now and for ever after.
    #[inline(always)]
    pub fn try_recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if !self.claim() {
            return self.idle().map(|()| None);
        }
        let n = if out.len() == self.payload {
            self.slots.read(self.next, SEQUENCE, out);
            out.len()
        } else {
            self.read_part(out)
        };
        self.next = self.next.wrapping_add(1);
        self.own.advance(self.next);
        Ok(Some(n))
    }

    /// Copies the part of a message that fits.
    #[inline]
    fn read_part(&self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.payload);
        self.slots.read(self.next, SEQUENCE, &mut out[..n]);
        n
    }

    /// Takes as many messages as have arrived and fit: `out` receives
    /// [`payload`](Self::payload) bytes each. Gives how many came.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`], unless messages came before the bad one; then
    /// the next call tells.
    pub fn pop_batch(&mut self, out: &mut [u8]) -> Result<usize, RecvError> {
        let mut taken = 0;
        for message in out.chunks_exact_mut(self.payload) {
            match self.try_recv(message) {
                Ok(Some(_)) => taken += 1,
                Ok(None) => break,
                Err(e) if taken == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// Whether a message waits.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    pub fn has_message(&mut self) -> Result<bool, RecvError> {
        if self.claim() {
            return Ok(true);
        }
        self.idle().map(|()| false)
    }

    /// Publishes the cursor and says whether the sender sleeps for want of space
    /// and wants its doorbell. Once a batch; never needed when the sender only
    /// spins.
    pub fn flush(&mut self) -> Wake {
        self.own.flush(self.next)
    }

    /// Before sleeping: asks for a doorbell at the next message. Look at
    /// [`has_message`](Self::has_message) once more before sleeping.
    pub fn arm(&mut self) {
        self.own.arm(self.next);
    }

    /// Loads the sequence word once; true when the next message is there.
    #[inline(always)]
    fn claim(&mut self) -> bool {
        // Acquire: pairs with the release store in `InlineSender::commit`; the
        // payload is read after it.
        let found = self.slots.load(self.next, Ordering::Acquire);
        if found == self.next.wrapping_add(1) {
            return self.poison.is_none();
        }
        self.check_empty(found);
        false
    }

    /// A sequence word that does not announce the next message must be the one
    /// that the last lap left.
    #[inline]
    fn check_empty(&mut self, found: u64) {
        let full = self.next.wrapping_add(1);
        let empty = if self.next < self.slots.count() {
            0
        } else {
            full.wrapping_sub(self.slots.count())
        };
        if stands(Guard::Sequence) && found != empty && self.poison.is_none() {
            self.poison = Some(Violation::Sequence {
                slot: self.slots.index(self.next),
                found,
                empty,
                full,
            });
        }
    }

    /// Nothing to take, or never again. The cursor is left alone: less than a
    /// quarter of the ring is consumed and not published, so that the sender is
    /// never without space because of it.
    #[inline]
    fn idle(&mut self) -> Result<(), RecvError> {
        match self.poison {
            Some(v) => Err(v.into()),
            None => Ok(()),
        }
    }
}
