//! `EventRing`: one-way notices. A full ring never blocks the sender: the event
//! is dropped, and counted where the receiver can see it.

use super::RecvError;
use super::SendError;
use super::entry::ENTRY_BYTES;
use super::entry::Entry;
use super::entry::EntryReceiver;
use super::entry::EntrySender;
use super::entry::u32_at;
use super::entry::u64_at;
use super::inline::InlineReceiver;
use super::inline::InlineSender;
use super::place::EVENTS_LOST;
use super::place::PlaceError;
use super::place::RingKind;
use super::place::RingPlace;
use super::wake::Wake;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::span::PortalSpan;
use crate::violation::Violation;

/// A notice. Little-endian, 56 bytes:
///
/// | offset | width | field |
/// |---|---|---|
/// | 0 | 4 | code |
/// | 4 | 4 | flags |
/// | 8 | 8 | lost |
/// | 16 | 32 | span |
/// | 48 | 8 | arg |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventEntry {
    /// What happened; the two peers agree on the numbers.
    pub code: u32,
    /// Variations of it.
    pub flags: u32,
    /// Events of this ring lost before this one, since the ring began. Filled in
    /// by [`EventSender::emit`].
    pub lost: u64,
    /// Memory that the event is about, or [`PortalSpan::NONE`].
    pub span: PortalSpan,
    /// An immediate value.
    pub arg: u64,
}

impl Entry for EventEntry {
    const KIND: RingKind = RingKind::Event;

    #[inline]
    fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut to = [0; ENTRY_BYTES];
        to[0..4].copy_from_slice(&self.code.to_le_bytes());
        to[4..8].copy_from_slice(&self.flags.to_le_bytes());
        to[8..16].copy_from_slice(&self.lost.to_le_bytes());
        to[16..48].copy_from_slice(&self.span.to_bytes());
        to[48..56].copy_from_slice(&self.arg.to_le_bytes());
        to
    }

    #[inline]
    fn from_bytes(from: &[u8; ENTRY_BYTES]) -> Self {
        let mut span = [0; 32];
        span.copy_from_slice(&from[16..48]);
        Self {
            code: u32_at(from, 0),
            flags: u32_at(from, 4),
            lost: u64_at(from, 8),
            span: PortalSpan::from_bytes(&span),
            arg: u64_at(from, 48),
        }
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emitted {
    /// It is in the ring.
    Sent,
    /// The ring was full; it was dropped and counted.
    Lost,
}

/// Sends events.
#[derive(Debug)]
pub struct EventSender<M> {
    ring: EntrySender<M, EventEntry>,
    line: M,
    lost: u64,
}

impl<M: SharedMem> EventSender<M> {
    /// The producer's half of a fresh ring.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let line = place.produced.clone();
        Ok(Self {
            ring: EntrySender::new(place)?,
            line,
            lost: 0,
        })
    }

    /// As [`InlineSender::set_cursor`].
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        self.ring.set_cursor(line)
    }

    /// Sends an event, or counts it as lost when the ring is full. Never blocks.
    ///
    /// # Errors
    /// The violation that poisoned the ring.
    pub fn emit(&mut self, event: EventEntry) -> Result<Emitted, Violation> {
        let event = EventEntry {
            lost: self.lost,
            ..event
        };
        match self.ring.try_send(&event) {
            Ok(()) => Ok(Emitted::Sent),
            Err(SendError::Poisoned(v)) => Err(v),
            Err(SendError::Full | SendError::TooLong { .. }) => {
                self.lost = self.lost.saturating_add(1);
                // Relaxed: a counter, read by `EventReceiver::lost`; it orders
                // nothing.
                self.line
                    .store_u64(EVENTS_LOST, self.lost, Ordering::Relaxed);
                Ok(Emitted::Lost)
            }
        }
    }

    /// Events lost so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// As [`InlineSender::flush`].
    pub fn flush(&mut self) -> Wake {
        self.ring.flush()
    }

    /// The ring below, for waiting and counting.
    pub fn inner(&mut self) -> &mut InlineSender<M> {
        self.ring.inner()
    }
}

/// Receives events.
#[derive(Debug)]
pub struct EventReceiver<M> {
    ring: EntryReceiver<M, EventEntry>,
    line: M,
}

impl<M: SharedMem> EventReceiver<M> {
    /// The consumer's half of a fresh ring.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit, or the
    /// place has no consumer's line.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        let line = place.produced.clone();
        Ok(Self {
            ring: EntryReceiver::new(place)?,
            line,
        })
    }

    /// Takes the next event, or `None` when nothing has arrived.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    pub fn try_recv(&mut self) -> Result<Option<EventEntry>, RecvError> {
        self.ring.try_recv()
    }

    /// What the sender says that it has lost so far; a claim, good for a
    /// counter and nothing else.
    pub fn lost(&self) -> u64 {
        self.line.load_u64(EVENTS_LOST, Ordering::Relaxed)
    }

    /// The ring below, for waiting and counting.
    pub fn inner(&mut self) -> &mut InlineReceiver<M> {
        self.ring.inner()
    }
}
