//! Rings of fixed entries: an in-line ring whose messages have a type.
//!
//! An entry is exactly 56 bytes, so that with its sequence word it fills one
//! 64-byte cache line. Entries are plain values with explicit little-endian
//! encodings; every bit pattern decodes, and what the fields mean is for the
//! receiver to check.

use super::RecvError;
use super::SendError;
use super::inline::InlineReceiver;
use super::inline::InlineSender;
use super::place::PlaceError;
use super::place::RingKind;
use super::place::RingPlace;
use super::wake::Wake;
use crate::mem::SharedMem;
use core::marker::PhantomData;

/// Bytes of an encoded entry.
pub const ENTRY_BYTES: usize = 56;
/// Slot size of a ring of entries, in bytes: entry and sequence word.
pub const ENTRY_SLOT: u32 = 64;

/// Something that fits a slot of an entry ring.
pub trait Entry: Copy {
    /// The kind of ring that carries it.
    const KIND: RingKind;

    /// The little-endian encoding.
    fn to_bytes(&self) -> [u8; ENTRY_BYTES];

    /// The value of an encoding; every bit pattern has one.
    fn from_bytes(from: &[u8; ENTRY_BYTES]) -> Self;
}

/// Reads a little-endian u32 at a constant offset.
#[inline(always)]
pub(crate) fn u32_at(from: &[u8; ENTRY_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

/// Reads a little-endian u64 at a constant offset.
#[inline(always)]
pub(crate) fn u64_at(from: &[u8; ENTRY_BYTES], at: usize) -> u64 {
    u64::from(u32_at(from, at)) | u64::from(u32_at(from, at + 4)) << 32
}

/// Checks kind and slot size of a place for entries of kind `needed`.
pub(crate) fn check_kind<M>(place: &RingPlace<M>, needed: RingKind) -> Result<(), PlaceError> {
    if place.kind != needed {
        return Err(PlaceError::Kind {
            found: place.kind,
            needed,
        });
    }
    if place.slot_size != ENTRY_SLOT {
        return Err(PlaceError::SlotSize {
            value: place.slot_size,
            min: ENTRY_SLOT,
            max: ENTRY_SLOT,
        });
    }
    Ok(())
}

/// The sending end of a ring of entries.
#[derive(Debug)]
pub struct EntrySender<M, E> {
    ring: InlineSender<M>,
    entries: PhantomData<fn(E)>,
}

impl<M: SharedMem, E: Entry> EntrySender<M, E> {
    /// The producer's half of a fresh ring.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&place, E::KIND)?;
        Ok(Self {
            ring: InlineSender::new(place)?,
            entries: PhantomData,
        })
    }

    /// As [`InlineSender::set_cursor`].
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        self.ring.set_cursor(line)
    }

    /// Sends one entry.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::Poisoned`]; nothing was sent.
    #[inline]
    pub fn try_send(&mut self, entry: &E) -> Result<(), SendError> {
        self.ring.try_send(&entry.to_bytes())
    }

    /// Sends as many entries as there is space for, in order; gives how many.
    ///
    /// # Errors
    /// [`SendError::Poisoned`].
    pub fn push_batch(&mut self, entries: &[E]) -> Result<usize, SendError> {
        let mut sent = 0;
        for entry in entries {
            match self.try_send(entry) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// As [`InlineSender::flush`].
    #[inline]
    pub fn flush(&mut self) -> Wake {
        self.ring.flush()
    }

    /// The ring below, for waiting and counting.
    pub fn inner(&mut self) -> &mut InlineSender<M> {
        &mut self.ring
    }
}

/// The receiving end of a ring of entries.
#[derive(Debug)]
pub struct EntryReceiver<M, E> {
    ring: InlineReceiver<M>,
    entries: PhantomData<fn() -> E>,
}

impl<M: SharedMem, E: Entry> EntryReceiver<M, E> {
    /// The consumer's half of a fresh ring.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit, or the
    /// place has no consumer's line.
    pub fn new(place: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&place, E::KIND)?;
        Ok(Self {
            ring: InlineReceiver::new(place)?,
            entries: PhantomData,
        })
    }

    /// Takes the next entry, or `None` when nothing has arrived.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<E>, RecvError> {
        let mut bytes = [0; ENTRY_BYTES];
        Ok(self
            .ring
            .try_recv(&mut bytes)?
            .map(|_| E::from_bytes(&bytes)))
    }

    /// Hands over as many entries as have arrived, at most `limit`; gives how
    /// many.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    pub fn pop_batch(&mut self, limit: usize, mut take: impl FnMut(E)) -> Result<usize, RecvError> {
        for taken in 0..limit {
            match self.try_recv()? {
                Some(entry) => take(entry),
                None => return Ok(taken),
            }
        }
        Ok(limit)
    }

    /// As [`InlineReceiver::flush`].
    pub fn flush(&mut self) -> Wake {
        self.ring.flush()
    }

    /// The ring below, for waiting and counting.
    pub fn inner(&mut self) -> &mut InlineReceiver<M> {
        &mut self.ring
    }
}
