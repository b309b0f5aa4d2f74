//! Resolving spans in a region: from a claim in a ring slot to bytes.
//!
//! Source: `DESIGN.md`, "The memory", span. Checked here: that the section's
//! owner is alive and in the epoch that the span names (one load from the host's
//! peer table, at every use, so that a dead owner's spans are stale at once),
//! and that the section is divided as an honest peer divides it. The rest is
//! [`ArenaView::resolve`].
//!
//! Distrusted: the span, and the section it names. The host's peer table is
//! trusted as far as the carrier enforces who writes it.

use crate::arena::Arena;
use crate::arena::ArenaError;
use crate::arena::ArenaPlace;
use crate::arena::ArenaView;
use crate::arena::PageState;
use crate::arena::RETURN_RING;
use crate::arena::RETURN_SLOT;
use crate::arena::Recovered;
use crate::arena::ReturnReceiver;
use crate::arena::ReturnSender;
use crate::layout::PeerId;
use crate::mem::SharedMem;
use crate::own_section::OwnSection;
use crate::own_section::RingSpec;
use crate::peers::Rights;
use crate::region::PortalRegion;
use crate::region::RegionError;
use crate::region::RingError;
use crate::ring::RingKind;
use crate::ring::RingLayout;
use crate::span::Access;
use crate::span::COMMON_SECTION;
use crate::span::PortalSpan;
use crate::span::SpanError;
use crate::span::SpanView;

/// Owners whose arenas a resolver keeps at hand.
const KEPT: usize = 8;

/// Resolves spans for one peer, and keeps the views of the arenas that it met
/// last: a span costs three loads and no copy of a section header.
#[derive(Debug, Clone)]
pub struct SpanResolver<M> {
    region: PortalRegion<M>,
    me: PeerId,
    rights: Rights,
    kept: [Option<ArenaView<M>>; KEPT],
}

impl<M: SharedMem> SpanResolver<M> {
    /// A resolver for peer `me`, with the rights that it has now.
    ///
    /// # Errors
    /// [`RegionError::Peer`] when there is no such peer.
    pub fn new(region: PortalRegion<M>, me: PeerId) -> Result<Self, RegionError> {
        let rights = match region.peer(me)?.who {
            Some(who) => who.rights,
            None => Rights::OBSERVER,
        };
        Ok(Self {
            region,
            me,
            rights,
            kept: [const { None }; KEPT],
        })
    }

    /// The bytes that a claimed span names, if it names any that this peer may
    /// use.
    ///
    /// # Errors
    /// [`SpanError`].
    #[inline]
    pub fn resolve(&mut self, span: &PortalSpan, access: Access) -> Result<SpanView<M>, SpanError> {
        if !self.rights.has(Rights::READ) {
            return Err(SpanError::NoRight { peer: self.me.0 });
        }
        if span.section == COMMON_SECTION {
            return self.resolve_common(span, access);
        }
        let owner = PeerId(span.section);
        let section = span.section;
        let current = self
            .region
            .live_epoch(owner)
            .ok_or(SpanError::NoSuchSection { section })?;
        let place = self
            .kept
            .get_mut(usize::from(section) % KEPT)
            .ok_or(SpanError::NoSuchSection { section })?;
        let view = match place {
            Some(view) if view.owner() == owner && view.epoch() == current => view,
            _ => place.insert(self.region.arena_view(owner)?),
        };
        view.resolve(span, self.me, access)
    }

    /// The common section has no arena: bounds and rights are all there is.
    #[cold]
    fn resolve_common(&self, span: &PortalSpan, access: Access) -> Result<SpanView<M>, SpanError> {
        let expected = self.region.header().region_id();
        if span.region != expected {
            return Err(SpanError::OtherRegion {
                found: span.region,
                expected,
            });
        }
        if span.flags != 0 {
            return Err(SpanError::UnknownFlags { flags: span.flags });
        }
        if access == Access::ReadWrite && !self.rights.has(Rights::WRITE_COMMON) {
            return Err(SpanError::ReadOnly {
                section: COMMON_SECTION,
            });
        }
        let at = &self.region.layout().common;
        let limit = at.end - at.start;
        match span.offset.checked_add(span.length) {
            Some(end) if end <= limit && span.offset.is_multiple_of(8) => {}
            _ => {
                return Err(SpanError::OutOfBounds {
                    offset: span.offset,
                    length: span.length,
                    limit,
                });
            }
        }
        let mem = self
            .region
            .mem()
            .window(at.start + span.offset, span.length)?;
        Ok(SpanView::new(mem, access))
    }
}

impl<M: SharedMem> PortalRegion<M> {
    /// The arena of a live peer, for its current epoch. Copies and checks the
    /// peer's section header.
    ///
    /// # Errors
    /// [`SpanError::NoSuchSection`] when the peer is not there, or its section is
    /// not one that an honest peer leaves.
    pub fn arena_view(&self, owner: PeerId) -> Result<ArenaView<M>, SpanError> {
        let nowhere = SpanError::NoSuchSection { section: owner.0 };
        let header = self.section(owner).map_err(|_| nowhere)?;
        let section = self.section_mem(owner).map_err(|_| nowhere)?;
        let place = ArenaPlace {
            mem: section.window(header.arena, header.arena_bytes)?,
            offset: header.arena,
            region: self.header().region_id(),
            owner,
            epoch: header.epoch,
        };
        ArenaView::new(place).map_err(|_| nowhere)
    }

    /// Resolves one span for peer `me`. For more than a few, keep a
    /// [`SpanResolver`].
    ///
    /// # Errors
    /// [`SpanError`].
    pub fn resolve(
        &self,
        me: PeerId,
        span: &PortalSpan,
        access: Access,
    ) -> Result<SpanView<M>, SpanError> {
        let section = span.section;
        SpanResolver::new(self.clone(), me)
            .map_err(|_| SpanError::NoSuchSection { section })?
            .resolve(span, access)
    }
}

impl<M: SharedMem> OwnSection<M> {
    /// A resolver for the spans that others send to this peer.
    ///
    /// # Errors
    /// As [`SpanResolver::new`].
    pub fn resolver(&self) -> Result<SpanResolver<M>, RegionError> {
        SpanResolver::new(self.region().clone(), self.me())
    }

    /// This peer's arena, empty, with `states` as the owner's private records
    /// (one a page; see [`Arena::format`]). Once a section.
    ///
    /// # Errors
    /// [`ArenaError::Taken`] the second time, [`ArenaError::TooSmall`] when the
    /// section was divided without room for one.
    pub fn arena_with<S: AsRef<[PageState]>>(
        &mut self,
        states: S,
    ) -> Result<Arena<M, S>, ArenaError> {
        Arena::format(self.arena_place()?, states)
    }

    /// The arena that this peer's predecessor left, after
    /// [`PortalRegion::recover`]. Once a section.
    ///
    /// # Errors
    /// As [`Arena::recover`], and [`ArenaError::Taken`].
    pub fn recover_arena_with<S: AsRef<[PageState]>>(
        &mut self,
        states: S,
    ) -> Result<(Arena<M, S>, Recovered), ArenaError> {
        Arena::recover(self.arena_place()?, states)
    }

    fn arena_place(&mut self) -> Result<ArenaPlace<M>, ArenaError> {
        let header = *self.header();
        let mem = self.mem().window(header.arena, header.arena_bytes)?;
        if self.take_arena() {
            return Err(ArenaError::Taken);
        }
        Ok(ArenaPlace {
            mem,
            offset: header.arena,
            region: self.region().header().region_id(),
            owner: self.me(),
            epoch: self.epoch(),
        })
    }

    /// The ring by which this peer returns spans of `owner`.
    ///
    /// # Errors
    /// As [`OwnSection::create_ring`].
    pub fn create_return_ring(
        &mut self,
        owner: PeerId,
        slots: u32,
    ) -> Result<ReturnSender<M>, RingError> {
        let place = self.create_ring(RingSpec {
            id: RETURN_RING,
            to: owner,
            kind: RingKind::Return,
            layout: RingLayout::Bulk,
            slot_size: RETURN_SLOT,
            slots,
        })?;
        Ok(ReturnSender::new(place, owner)?)
    }

    /// The ring by which `from` returns this peer's spans.
    ///
    /// # Errors
    /// As [`OwnSection::accept_ring`].
    pub fn accept_return_ring(&mut self, from: PeerId) -> Result<ReturnReceiver<M>, RingError> {
        let place = self.accept_ring(from, RETURN_RING)?;
        Ok(ReturnReceiver::new(place, from)?)
    }
}

#[cfg(feature = "std")]
impl<M: SharedMem> OwnSection<M> {
    /// [`OwnSection::arena_with`], with records from the heap.
    ///
    /// # Errors
    /// As there.
    pub fn arena(&mut self) -> Result<crate::arena::BoxedArena<M>, ArenaError> {
        Arena::format_boxed(self.arena_place()?)
    }

    /// [`OwnSection::recover_arena_with`], with records from the heap.
    ///
    /// # Errors
    /// As there.
    pub fn recover_arena(
        &mut self,
    ) -> Result<(crate::arena::BoxedArena<M>, Recovered), ArenaError> {
        Arena::recover_boxed(self.arena_place()?)
    }
}
