//! Lending: grants to peers, and the ways back.
//!
//! A span is lent to one peer at a time. It comes home by a claim in that peer's
//! return ring, by [`Arena::revoke`], or by [`Arena::reclaim`] when the peer has
//! died. A returned claim is checked against the owner's private record: whoever
//! returns what was not lent to it, or twice, or what is no block at all, is
//! counted, and nothing else happens.

use super::Arena;
use super::ArenaError;
use super::classes::GRANULE;
use super::classes::Granule;
use super::pages::Claimant;
use super::pages::PageState;
use super::returns::ReturnClaim;
use super::sync::Locked;
use super::word::Holder;
use super::word::Word;
use crate::guard::Guard;
use crate::guard::stands;
use crate::layout::MAX_PEERS;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::span::PortalSpan;
use crate::span::SpanError;

/// How a grant is written.
const GRANTED: Ordering = if cfg!(feature = "negative_control_grant") {
    Ordering::Relaxed
} else {
    Ordering::Release
};

/// What a peer returned and cannot have held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnFault {
    /// No block starts there, or not in this arena.
    #[error("return of granule {granule:#x}, where no block can start")]
    OutOfRange {
        /// The 64-byte granule of the section that was returned.
        granule: u32,
    },
    /// A block, but not one that this peer holds (any more).
    #[error("return of granule {granule:#x}, which is not lent to peer {}", peer.0)]
    NotLent {
        /// The 64-byte granule of the section that was returned.
        granule: u32,
        /// Who returned it.
        peer: PeerId,
    },
    /// The peer holds the block, but in another generation.
    #[error("return of generation {found}, lent was {current}")]
    Stale {
        /// Generation returned.
        found: u32,
        /// Generation lent.
        current: u32,
    },
}

/// What came home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Returned {
    /// Spans that are free again.
    pub spans: u64,
    /// Claims that were refused.
    pub refused: u64,
    /// The first of them.
    pub fault: Option<ReturnFault>,
}

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// Lends a span to `to`: from now on it resolves there. Send it after this.
    /// It stays lent until it is returned, revoked or reclaimed.
    ///
    /// # Errors
    /// [`ArenaError::Span`] when this peer does not hold it, [`ArenaError::Lent`]
    /// when it is lent already, [`ArenaError::NotFilled`] when it names bytes
    /// that were not filled, [`ArenaError::NoSuchPeer`].
    #[inline]
    pub fn grant(&self, span: &PortalSpan, to: PeerId) -> Result<(), ArenaError> {
        if to.0 >= MAX_PEERS {
            return Err(ArenaError::NoSuchPeer {
                peer: to,
                limit: MAX_PEERS,
            });
        }
        let at = self.locate(span)?;
        let (state, word, _) = self.owned(at, span)?;
        let filled = word.extent().bytes();
        if span.length > filled {
            return Err(ArenaError::NotFilled {
                length: span.length,
                filled,
            });
        }
        state.set_holder(at.slot(), Claimant::Peer(to.0));
        let word = Word::live(word.generation(), Holder::Peer(to.0), word.extent());
        // `GRANTED`, a Release, pairs with the Acquire in `ArenaView::resolve`: who finds
        // itself the holder sees the bytes that were written before the grant.
        self.window.store(at, word, GRANTED);
        Ok(())
    }

    /// Takes a lent span back and frees it, whether or not the peer has seen it:
    /// at the peer it is stale at once. What the peer reads through a view that
    /// it made before is whatever lies there then.
    ///
    /// # Errors
    /// [`ArenaError::Span`], [`ArenaError::NotLent`].
    pub fn revoke(&self, span: &PortalSpan) -> Result<(), ArenaError> {
        let at = self.locate(span)?;
        let held = self.lock.lock();
        match self.owned(at, span) {
            Err(ArenaError::Lent { .. }) => {}
            Ok(_) => return Err(ArenaError::NotLent),
            Err(e) => return Err(e),
        }
        let Some(state) = self.state(at) else {
            return Err(ArenaError::Span(SpanError::NotABlock {
                offset: span.offset,
            }));
        };
        self.give_back(state, at, self.window.load(at), &held);
        Ok(())
    }

    /// Takes what `from` returned. Each claim is checked by itself; one that is
    /// refused harms nothing and is counted (see [`Arena::occupancy`]).
    pub fn take_claims(&self, from: PeerId, claims: &[ReturnClaim]) -> Returned {
        self.take_claims_with(from, claims, |state, at, word, held| {
            self.give_back(state, at, word, held);
        })
    }

    /// Checks each claim, and hands the block of each good one to `home`.
    #[inline]
    pub(super) fn take_claims_with(
        &self,
        from: PeerId,
        claims: &[ReturnClaim],
        mut home: impl FnMut(&PageState, Granule, Word, &Locked<'_>),
    ) -> Returned {
        let mut returned = Returned::default();
        if claims.is_empty() {
            return returned;
        }
        let held = self.lock.lock();
        for claim in claims {
            match self.check_claim(from, claim) {
                Ok((state, at, word)) => {
                    home(state, at, word, &held);
                    returned.spans += 1;
                }
                Err(fault) => {
                    returned.refused += 1;
                    returned.fault.get_or_insert(fault);
                    self.count(fault);
                }
            }
        }
        returned
    }

    /// The block that a claim returns, if `from` holds it in that generation.
    #[inline(always)]
    fn check_claim(
        &self,
        from: PeerId,
        claim: &ReturnClaim,
    ) -> Result<(&PageState, Granule, Word), ReturnFault> {
        let granule = claim.granule();
        let out_of_range = ReturnFault::OutOfRange { granule };
        // `first` is page aligned: a granule of the section is one of the arena.
        let from_first = u64::from(granule).wrapping_sub(self.first / GRANULE);
        if from_first >= self.window.granules() {
            return Err(out_of_range);
        }
        let at = Granule(from_first as u32);
        let state = self.state(at).ok_or(out_of_range)?;
        let unchecked = !stands(Guard::Returns);
        if !unchecked && !state.is_held_by(at.slot(), Claimant::Peer(from.0)) {
            return Err(match state.holder(at.slot()) {
                Claimant::NoBlock => out_of_range,
                _ => ReturnFault::NotLent {
                    granule,
                    peer: from,
                },
            });
        }
        let word = self.window.load(at);
        if !unchecked && word.generation() != claim.generation() {
            return Err(ReturnFault::Stale {
                found: claim.generation(),
                current: word.generation(),
            });
        }
        Ok((state, at, word))
    }

    #[cold]
    fn count(&self, fault: ReturnFault) {
        let [not_lent, stale, out_of_range] = &self.counts.faults;
        let count = match fault {
            ReturnFault::NotLent { .. } => not_lent,
            ReturnFault::Stale { .. } => stale,
            ReturnFault::OutOfRange { .. } => out_of_range,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back everything that is lent to `peer`, which has died: says how
    /// many spans that were. Do this before a successor with the same number is
    /// granted anything: by its number it holds what its predecessor held. Looks at
    /// every page of the arena.
    pub fn reclaim(&self, peer: PeerId) -> u64 {
        let mut spans = 0;
        let held = self.lock.lock();
        for (page, state) in self.states.as_ref().iter().enumerate() {
            if !state.may_lend() {
                continue;
            }
            for slot in 0..64 {
                if state.is_held_by(slot, Claimant::Peer(peer.0)) {
                    let at = Granule::new(page as u32, slot);
                    self.give_back(state, at, self.window.load(at), &held);
                    spans += 1;
                }
            }
        }
        spans
    }
}
