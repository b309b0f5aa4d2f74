//! The return ring: how finished spans go home, in batches.
//!
//! One bulk ring (see [`crate::ring`]) from each receiver to each owner, in the
//! receiver's section like every ring that it sends on, under the number
//! [`RETURN_RING`], with slots of [`RETURN_SLOT`] bytes:
//!
//! | bits | field |
//! |---|---|
//! | 0..32 | granule: the span's offset in the owner's section / 64 |
//! | 32..64 | generation of the span |
//!
//! The receiver publishes its index once a batch, the owner its cursor once a
//! batch: two cache lines cross the machine for 32 spans. Distrusted: by the
//! owner, every claim (`lending` checks them); by the receiver, the owner's
//! cursor (the ring checks it).

use super::Arena;
use super::classes::GRANULE;
use super::lending::Returned;
use super::pages::PageState;
use crate::layout::PeerId;
use crate::mem::SharedMem;
use crate::ring::BulkReceiver;
use crate::ring::BulkSender;
use crate::ring::PlaceError;
use crate::ring::RecvError;
use crate::ring::RingPlace;
use crate::ring::SendError;
use crate::ring::Wake;
use crate::span::PortalSpan;

/// The number of the ring by which spans go home.
pub const RETURN_RING: u32 = u32::MAX;
/// Bytes of a slot of the return ring.
pub const RETURN_SLOT: u32 = 8;
/// Claims that are published at once when the receiver does not flush before.
const BATCH: u32 = 32;
/// Claims that the owner takes under one hold of its lock.
const TAKE: usize = 64;

/// What a receiver says it has finished with. A claim until the owner checked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReturnClaim(u64);

impl ReturnClaim {
    /// The claim that returns `span`; `None` when no arena can have made it.
    #[inline(always)]
    pub fn new(span: &PortalSpan) -> Option<Self> {
        let granule = span.offset / GRANULE;
        if !span.offset.is_multiple_of(GRANULE) || granule > u64::from(u32::MAX) {
            return None;
        }
        Some(Self(granule | (u64::from(span.generation) << 32)))
    }

    /// A claim as it stands in a slot. Every bit pattern is one.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }

    /// The claim as it stands in a slot.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    #[inline(always)]
    pub(super) fn granule(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Why a span was not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReturnError {
    /// The span is not one of the peer that this ring leads to.
    #[error("span of section {section} in the return ring to peer {}", owner.0)]
    OtherOwner {
        /// Section in the span.
        section: u16,
        /// Where the ring leads.
        owner: PeerId,
    },
    /// No arena can have made the span.
    #[error("no block can start at {offset:#x}")]
    NotABlock {
        /// Offset in the span.
        offset: u64,
    },
    /// The ring did not take it. When it is full, try again later: the owner has
    /// not looked for a while.
    #[error(transparent)]
    Ring(#[from] SendError),
}

/// The receiver's end: returns spans to one owner.
#[derive(Debug)]
pub struct ReturnSender<M> {
    ring: BulkSender<M>,
    owner: PeerId,
    staged: u32,
}

impl<M: SharedMem> ReturnSender<M> {
    /// Returns spans of `owner` through the ring at `place`.
    ///
    /// # Errors
    /// [`PlaceError`] when the place is no bulk ring with slots of
    /// [`RETURN_SLOT`] bytes.
    pub fn new(place: RingPlace<M>, owner: PeerId) -> Result<Self, PlaceError> {
        Ok(Self {
            ring: BulkSender::new(checked(place)?)?,
            owner,
            staged: 0,
        })
    }

    /// The ring itself: to attach the owner's cursor, to look for violations.
    pub fn ring(&mut self) -> &mut BulkSender<M> {
        &mut self.ring
    }

    /// Returns a span. The owner sees it with the next full batch or
    /// [`flush`](Self::flush); use no view of it after this.
    ///
    /// # Errors
    /// [`ReturnError`]; the span is not returned then.
    #[inline]
    pub fn give_back(&mut self, span: &PortalSpan) -> Result<(), ReturnError> {
        if span.section != self.owner.0 {
            return Err(ReturnError::OtherOwner {
                section: span.section,
                owner: self.owner,
            });
        }
        let claim = ReturnClaim::new(span).ok_or(ReturnError::NotABlock {
            offset: span.offset,
        })?;
        self.ring.stage(&claim.to_bytes())?;
        self.staged += 1;
        if self.staged >= BATCH {
            self.staged = 0;
            self.ring.publish();
        }
        Ok(())
    }

    /// Lets the owner see everything that was returned; says whether it waits for
    /// a doorbell.
    pub fn flush(&mut self) -> Wake {
        self.staged = 0;
        self.ring.flush()
    }
}

/// The owner's end: takes what one peer returned.
#[derive(Debug)]
pub struct ReturnReceiver<M> {
    ring: BulkReceiver<M>,
    from: PeerId,
    rounds: u32,
}

impl<M: SharedMem> ReturnReceiver<M> {
    /// Takes what `from` returns through the ring at `place`.
    ///
    /// # Errors
    /// [`PlaceError`] when the place is no bulk ring with slots of
    /// [`RETURN_SLOT`] bytes, or has no cursor.
    pub fn new(place: RingPlace<M>, from: PeerId) -> Result<Self, PlaceError> {
        let rounds = place.slots.div_ceil(TAKE as u32);
        Ok(Self {
            ring: BulkReceiver::new(checked(place)?)?,
            from,
            rounds,
        })
    }

    /// The ring itself: to arm it, to publish the cursor, to look for violations.
    pub fn ring(&mut self) -> &mut BulkReceiver<M> {
        &mut self.ring
    }

    /// Takes what waits (at most as many claims as the ring has slots) and frees
    /// the spans in `arena`.
    ///
    /// # Errors
    /// [`RecvError`] when the peer broke the ring itself. A claim that the arena
    /// refuses is none: it is counted in [`Returned`].
    pub fn take<S: AsRef<[PageState]>>(
        &mut self,
        arena: &Arena<M, S>,
    ) -> Result<Returned, RecvError> {
        self.take_with(|from, claims| arena.take_claims(from, claims))
    }

    #[inline]
    pub(super) fn take_with(
        &mut self,
        mut take: impl FnMut(PeerId, &[ReturnClaim]) -> Returned,
    ) -> Result<Returned, RecvError> {
        let mut total = Returned::default();
        for _ in 0..self.rounds {
            let mut bytes = [0; TAKE * RETURN_SLOT as usize];
            let count = self.ring.pop_batch(&mut bytes)?;
            if count == 0 {
                break;
            }
            let mut claims = [ReturnClaim::default(); TAKE];
            let (slots, _) = bytes.as_chunks();
            for (claim, slot) in claims.iter_mut().zip(slots) {
                *claim = ReturnClaim::from_bytes(*slot);
            }
            let claims = claims.get(..count).unwrap_or_default();
            let taken = take(self.from, claims);
            total.spans += taken.spans;
            total.refused += taken.refused;
            total.fault = total.fault.or(taken.fault);
        }
        Ok(total)
    }
}

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// [`ReturnReceiver::take`], said from the arena's side.
    ///
    /// # Errors
    /// As there.
    pub fn take_returns(&self, from: &mut ReturnReceiver<M>) -> Result<Returned, RecvError> {
        from.take(self)
    }
}

fn checked<M>(place: RingPlace<M>) -> Result<RingPlace<M>, PlaceError> {
    if place.slot_size != RETURN_SLOT {
        return Err(PlaceError::SlotSize {
            value: place.slot_size,
            min: RETURN_SLOT,
            max: RETURN_SLOT,
        });
    }
    Ok(place)
}
