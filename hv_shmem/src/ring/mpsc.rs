//! Several threads of one peer send into one in-line ring.
//!
//! The slots are those of the in-line ring, and so is the receiving end: it
//! cannot tell the difference. The sending threads share a reservation word in
//! their own section (offset 0 of the producer's line): a thread takes `k`
//! positions with one compare-exchange, writes its messages and commits each by
//! its slot's sequence word. A thread never waits for another one's commit.
//!
//! Throughput: [`MpscSender::push_batch`] with 32 messages or more (one locked
//! instruction a batch), 16-byte slots for 8-byte messages, and back-off after
//! "full".
//!
//! Distrusted: the consumer, whose cursor is a claim. On a flat backing another
//! peer could also scribble on the reservation word; the damage is bounded by
//! masking to this ring and by [`MAX_CONTENTION`].

use super::RecvError;
use super::SendError;
use super::inline::InlineReceiver;
use super::inline::SEQUENCE;
use super::place::Line;
use super::place::PRODUCER_INDEX;
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::producer_line;
use super::progress::FIRST_WORD;
use super::progress::PeerCursor;
use super::wake::Wake;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::mem::Slots;
use crate::violation::Violation;

/// Lost races for a reservation after which a send gives up as if the ring were
/// full. Far more than sending threads lose in practice; it bounds the loop.
pub const MAX_CONTENTION: u32 = 1024;

/// One thread's sending end of a shared in-line ring. Clone it for each thread.
#[derive(Debug, Clone)]
pub struct MpscSender<M> {
    slots: Slots<M>,
    payload: usize,
    produced: Line<M>,
    peer: PeerCursor<M>,
    limit: u64,
    first: u64,
    end: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> MpscSender<M> {
    /// The producers' half of a fresh ring (storage and lines zero).
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
            first: 0,
            end: 0,
            poison: None,
        })
    }

    /// Takes the consumer's line, once the consumer has registered one. Each
    /// clone needs it.
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

    /// What poisoned the ring for this thread, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Sends one message of at most [`payload`](Self::payload) bytes; a shorter
    /// one arrives padded with zeros.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > self.payload {
            return Err(self.too_long(message.len()));
        }
        let (position, _) = self.reserve(1)?;
        if message.len() == self.payload {
            self.slots.write(position, SEQUENCE, message);
        } else {
            self.slots.write_padded(position, SEQUENCE, message);
        }
        self.commit(position);
        self.sent(position, position.wrapping_add(1));
        Ok(())
    }

    /// Sends as many whole messages as there is space for, consecutively:
    /// `messages` is a sequence of exactly [`payload`](Self::payload) bytes
    /// each. Gives how many went, 0 when the ring is full.
    ///
    /// # Errors
    /// [`SendError::TooLong`] when `messages` is no whole number of messages;
    /// [`SendError::Poisoned`].
    #[inline]
    pub fn push_batch(&mut self, messages: &[u8]) -> Result<usize, SendError> {
        if !messages.len().is_multiple_of(self.payload) {
            return Err(self.too_long(messages.len()));
        }
        let wanted = (messages.len() / self.payload) as u64;
        if wanted == 0 {
            return Ok(0);
        }
        let (position, count) = match self.reserve(wanted) {
            Ok(r) => r,
            Err(SendError::Full) => return Ok(0),
            Err(e) => return Err(e),
        };
        let mut at = position;
        for message in messages.chunks_exact(self.payload).take(count as usize) {
            self.slots.write(at, SEQUENCE, message);
            self.commit(at);
            at = at.wrapping_add(1);
        }
        self.sent(position, at);
        Ok(count as usize)
    }

    /// Remembers what [`flush`](Self::flush) has to look at: everything from the
    /// first unflushed position on, other threads' positions between included
    /// (a doorbell too many does no harm).
    #[inline(always)]
    fn sent(&mut self, position: u64, end: u64) {
        if self.first == self.end {
            self.first = position;
        }
        self.end = end;
    }

    /// After one or more messages of this thread: says whether the receiver
    /// sleeps on one of them and wants its doorbell. Costs one fence.
    #[inline]
    pub fn flush(&mut self) -> Wake {
        let old = core::mem::replace(&mut self.first, self.end);
        if old == self.end {
            return Wake::QUIET;
        }
        self.peer.wake(old, self.end)
    }

    /// Takes up to `wanted` positions: the first and how many.
    #[inline]
    fn reserve(&mut self, wanted: u64) -> Result<(u64, u64), SendError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        // Relaxed: the reservation orders nothing; the slots are handed over by
        // their sequence words and freed by the cursor.
        let mut tail = self.produced.load(FIRST_WORD, Ordering::Relaxed);
        for _ in 0..MAX_CONTENTION {
            let mut free = self.limit.wrapping_sub(tail);
            if free < wanted || free > self.slots.count() {
                tail = self.refresh()?;
                free = self.limit.wrapping_sub(tail);
                if free > self.slots.count() {
                    // Other threads went on while this one looked.
                    continue;
                }
                if free == 0 {
                    return Err(SendError::Full);
                }
            }
            let count = wanted.min(free);
            match self.produced.mem().compare_exchange_u64(
                PRODUCER_INDEX,
                tail,
                tail.wrapping_add(count),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok((tail, count)),
                Err(now) => tail = now,
            }
        }
        Err(SendError::Full)
    }

    #[inline(always)]
    fn commit(&mut self, position: u64) {
        // Release: pairs with the acquire load in `InlineReceiver::claim`.
        self.slots
            .store(position, position.wrapping_add(1), Ordering::Release);
    }

    #[cold]
    fn too_long(&self, len: usize) -> SendError {
        SendError::TooLong {
            len,
            limit: self.payload,
        }
    }

    /// Looks for space; gives the reservation word as of after the look.
    #[inline(never)]
    fn refresh(&mut self) -> Result<u64, SendError> {
        let produced = &self.produced;
        // The cursor first, then the reservation word: everything that was
        // consumed had been reserved before, so that an honest cursor is never
        // ahead of the word.
        let fetched = self
            .peer
            .fetch(|| produced.load(FIRST_WORD, Ordering::Relaxed));
        match fetched {
            Ok(cursor) => {
                self.limit = cursor.wrapping_add(self.slots.count());
                Ok(self.produced.load(FIRST_WORD, Ordering::Relaxed))
            }
            Err(v) => {
                self.poison = Some(v);
                Err(v.into())
            }
        }
    }
}

/// The receiving end of a ring that several threads send into: an in-line
/// receiver.
#[derive(Debug)]
pub struct MpscReceiver<M>(InlineReceiver<M>);

impl<M: SharedMem> MpscReceiver<M> {
    /// As [`InlineReceiver::new`].
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        InlineReceiver::new(place).map(Self)
    }

    /// As [`InlineReceiver::try_recv`].
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn try_recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        self.0.try_recv(out)
    }

    /// As [`InlineReceiver::pop_batch`].
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn pop_batch(&mut self, out: &mut [u8]) -> Result<usize, RecvError> {
        self.0.pop_batch(out)
    }

    /// As [`InlineReceiver::has_message`].
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    pub fn has_message(&mut self) -> Result<bool, RecvError> {
        self.0.has_message()
    }

    /// As [`InlineReceiver::flush`].
    pub fn flush(&mut self) -> Wake {
        self.0.flush()
    }

    /// As [`InlineReceiver::arm`].
    pub fn arm(&mut self) {
        self.0.arm();
    }

    /// The in-line receiver that this is, for everything else.
    pub fn inner(&mut self) -> &mut InlineReceiver<M> {
        &mut self.0
    }
}
