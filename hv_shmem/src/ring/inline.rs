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
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::Shape;
use super::progress::OwnCursor;
use super::progress::PeerCursor;
use super::progress::arm_space;
use super::wake::Wake;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::violation::Violation;

/// Zeros to pad a short message with.
const ZEROS: [u8; 64] = [0; 64];

/// Writes `message` and zeros up to `payload` bytes at `at`.
#[inline(always)]
pub(crate) fn write_padded<M: SharedMem>(mem: &M, at: u64, message: &[u8], payload: usize) {
    mem.write(at, message);
    let mut done = message.len();
    while done < payload {
        let n = (payload - done).min(ZEROS.len());
        mem.write(at + done as u64, &ZEROS[..n]);
        done += n;
    }
}

/// The sending end of an in-line ring.
#[derive(Debug)]
pub struct InlineSender<M> {
    storage: M,
    produced: M,
    peer: PeerCursor<M>,
    shape: Shape,
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
        let shape = place.check(RingLayout::Inline)?;
        Ok(Self {
            storage: place.storage,
            produced: place.produced,
            peer: PeerCursor::new(place.cursor),
            shape,
            next: 0,
            limit: shape.slots,
            flushed: 0,
            poison: None,
        })
    }

    /// Takes the consumer's line, once the consumer has registered one.
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        super::place::fits("consumer's line", &line, super::place::CURSOR_BYTES)?;
        self.peer.attach(line);
        Ok(())
    }

    /// Payload bytes a message.
    pub fn payload(&self) -> usize {
        self.shape.payload
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
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > self.shape.payload {
            return Err(self.too_long(message.len()));
        }
        if self.next == self.limit {
            self.refresh()?;
        }
        let at = self.shape.offset(self.next);
        write_padded(&self.storage, at + 8, message, self.shape.payload);
        self.commit(at);
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
        if messages.len() % self.shape.payload != 0 {
            return Err(self.too_long(messages.len()));
        }
        let mut sent = 0;
        for message in messages.chunks_exact(self.shape.payload) {
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
        let cursor = self.limit.wrapping_sub(self.shape.slots);
        arm_space(&self.produced, cursor, self.shape.slots);
    }

    #[inline(always)]
    fn commit(&mut self, at: u64) {
        self.next = self.next.wrapping_add(1);
        // Release: pairs with the acquire load of the sequence word in
        // `InlineReceiver::claim`; the payload written above comes before it.
        self.storage.store_u64(at, self.next, Ordering::Release);
    }

    #[cold]
    fn too_long(&self, len: usize) -> SendError {
        SendError::TooLong {
            len,
            limit: self.shape.payload,
        }
    }

    #[cold]
    #[inline(never)]
    fn refresh(&mut self) -> Result<(), SendError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        match self.peer.fetch(|| self.next) {
            Ok(cursor) => self.limit = cursor.wrapping_add(self.shape.slots),
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
    storage: M,
    own: OwnCursor<M>,
    shape: Shape,
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
        let shape = place.check(RingLayout::Inline)?;
        let line = place.cursor.ok_or(PlaceError::NoCursor)?;
        Ok(Self {
            storage: place.storage,
            own: OwnCursor::new(line, place.produced, shape.slots),
            shape,
            next: 0,
            poison: None,
        })
    }

    /// Payload bytes a message.
    pub fn payload(&self) -> usize {
        self.shape.payload
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
    #[inline]
    pub fn try_recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        let at = self.shape.offset(self.next);
        if !self.claim(at) {
            return self.idle().map(|()| None);
        }
        let n = out.len().min(self.shape.payload);
        self.storage.read(at + 8, &mut out[..n]);
        self.next = self.next.wrapping_add(1);
        self.own.advance(self.next);
        Ok(Some(n))
    }

    /// Takes as many messages as have arrived and fit: `out` receives
    /// [`payload`](Self::payload) bytes each. Gives how many came.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`], unless messages came before the bad one; then
    /// the next call tells.
    pub fn pop_batch(&mut self, out: &mut [u8]) -> Result<usize, RecvError> {
        let mut taken = 0;
        for message in out.chunks_exact_mut(self.shape.payload) {
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
        if self.claim(self.shape.offset(self.next)) {
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
    fn claim(&mut self, at: u64) -> bool {
        // Acquire: pairs with the release store in `InlineSender::commit`; the
        // payload is read after it.
        let found = self.storage.load_u64(at, Ordering::Acquire);
        let full = self.next.wrapping_add(1);
        if found == full {
            return self.poison.is_none();
        }
        let empty = if self.next < self.shape.slots {
            0
        } else {
            full.wrapping_sub(self.shape.slots)
        };
        if found != empty && self.poison.is_none() {
            self.poison = Some(Violation::Sequence {
                slot: self.next & self.shape.mask,
                found,
                empty,
                full,
            });
        }
        false
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
