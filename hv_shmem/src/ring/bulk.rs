//! The bulk ring: one producer, one consumer, one index for many slots.
//!
//! Slots hold payload only. The producer publishes how many messages it has
//! written in its own line, the consumer how many it has read in its own; both
//! keep a private copy of the other's word and fetch it only when that copy says
//! "full" or "empty".
//!
//! ## What gets the throughput
//!
//! * [`BulkSender::push_batch`] and [`BulkReceiver::pop_batch`] with 32 messages
//!   or more: one index store a batch. [`BulkSender::push_each`] and
//!   [`BulkReceiver::pop_each`] do the same where the messages lie: each is made
//!   in its slot and comes out by value, and no batch is copied.
//! * One message at a time: [`BulkSender::stage`] many, [`BulkSender::publish`]
//!   once; [`BulkSender::try_send`] publishes each.
//! * The sender asks for the cache lines that it will write next while it writes
//!   these; nothing to do for that, but a ring of a few KiB leaves no room for
//!   it. 4096 slots are a good size, and more than the caches hold is too many.
//! * After "empty" or "full", look away for a while
//!   ([`BulkSender::back_off`], [`BulkReceiver::back_off`]): the index line then
//!   moves once for many batches. Worth half of the throughput, and more than
//!   anything else here.
//!
//! Distrusted: the peer at the other end. The producer index and the cursor are
//! claims; each is loaded once and must lie between what this side has seen
//! before and what is possible. Slots are copied out once.

use super::RecvError;
use super::SendError;
use super::back_off::BackOff;
use super::place::Line;
use super::place::PlaceError;
use super::place::RingLayout;
use super::place::RingPlace;
use super::place::producer_line;
use super::progress::FIRST_WORD;
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

/// How far ahead of its writes a sender asks for cache lines, in bytes: the
/// lines of slots that were read lie in the receiver's cache, and fetching them
/// one at a time is what bounds a stream between two cores. 16 lines in flight
/// gave half as much again as none.
const WRITE_AHEAD: u64 = 1024;

/// The sending end of a bulk ring.
#[derive(Debug)]
pub struct BulkSender<M> {
    slots: Slots<M>,
    produced: Line<M>,
    peer: PeerCursor<M>,
    /// Positions with these bits zero begin a cache line.
    line_mask: u64,
    next: u64,
    published: u64,
    limit: u64,
    flushed: u64,
    back_off: BackOff,
    poison: Option<Violation>,
}

impl<M: SharedMem> BulkSender<M> {
    /// The producer's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let slots = place.check(RingLayout::Bulk)?;
        Ok(Self {
            limit: slots.count(),
            line_mask: (64 / slots.slot_size() as u64).max(1) - 1,
            slots,
            produced: producer_line(place.produced)?,
            peer: PeerCursor::new(place.cursor)?,
            next: 0,
            published: 0,
            flushed: 0,
            back_off: BackOff::new(),
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
        self.slots.slot_size()
    }

    /// What poisoned the ring for this side, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.poison
    }

    /// Messages staged or sent so far.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Sends one message of at most [`payload`](Self::payload) bytes (a shorter
    /// one arrives padded with zeros) and publishes it.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    #[inline(always)]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.stage(message)?;
        // `published` stays behind: at worst a flush stores the index again.
        self.store_index();
        Ok(())
    }

    /// Writes one message without publishing it; [`publish`](Self::publish) (or
    /// [`flush`](Self::flush)) makes it and all before it visible.
    ///
    /// # Errors
    /// [`SendError`]; nothing was written. On [`SendError::Full`] what was
    /// staged before has been published, so that the receiver can free slots.
    #[inline(always)]
    pub fn stage(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() != self.slots.slot_size() || self.next == self.limit {
            return self.stage_slowly(message);
        }
        self.slots.write(self.next, 0, message);
        self.next = self.next.wrapping_add(1);
        if self.next & self.line_mask == 0 {
            self.ask_ahead(64);
        }
        Ok(())
    }

    /// After writing up to `next`: asks for the lines that lie [`WRITE_AHEAD`]
    /// ahead, as many as were just written, when they are known to be free.
    #[inline(always)]
    fn ask_ahead(&self, written: u64) {
        let bytes = written.min(WRITE_AHEAD);
        let until = WRITE_AHEAD.wrapping_shr(self.slots.shift());
        if self.limit.wrapping_sub(self.next) >= until {
            let skip = (WRITE_AHEAD - bytes).wrapping_shr(self.slots.shift());
            self.slots
                .prefetch_write(self.next.wrapping_add(skip), bytes);
        }
    }

    /// A message that is short or needs a look for space.
    #[inline(never)]
    fn stage_slowly(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > self.slots.slot_size() {
            return Err(self.too_long(message.len()));
        }
        if self.next == self.limit {
            self.refresh()?;
        }
        self.slots.write_padded(self.next, 0, message);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Makes everything staged visible to the receiver.
    #[inline(always)]
    pub fn publish(&mut self) {
        self.store_index();
        self.published = self.next;
    }

    #[inline(always)]
    fn store_index(&self) {
        // Release: pairs with the acquire load in `BulkReceiver::refresh`; the
        // slots written before come before it.
        self.produced
            .store(FIRST_WORD, self.next, Ordering::Release);
    }

    /// Sends as many whole messages as there is space for and publishes them,
    /// and what was staged before, together: `messages` is a sequence of exactly [`payload`](Self::payload)
    /// bytes each. Gives how many went, 0 when the ring is full.
    ///
    /// # Errors
    /// [`SendError::TooLong`] when `messages` is no whole number of messages;
    /// [`SendError::Poisoned`].
    #[inline]
    pub fn push_batch(&mut self, messages: &[u8]) -> Result<usize, SendError> {
        let size = self.slots.slot_size();
        if messages.len() & (size - 1) != 0 {
            return Err(self.too_long(messages.len()));
        }
        let count = self.space_for((messages.len() / size) as u64)?;
        self.slots
            .write_run(self.next, &messages[..count as usize * size]);
        Ok(self.sent(count))
    }

    /// As [`push_batch`](Self::push_batch) for up to `most` messages of `WORDS`
    /// words each (little-endian), which `message` makes one by one straight into
    /// their slots. `message` is called once for each that goes.
    ///
    /// # Errors
    /// [`SendError::TooLong`] when a slot has fewer than `WORDS` words;
    /// [`SendError::Poisoned`].
    #[inline(always)]
    pub fn push_each<const WORDS: usize>(
        &mut self,
        most: usize,
        message: impl FnMut() -> [u64; WORDS],
    ) -> Result<usize, SendError> {
        if 8 * WORDS > self.slots.slot_size() {
            return Err(self.too_long(8 * WORDS));
        }
        let count = self.space_for(most as u64)?;
        self.slots.write_each(self.next, count, message);
        Ok(self.sent(count))
    }

    /// How many of `wanted` messages there is space for; 0 when full.
    #[inline(always)]
    fn space_for(&mut self, wanted: u64) -> Result<u64, SendError> {
        if self.limit.wrapping_sub(self.next) < wanted {
            match self.refresh() {
                Ok(()) => {}
                Err(SendError::Full) => return Ok(0),
                Err(e) => return Err(e),
            }
        }
        if !stands(Guard::Length) {
            return Ok(wanted);
        }
        Ok(wanted.min(self.limit.wrapping_sub(self.next)))
    }

    /// Publishes `count` messages that were just written.
    #[inline(always)]
    fn sent(&mut self, count: u64) -> usize {
        self.next = self.next.wrapping_add(count);
        self.publish();
        self.ask_ahead(count * self.slots.slot_size() as u64);
        count as usize
    }

    /// Publishes, and says whether the receiver sleeps and wants its doorbell.
    /// Costs one fence; once a batch, or never when the receiver only spins.
    #[inline]
    pub fn flush(&mut self) -> Wake {
        let old = core::mem::replace(&mut self.flushed, self.next);
        if old == self.next {
            return Wake::QUIET;
        }
        if self.published != self.next {
            self.publish();
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

    /// After "full", for a sender that goes at full speed and does not sleep:
    /// spins for as long as has proved good, and gives the number of spin hints
    /// (4 to 64).
    pub fn back_off(&mut self) -> u32 {
        self.back_off.pause()
    }

    #[cold]
    fn too_long(&self, len: usize) -> SendError {
        SendError::TooLong {
            len,
            limit: self.slots.slot_size(),
        }
    }

    /// Looks for space; `Full` only when there is none at all.
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
            if self.published != self.next {
                self.publish();
            }
            return Err(SendError::Full);
        }
        let free = self.limit.wrapping_sub(self.next);
        self.back_off.found(free, self.slots.count());
        Ok(())
    }
}

/// The receiving end of a bulk ring.
#[derive(Debug)]
pub struct BulkReceiver<M> {
    slots: Slots<M>,
    produced: Line<M>,
    own: OwnCursor<M>,
    next: u64,
    ready: u64,
    back_off: BackOff,
    poison: Option<Violation>,
}

impl<M: SharedMem> BulkReceiver<M> {
    /// The consumer's half of a fresh ring (storage and lines zero).
    ///
    /// # Errors
    /// [`PlaceError`] when layout, shape or lengths do not fit, or the place has
    /// no consumer's line.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let slots = place.check(RingLayout::Bulk)?;
        let produced = producer_line(place.produced)?;
        Ok(Self {
            own: OwnCursor::new(place.cursor, produced.clone(), slots.count())?,
            slots,
            produced,
            next: 0,
            ready: 0,
            back_off: BackOff::new(),
            poison: None,
        })
    }

    /// Payload bytes a message.
    pub fn payload(&self) -> usize {
        self.slots.slot_size()
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
        if self.next == self.ready && !self.refresh()? {
            return Ok(None);
        }
        let n = if out.len() == self.slots.slot_size() {
            self.slots.read(self.next, 0, out);
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
        let n = out.len().min(self.slots.slot_size());
        self.slots.read(self.next, 0, &mut out[..n]);
        n
    }

    /// Takes as many messages as have arrived and fit: `out` receives
    /// [`payload`](Self::payload) bytes each. Gives how many came.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`], now and for ever after.
    #[inline]
    pub fn pop_batch(&mut self, out: &mut [u8]) -> Result<usize, RecvError> {
        let size = self.slots.slot_size();
        let count = self.waiting((out.len() / size) as u64)?;
        self.slots
            .read_run(self.next, &mut out[..count as usize * size]);
        Ok(self.taken(count))
    }

    /// As [`pop_batch`](Self::pop_batch) for up to `most` messages, of which
    /// `take` gets the first `WORDS` words (little-endian; 0 where a slot is
    /// shorter), one message after the other, straight from their slots. Each
    /// word was loaded once and came by value: the peer cannot change it any
    /// more.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`], now and for ever after.
    #[inline(always)]
    pub fn pop_each<const WORDS: usize>(
        &mut self,
        most: usize,
        take: impl FnMut([u64; WORDS]),
    ) -> Result<usize, RecvError> {
        let count = self.waiting(most as u64)?;
        self.slots.read_each(self.next, count, take);
        Ok(self.taken(count))
    }

    /// How many of `wanted` messages have arrived.
    #[inline(always)]
    fn waiting(&mut self, wanted: u64) -> Result<u64, RecvError> {
        if self.next == self.ready && !self.refresh()? {
            return Ok(0);
        }
        if !stands(Guard::Length) {
            return Ok(wanted);
        }
        Ok(wanted.min(self.ready.wrapping_sub(self.next)))
    }

    /// `count` messages have been read.
    #[inline(always)]
    fn taken(&mut self, count: u64) -> usize {
        self.next = self.next.wrapping_add(count);
        self.own.advance(self.next);
        count as usize
    }

    /// Whether a message waits.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    pub fn has_message(&mut self) -> Result<bool, RecvError> {
        if self.next != self.ready {
            return Ok(true);
        }
        self.refresh()
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

    /// After "empty", for a receiver that goes at full speed and does not sleep:
    /// spins for as long as has proved good, and gives the number of spin hints
    /// (4 to 64).
    pub fn back_off(&mut self) -> u32 {
        self.back_off.pause()
    }

    /// Fetches the producer index once and checks it.
    #[inline(never)]
    fn refresh(&mut self) -> Result<bool, RecvError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        // Acquire: pairs with the release store in `BulkSender::publish`; the
        // slots are read after it.
        let found = self.produced.load(FIRST_WORD, Ordering::Acquire);
        let waiting = found.wrapping_sub(self.next);
        if stands(Guard::Index) && waiting > self.slots.count() {
            let v = Violation::ProducerIndex {
                found,
                low: self.ready,
                high: self.next.wrapping_add(self.slots.count()),
            };
            self.poison = Some(v);
            return Err(v.into());
        }
        self.ready = if !stands(Guard::Fetch) {
            self.produced.load(FIRST_WORD, Ordering::Acquire)
        } else {
            found
        };
        // On "empty" the cursor is left alone: less than a quarter of the ring
        // is consumed and not published, so that the sender is never without
        // space because of it.
        if waiting != 0 {
            self.back_off.found(waiting, self.slots.count());
        }
        Ok(waiting != 0)
    }
}
