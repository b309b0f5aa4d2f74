//! [`ArenaView`]: an arena as its receivers see it.

use super::ArenaError;
use super::ArenaPlace;
use super::classes::FIRST_SLOT;
use super::classes::PAGE;
use super::layout::ArenaLayout;
use super::word::Holder;
use super::word::MAX_SPAN;
use super::word::Word;
use crate::guard::Guard;
use crate::guard::stands;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::span::Access;
use crate::span::PortalSpan;
use crate::span::SpanError;
use crate::span::SpanView;

/// Another peer's arena: resolves the spans that its owner granted.
///
/// Valid for one epoch of the owner. Nothing the owner writes makes a view reach
/// outside the arena's window: the words say only whether a span resolves.
#[derive(Debug, Clone)]
pub struct ArenaView<M> {
    place: ArenaPlace<M>,
    layout: ArenaLayout,
}

impl<M: SharedMem> ArenaView<M> {
    /// The arena at `place`, a window that the region has checked.
    ///
    /// # Errors
    /// [`ArenaError::TooSmall`], [`ArenaError::Misplaced`].
    pub fn new(place: ArenaPlace<M>) -> Result<Self, ArenaError> {
        let layout = ArenaLayout::new(place.mem.len())?;
        let far = place.offset.checked_add(layout.end());
        if !place.offset.is_multiple_of(PAGE) || far.is_none_or(|end| end > MAX_SPAN) {
            return Err(ArenaError::Misplaced {
                offset: place.offset,
            });
        }
        Ok(Self { place, layout })
    }

    /// The owner.
    pub fn owner(&self) -> PeerId {
        self.place.owner
    }

    /// The epoch of the owner for which this view holds.
    pub fn epoch(&self) -> u32 {
        self.place.epoch
    }

    /// Checks a claimed span for peer `me`: section, epoch, bounds, generation,
    /// grant, extent, in this order. Loads the block's word exactly once.
    ///
    /// # Errors
    /// [`SpanError`]: the first check that failed.
    pub fn resolve(
        &self,
        span: &PortalSpan,
        me: PeerId,
        access: Access,
    ) -> Result<SpanView<M>, SpanError> {
        let place = &self.place;
        self.check_name(span)?;
        if access == Access::ReadWrite {
            // Writing in one's own arena goes through `Arena::view`.
            return Err(SpanError::ReadOnly {
                section: span.section,
            });
        }
        let nowhere = SpanError::NotABlock {
            offset: span.offset,
        };
        let at = span.offset.checked_sub(place.offset).ok_or(nowhere)?;
        let granule = self.layout.granule(at).ok_or(nowhere)?;
        // Two words, one load each (and the first once more, compared only).
        // Acquire pairs with the Release in `Arena::grant` and when a page is
        // made a slab page.
        let page_at = self.layout.page_word(granule.page());
        let page = Word(place.mem.load_u64(page_at, Ordering::Acquire));
        let word = if granule.slot() == 0 {
            page
        } else {
            if granule.slot() < FIRST_SLOT || !page.is_slab() {
                return Err(nowhere);
            }
            let word_at = self.layout.word(granule);
            // Acquire: also orders the load below after this one.
            let word = Word(place.mem.load_u64(word_at, Ordering::Acquire));
            // Had the page stopped being a slab page in between, its bytes and
            // not a block's word could be what was read.
            if place.mem.load_u64(page_at, Ordering::Relaxed) != page.0 {
                return Err(stale(span, page));
            }
            word
        };
        if stands(Guard::Stale) && (!word.is_live() || word.generation() != span.generation) {
            return Err(stale(span, word));
        }
        if me != place.owner && word.holder() != Holder::Peer(me.0) {
            return Err(SpanError::NotGranted {
                offset: span.offset,
                peer: me.0,
            });
        }
        let limit = word.extent().bytes().min(self.layout.end() - at);
        if stands(Guard::Length) && span.length > limit {
            return Err(SpanError::OutOfBounds {
                offset: span.offset,
                length: span.length,
                limit,
            });
        }
        let mem = place.mem.window(at, span.length)?;
        Ok(SpanView::new(mem, Access::Read))
    }

    fn check_name(&self, span: &PortalSpan) -> Result<(), SpanError> {
        let place = &self.place;
        if span.region != place.region {
            return Err(SpanError::OtherRegion {
                found: span.region,
                expected: place.region,
            });
        }
        if span.section != place.owner.0 {
            return Err(SpanError::NoSuchSection {
                section: span.section,
            });
        }
        if span.flags != 0 {
            return Err(SpanError::UnknownFlags { flags: span.flags });
        }
        if span.epoch != place.epoch {
            return Err(SpanError::StaleEpoch {
                found: span.epoch,
                current: place.epoch,
            });
        }
        Ok(())
    }
}

#[cold]
fn stale(span: &PortalSpan, word: Word) -> SpanError {
    SpanError::StaleGeneration {
        found: span.generation,
        current: word.generation(),
    }
}
