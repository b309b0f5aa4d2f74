//! [`Arena`]: the owner's side: format, allocate, fill, free.

use super::ArenaError;
use super::ArenaPlace;
use super::classes::CLASSES;
use super::classes::Class;
use super::classes::GRANULE;
use super::classes::Granule;
use super::classes::PAGE;
use super::layout;
use super::layout::ArenaLayout;
use super::pages::Claimant;
use super::pages::Kind;
use super::pages::NIL;
use super::pages::PageState;
use super::pages::Shape;
use super::runs::Runs;
use super::runs::Search;
use super::sync::AtomicU32;
use super::sync::AtomicU64;
use super::sync::Lock;
use super::sync::Locked;
use super::window::Window;
use super::word::Extent;
use super::word::Holder;
use super::word::MAX_SPAN;
use super::word::RETIRED;
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

/// Blocks (or runs) looked at before an allocation gives up because their
/// generations have run out. More than one such in a row is a scribbled section.
pub(super) const RETIRED_IN_A_ROW: usize = 64;

/// A peer's arena, as its owner holds it.
///
/// `M` is the memory of the section, `S` keeps the private page states:
/// `&'static [PageState]` where there is no allocator, `Box<[PageState]>` (see
/// [`Arena::format_boxed`]) where there is one.
#[derive(Debug)]
pub struct Arena<M, S = &'static [PageState]> {
    pub(super) window: Window<M>,
    pub(super) states: S,
    /// Offset of the first data page from the start of the section.
    pub(super) first: u64,
    /// Region, section and flags of every span of this arena.
    name: u64,
    pub(super) region: u32,
    pub(super) epoch: u32,
    pub(super) owner: PeerId,
    pub(super) lock: Lock,
    pub(super) runs: Runs,
    /// Heads of the lists of slab pages with free blocks, by class.
    pub(super) partial: [AtomicU32; CLASSES],
    pub(super) counts: Counts,
}

/// What the arena counts. Private; written under the lock or by one addition.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) blocks_out: AtomicU64,
    pub(super) slab_pages: AtomicU64,
    pub(super) retired: AtomicU64,
    pub(super) faults: [AtomicU64; 3],
}

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// Makes an empty arena in `place`. Whatever lay there is forgotten; spans
    /// into it are stale because the epoch moved since (the caller sees to that).
    ///
    /// One of `states` is used for each page; with fewer than
    /// `place.mem.len() / 4096` of them the arena is as large as they allow.
    ///
    /// # Errors
    /// [`ArenaError::TooSmall`], [`ArenaError::Misplaced`].
    pub fn format(place: ArenaPlace<M>, states: S) -> Result<Self, ArenaError> {
        Self::make(place, states, false)
    }

    fn make(place: ArenaPlace<M>, states: S, fresh: bool) -> Result<Self, ArenaError> {
        let this = Self::over(place, states, fresh)?;
        let (mem, layout) = (this.window.mem(), this.window.layout());
        mem.store_u64(0, 0, Ordering::Relaxed);
        mem.zero(layout.page_word(0), u64::from(layout.pages()) * 8);
        this.write_header();
        let held = this.lock.lock();
        this.runs
            .give(this.states.as_ref(), 0, this.usable(), &held);
        drop(held);
        Ok(this)
    }

    /// An arena with nothing in its lists. Clears the page states, unless they are
    /// `fresh`.
    pub(super) fn over(place: ArenaPlace<M>, states: S, fresh: bool) -> Result<Self, ArenaError> {
        let layout = ArenaLayout::new(place.mem.len())?;
        let far = place.offset.checked_add(layout.end());
        if !place.offset.is_multiple_of(PAGE) || far.is_none_or(|end| end > MAX_SPAN) {
            return Err(ArenaError::Misplaced {
                offset: place.offset,
            });
        }
        let usable = (layout.pages() as usize).min(states.as_ref().len()) as u32;
        if usable == 0 {
            return Err(ArenaError::TooSmall {
                len: 0,
                limit: layout::MIN_ARENA,
            });
        }
        if !fresh {
            states.as_ref().iter().for_each(PageState::clear);
        }
        Ok(Self {
            window: Window::new(place.mem, layout, usable),
            states,
            first: place.offset + layout.data_at(),
            name: name_of(place.region, place.owner.0, 0),
            region: place.region,
            epoch: place.epoch,
            owner: place.owner,
            lock: Lock::new(),
            runs: Runs::new(),
            partial: core::array::from_fn(|_| AtomicU32::new(NIL)),
            counts: Counts {
                blocks_out: AtomicU64::new(0),
                slab_pages: AtomicU64::new(0),
                retired: AtomicU64::new(0),
                faults: core::array::from_fn(|_| AtomicU64::new(0)),
            },
        })
    }

    pub(super) fn write_header(&self) {
        let mem = self.window.mem();
        let pages = self.window.layout().pages();
        let version = u64::from(layout::VERSION) | (u64::from(pages) << 32);
        mem.store_u64(layout::VERSION_AT, version, Ordering::Relaxed);
        mem.store_u64(layout::EPOCH_AT, self.epoch.into(), Ordering::Relaxed);
        for at in (layout::EPOCH_AT + 8..64).step_by(8) {
            mem.store_u64(at, 0, Ordering::Relaxed);
        }
        // Release pairs with the Acquire in `check`: a header with the magic is
        // a whole one.
        mem.store_u64(0, layout::MAGIC, Ordering::Release);
    }

    /// Pages in use by this arena: as the window and the page states allow.
    pub(super) fn usable(&self) -> u32 {
        (self.window.granules() / (PAGE / GRANULE)) as u32
    }

    /// The owner's epoch, which every span of this arena carries.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The peer whose arena this is.
    pub fn owner(&self) -> PeerId {
        self.owner
    }

    /// Allocates `len` bytes of zeros. From several threads, prefer a
    /// [`Magazine`](super::Magazine): this takes the arena's lock.
    ///
    /// # Errors
    /// [`ArenaError::OutOfMemory`], [`ArenaError::TooLong`].
    pub fn alloc(&self, len: u64) -> Result<PortalSpan, ArenaError> {
        self.alloc_with(len, Extent::covering(len))
    }

    /// Allocates `len` bytes with whatever lies there. The span names nothing
    /// that a peer could resolve until [`fill`](Self::fill) has said how many
    /// bytes were written; write through [`view`](Self::view).
    ///
    /// # Errors
    /// [`ArenaError::OutOfMemory`], [`ArenaError::TooLong`].
    pub fn alloc_unfilled(&self, len: u64) -> Result<PortalSpan, ArenaError> {
        self.alloc_with(len, Extent::NONE)
    }

    fn alloc_with(&self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
        let Some(class) = Class::for_len(len) else {
            return self.alloc_run(len, extent);
        };
        for _ in 0..RETIRED_IN_A_ROW {
            let mut found = [0];
            let held = self.lock.lock();
            let count = self.take_blocks(class, &mut found, &held);
            drop(held);
            if count == 0 {
                break;
            }
            let at = Granule(found[0]);
            let generation = self.window.load(at).generation();
            if let Some(span) = self.hand_out(at, Shape::of(class), generation, len, extent) {
                return Ok(span);
            }
            self.block_lost(&self.lock.lock());
        }
        Err(self.out_of_memory(len))
    }

    pub(super) fn alloc_run(&self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
        let pages = self.pages_for(len)?;
        for _ in 0..RETIRED_IN_A_ROW {
            let held = self.lock.lock();
            let first = self.take_run(pages, &held);
            drop(held);
            let Some(first) = first else { break };
            let at = Granule::new(first, 0);
            let generation = self.window.load(at).generation();
            if let Some(span) = self.hand_out(at, Shape::RUN, generation, len, extent) {
                return Ok(span);
            }
            // The first page is retired, the others are as good as new.
            let held = self.lock.lock();
            self.give_run_without_head(first, pages, &held);
        }
        Err(self.out_of_memory(len))
    }

    #[cold]
    pub(super) fn out_of_memory(&self, len: u64) -> ArenaError {
        ArenaError::OutOfMemory {
            len,
            free_pages: self.runs.free_pages(),
        }
    }

    /// Makes a free block live, which is in generation `found`: zeroes what the
    /// span names and moves the generation. `None`: the block's generations have
    /// run out, it is retired.
    #[inline(always)]
    pub(super) fn hand_out(
        &self,
        at: Granule,
        shape: Shape,
        found: u32,
        len: u64,
        extent: Extent,
    ) -> Option<PortalSpan> {
        let state = self.state(at)?;
        let Some(generation) = after_free(found) else {
            self.retire(state, at);
            return None;
        };
        if stands(Guard::Residue) {
            // A whole number of granules for a block: its tail is never named,
            // and 64 bytes at once are cheaper than 7.
            let bytes = match shape {
                Shape::RUN => extent.bytes(),
                _ => extent.bytes().next_multiple_of(GRANULE),
            };
            self.window.zero(at, bytes);
        }
        state.set_holder(at.slot(), Claimant::Owner(shape));
        let word = Word::live(generation, Holder::Owner, extent);
        self.window.store(at, word, Ordering::Relaxed);
        Some(self.span(at, generation, len))
    }

    /// The span that names `len` bytes from a granule on.
    #[inline(always)]
    pub(super) fn span(&self, at: Granule, generation: u32, length: u64) -> PortalSpan {
        PortalSpan {
            region: self.region,
            section: self.owner.0,
            flags: 0,
            // Below 2^38 + 2^38: no overflow.
            offset: self.first.wrapping_add(u64::from(at.0) * GRANULE),
            length,
            generation,
            epoch: self.epoch,
        }
    }

    /// Says that the first `len` bytes of an unfilled span were written: from now
    /// on they, and only they, can be named. Gives the span with that length.
    ///
    /// # Errors
    /// [`ArenaError::Span`] when `len` is beyond the block, or the span is not
    /// one that this peer holds; [`ArenaError::Lent`].
    pub fn fill(&self, span: &PortalSpan, len: u64) -> Result<PortalSpan, ArenaError> {
        let at = self.locate(span)?;
        let (state, word, _) = self.owned(at, span)?;
        let limit = self.capacity(state, at);
        let extent = Extent::covering(len);
        if extent.bytes() > limit {
            return Err(out_of_bounds(span.offset, len, limit));
        }
        // What the extent's coding adds was not filled.
        let added = extent.bytes() - len;
        if added != 0 {
            let end = self.window.layout().bytes(at) + len;
            self.window.mem().zero(end, added);
        }
        let word = Word::live(word.generation(), Holder::Owner, extent);
        self.window.store(at, word, Ordering::Relaxed);
        Ok(PortalSpan {
            length: len,
            ..*span
        })
    }

    /// The bytes of one of this arena's own spans: writable while it is not
    /// lent, read-only while it is.
    ///
    /// # Errors
    /// [`ArenaError::Span`].
    pub fn view(&self, span: &PortalSpan) -> Result<SpanView<M>, ArenaError> {
        let at = self.locate(span)?;
        let access = match self.owned(at, span) {
            Ok(_) => Access::ReadWrite,
            Err(ArenaError::Lent { .. }) => Access::Read,
            Err(e) => return Err(e),
        };
        let state = self.state(at).ok_or_else(|| not_a_block(span))?;
        let limit = self.capacity(state, at);
        if span.length > limit {
            return Err(out_of_bounds(span.offset, span.length, limit));
        }
        let from = self.window.layout().bytes(at);
        let mem = self.window.mem().window(from, span.length)?;
        Ok(SpanView::new(mem, access))
    }

    /// Frees a span that is not lent. Its name is stale from here on.
    ///
    /// # Errors
    /// [`ArenaError::Span`] when it is not one of this arena's live spans,
    /// [`ArenaError::Lent`]. Nothing has changed then.
    pub fn free(&self, span: &PortalSpan) -> Result<(), ArenaError> {
        let at = self.locate(span)?;
        let held = self.lock.lock();
        let (state, word, _) = self.owned(at, span)?;
        self.give_back(state, at, word, &held);
        Ok(())
    }

    /// Moves a live block's generation and puts it where allocation finds it.
    pub(super) fn give_back(&self, state: &PageState, at: Granule, word: Word, held: &Locked<'_>) {
        let usable = self.bury(state, at, word).is_some();
        match state.kind() {
            Kind::Slab(class) if usable => self.put_block(state, at, class, held),
            Kind::Slab(_) => self.block_lost(held),
            Kind::Run(pages) if usable => self.give_run(at.page(), pages, held),
            Kind::Run(pages) => self.give_run_without_head(at.page(), pages, held),
            _ => {}
        }
    }

    /// Moves a live block's generation: its spans are stale. The new generation,
    /// or `None` when there is none and the block is retired.
    #[inline(always)]
    pub(super) fn bury(&self, state: &PageState, at: Granule, word: Word) -> Option<u32> {
        let Some(generation) = after_live(word.generation()) else {
            self.retire(state, at);
            return None;
        };
        state.set_holder(at.slot(), Claimant::Free);
        self.window
            .store(at, Word::free(generation), Ordering::Relaxed);
        Some(generation)
    }

    #[cold]
    fn retire(&self, state: &PageState, at: Granule) {
        state.set_holder(at.slot(), Claimant::Retired);
        self.window
            .store(at, Word::free(RETIRED), Ordering::Relaxed);
        self.counts.retired.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a run of `pages` pages; its kind is `Run` then.
    fn take_run(&self, pages: u32, held: &Locked<'_>) -> Option<u32> {
        let states = self.states.as_ref();
        self.runs
            .take(states, pages, Search::Quick, held)
            .or_else(|| {
                self.trim(held);
                self.runs.take(states, pages, Search::Full, held)
            })
    }

    /// Gives a run back that nothing names any more.
    pub(super) fn give_run(&self, first: u32, pages: u32, held: &Locked<'_>) {
        if let Some(state) = self.state(Granule::new(first, 0)) {
            state.set_holder(0, Claimant::NoBlock);
        }
        self.runs.give(self.states.as_ref(), first, pages, held);
    }

    /// Gives back all pages of a run but the first, which is retired.
    pub(super) fn give_run_without_head(&self, first: u32, pages: u32, held: &Locked<'_>) {
        let states = self.states.as_ref();
        if let Some(head) = states.get(first as usize) {
            head.set_kind(Kind::Retired, held);
        }
        if pages > 1 {
            self.runs.give(states, first + 1, pages - 1, held);
        }
    }

    /// Pages of a run of `len` bytes, and whether the arena has as many.
    pub(super) fn pages_for(&self, len: u64) -> Result<u32, ArenaError> {
        let limit = u64::from(self.usable()) * PAGE;
        let bytes = Extent::covering(len).bytes();
        if len > limit || bytes > limit {
            return Err(ArenaError::TooLong { len, limit });
        }
        Ok(bytes.div_ceil(PAGE).max(1) as u32)
    }

    #[inline(always)]
    pub(super) fn state(&self, at: Granule) -> Option<&PageState> {
        self.states.as_ref().get(at.page() as usize)
    }

    /// Bytes of the block that starts there, by private knowledge.
    fn capacity(&self, state: &PageState, at: Granule) -> u64 {
        match state.kind() {
            Kind::Run(pages) if at.slot() == 0 => u64::from(pages) * PAGE,
            Kind::Slab(class) if at.slot() != 0 => class.bytes(),
            _ => 0,
        }
    }

    /// The granule that one of our own spans names, if the name can be ours. The
    /// epoch is compared with the generation, by [`owned`](Self::owned).
    #[inline(always)]
    pub(super) fn locate(&self, span: &PortalSpan) -> Result<Granule, SpanError> {
        let named = name_of(span.region, span.section, span.flags) == self.name;
        // Wrapping: an offset before the first page becomes one beyond the last.
        let from_first = span.offset.wrapping_sub(self.first);
        let granule = from_first / GRANULE;
        if named && from_first.is_multiple_of(GRANULE) && granule < self.window.granules() {
            return Ok(Granule(granule as u32));
        }
        Err(self.why_not_named(span))
    }

    #[cold]
    fn why_not_named(&self, span: &PortalSpan) -> SpanError {
        let (section, flags) = (span.section, span.flags);
        if span.region != self.region {
            SpanError::OtherRegion {
                found: span.region,
                expected: self.region,
            }
        } else if section != self.owner.0 {
            SpanError::NoSuchSection { section }
        } else if flags != 0 {
            SpanError::UnknownFlags { flags }
        } else {
            SpanError::NotABlock {
                offset: span.offset,
            }
        }
    }

    /// The state, word and shape of a live block that this peer holds itself.
    #[inline(always)]
    pub(super) fn owned(
        &self,
        at: Granule,
        span: &PortalSpan,
    ) -> Result<(&PageState, Word, Shape), ArenaError> {
        let state = self.state(at).ok_or_else(|| not_a_block(span))?;
        let word = self.window.load(at);
        let current = age(word.generation(), self.epoch);
        if let Some(shape) = state.owned(at.slot())
            && current == age(span.generation, span.epoch)
        {
            return Ok((state, word, shape));
        }
        Err(self.why_not_owned(state, at, word, span))
    }

    #[cold]
    fn why_not_owned(
        &self,
        state: &PageState,
        at: Granule,
        word: Word,
        span: &PortalSpan,
    ) -> ArenaError {
        if span.epoch != self.epoch {
            return ArenaError::Span(SpanError::StaleEpoch {
                found: span.epoch,
                current: self.epoch,
            });
        }
        match state.holder(at.slot()) {
            Claimant::NoBlock => not_a_block(span),
            Claimant::Peer(peer) if word.generation() == span.generation => {
                ArenaError::Lent { peer: PeerId(peer) }
            }
            _ => ArenaError::Span(SpanError::StaleGeneration {
                found: span.generation,
                current: word.generation(),
            }),
        }
    }
}

#[cfg(feature = "std")]
impl<M: SharedMem> super::BoxedArena<M> {
    /// [`Arena::format`] with page states from the heap.
    ///
    /// # Errors
    /// As [`Arena::format`].
    pub fn format_boxed(place: ArenaPlace<M>) -> Result<Self, ArenaError> {
        let pages = ArenaLayout::new(place.mem.len())?.pages();
        Self::make(place, super::fresh::fresh(pages), true)
    }
}

/// The generation of a block that was free and is handed out.
#[inline(always)]
fn after_free(generation: u32) -> Option<u32> {
    if !stands(Guard::Generation) {
        return Some(generation.wrapping_add(1) | 1);
    }
    // Odd where it should be even only when the section was scribbled: then the
    // next odd one.
    (generation < RETIRED - 1).then_some((generation.wrapping_add(1)) | 1)
}

/// The generation of a block that was live and is freed.
#[inline(always)]
fn after_live(generation: u32) -> Option<u32> {
    if !stands(Guard::Generation) {
        return Some(generation.wrapping_add(1));
    }
    (generation < RETIRED - 1).then_some(generation.wrapping_add(1))
}

#[cold]
fn not_a_block(span: &PortalSpan) -> ArenaError {
    let offset = span.offset;
    SpanError::NotABlock { offset }.into()
}

#[cold]
fn out_of_bounds(offset: u64, length: u64, limit: u64) -> ArenaError {
    SpanError::OutOfBounds {
        offset,
        length,
        limit,
    }
    .into()
}

/// Region, section and flags of a span, to be compared at once.
#[inline(always)]
fn name_of(region: u32, section: u16, flags: u16) -> u64 {
    u64::from(region) | (u64::from(section) << 32) | (u64::from(flags) << 48)
}

/// Generation and epoch of a span, to be compared at once.
#[inline(always)]
fn age(generation: u32, epoch: u32) -> u64 {
    u64::from(generation) | (u64::from(epoch) << 32)
}
