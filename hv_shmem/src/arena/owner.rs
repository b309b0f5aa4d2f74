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
use super::runs::Runs;
use super::sync::AtomicU32;
use super::sync::AtomicU64;
use super::sync::Lock;
use super::sync::Locked;
use super::word::Extent;
use super::word::Holder;
use super::word::MAX_SPAN;
use super::word::RETIRED;
use super::word::Word;
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
    pub(super) mem: M,
    pub(super) states: S,
    pub(super) layout: ArenaLayout,
    /// Offset of the first data page from the start of the section.
    pub(super) first: u64,
    /// Granules in the pages that are used.
    pub(super) granules: u64,
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

/// How full an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Pages of 4096 bytes that the arena has.
    pub pages: u32,
    /// Pages in no slab and no run.
    pub free_pages: u32,
    /// Slab pages.
    pub slab_pages: u32,
    /// Blocks in use or in a magazine.
    pub blocks_out: u64,
    /// Blocks and pages out of use because their generations have run out.
    pub retired: u64,
    /// Returns of what was not lent to the peer that returned it (or twice).
    pub returns_not_lent: u64,
    /// Returns of an older generation.
    pub returns_stale: u64,
    /// Returns of what is no block.
    pub returns_out_of_range: u64,
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
        let this = Self::over(place, states)?;
        let mem = &this.mem;
        mem.store_u64(0, 0, Ordering::Relaxed);
        for page in 0..this.layout.pages() {
            mem.store_u64(this.layout.page_word(page), 0, Ordering::Relaxed);
        }
        this.write_header();
        let held = this.lock.lock();
        this.runs
            .give(this.states.as_ref(), 0, this.usable(), &held);
        drop(held);
        Ok(this)
    }

    /// An arena with nothing in its lists, and cleared page states.
    pub(super) fn over(place: ArenaPlace<M>, states: S) -> Result<Self, ArenaError> {
        let layout = ArenaLayout::new(place.mem.len())?;
        let far = place.offset.checked_add(layout.end());
        if place.offset % PAGE != 0 || far.is_none_or(|end| end > MAX_SPAN) {
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
        for state in states.as_ref() {
            state.clear();
        }
        Ok(Self {
            mem: place.mem,
            states,
            layout,
            first: place.offset + layout.data_at(),
            granules: u64::from(usable) * (PAGE / GRANULE),
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
        let version = u64::from(layout::VERSION) | (u64::from(self.layout.pages()) << 32);
        self.mem
            .store_u64(layout::VERSION_AT, version, Ordering::Relaxed);
        self.mem
            .store_u64(layout::EPOCH_AT, self.epoch.into(), Ordering::Relaxed);
        for at in (layout::EPOCH_AT + 8..64).step_by(8) {
            self.mem.store_u64(at, 0, Ordering::Relaxed);
        }
        // Release pairs with the Acquire in `check`: a header with the magic is
        // a whole one.
        self.mem.store_u64(0, layout::MAGIC, Ordering::Release);
    }

    /// Pages in use by this arena: as the window and the page states allow.
    pub(super) fn usable(&self) -> u32 {
        (self.granules / (PAGE / GRANULE)) as u32
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
            if let Some(span) = self.hand_out(Granule(found[0]), len, extent) {
                return Ok(span);
            }
            self.block_lost(&self.lock.lock());
        }
        Err(self.out_of_memory(len))
    }

    pub(super) fn alloc_run(&self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
        let limit = u64::from(self.usable()) * PAGE;
        let bytes = Extent::covering(len).bytes();
        if len > limit || bytes > limit {
            return Err(ArenaError::TooLong { len, limit });
        }
        let pages = bytes.div_ceil(PAGE).max(1) as u32;
        for _ in 0..RETIRED_IN_A_ROW {
            let held = self.lock.lock();
            let mut first = self.runs.take(self.states.as_ref(), pages, &held);
            if first.is_none() {
                self.trim(&held);
                first = self.runs.take(self.states.as_ref(), pages, &held);
            }
            drop(held);
            let Some(first) = first else { break };
            let at = Granule::new(first, 0);
            if let Some(span) = self.hand_out(at, len, extent) {
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

    /// Makes a free block live: zeroes what the span names and moves the
    /// generation. `None`: the block's generations have run out, it is retired.
    #[inline(always)]
    pub(super) fn hand_out(&self, at: Granule, len: u64, extent: Extent) -> Option<PortalSpan> {
        let state = self.state(at)?;
        let word_at = self.layout.word(at);
        let found = Word(self.mem.load_u64(word_at, Ordering::Relaxed)).generation();
        let Some(generation) = after_free(found) else {
            self.retire(state, at);
            return None;
        };
        if !cfg!(feature = "negative_control_residue") {
            self.mem.zero(self.layout.bytes(at), extent.bytes());
        }
        state.set_holder(at.slot(), Claimant::Owner);
        let word = Word::live(generation, Holder::Owner, extent);
        self.mem.store_u64(word_at, word.0, Ordering::Relaxed);
        Some(PortalSpan {
            region: self.region,
            section: self.owner.0,
            flags: 0,
            offset: self.first + u64::from(at.0) * GRANULE,
            length: len,
            generation,
            epoch: self.epoch,
        })
    }

    /// Says that the first `len` bytes of an unfilled span were written: from now
    /// on they, and only they, can be named. Gives the span with that length.
    ///
    /// # Errors
    /// [`ArenaError::Span`] when `len` is beyond the block, or the span is not
    /// one that this peer holds; [`ArenaError::Lent`].
    pub fn fill(&self, span: &PortalSpan, len: u64) -> Result<PortalSpan, ArenaError> {
        let at = self.locate(span)?;
        let (state, word) = self.owned(at, span)?;
        let limit = self.capacity(state, at);
        let extent = Extent::covering(len);
        if extent.bytes() > limit {
            return Err(out_of_bounds(span.offset, len, limit));
        }
        // What the extent's coding adds was not filled.
        self.mem
            .zero(self.layout.bytes(at) + len, extent.bytes() - len);
        let word = Word::live(word.generation(), Holder::Owner, extent);
        self.mem
            .store_u64(self.layout.word(at), word.0, Ordering::Relaxed);
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
        let mem = self.mem.window(self.layout.bytes(at), span.length)?;
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
        let (state, word) = self.owned(at, span)?;
        self.give_back(state, at, word, &held);
        Ok(())
    }

    /// Moves a live block's generation and puts it where allocation finds it.
    pub(super) fn give_back(&self, state: &PageState, at: Granule, word: Word, held: &Locked<'_>) {
        let usable = self.bury(state, at, word);
        match state.kind() {
            Kind::Slab(class) if usable => self.put_block(state, at, class, held),
            Kind::Slab(_) => self.block_lost(held),
            Kind::Run(pages) if usable => {
                state.set_holder(0, Claimant::NoBlock);
                self.runs.give(self.states.as_ref(), at.page(), pages, held);
            }
            Kind::Run(pages) => self.give_run_without_head(at.page(), pages, held),
            _ => {}
        }
    }

    /// Moves a live block's generation: its spans are stale. False when that was
    /// its last generation, and the block is retired.
    #[inline(always)]
    pub(super) fn bury(&self, state: &PageState, at: Granule, word: Word) -> bool {
        let Some(generation) = after_live(word.generation()) else {
            self.retire(state, at);
            return false;
        };
        state.set_holder(at.slot(), Claimant::Free);
        self.mem.store_u64(
            self.layout.word(at),
            Word::free(generation).0,
            Ordering::Relaxed,
        );
        true
    }

    #[cold]
    fn retire(&self, state: &PageState, at: Granule) {
        state.set_holder(at.slot(), Claimant::Retired);
        self.mem.store_u64(
            self.layout.word(at),
            Word::free(RETIRED).0,
            Ordering::Relaxed,
        );
        self.counts.retired.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back all pages of a run but the first, which is retired.
    fn give_run_without_head(&self, first: u32, pages: u32, held: &Locked<'_>) {
        let states = self.states.as_ref();
        if let Some(head) = states.get(first as usize) {
            head.set_kind(Kind::Retired, held);
        }
        if pages > 1 {
            self.runs.give(states, first + 1, pages - 1, held);
        }
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

    /// The granule that one of our own spans names, if the name can be ours.
    #[inline(always)]
    pub(super) fn locate(&self, span: &PortalSpan) -> Result<Granule, SpanError> {
        let named = span.region == self.region
            && span.section == self.owner.0
            && span.flags == 0
            && span.epoch == self.epoch;
        // Wrapping: an offset before the first page becomes one beyond the last.
        let from_first = span.offset.wrapping_sub(self.first);
        let granule = from_first / GRANULE;
        if named && from_first % GRANULE == 0 && granule < self.granules {
            return Ok(Granule(granule as u32));
        }
        Err(self.why_not(span))
    }

    #[cold]
    fn why_not(&self, span: &PortalSpan) -> SpanError {
        if span.region != self.region {
            SpanError::OtherRegion {
                found: span.region,
                expected: self.region,
            }
        } else if span.section != self.owner.0 {
            SpanError::NoSuchSection {
                section: span.section,
            }
        } else if span.flags != 0 {
            SpanError::UnknownFlags { flags: span.flags }
        } else if span.epoch != self.epoch {
            SpanError::StaleEpoch {
                found: span.epoch,
                current: self.epoch,
            }
        } else {
            SpanError::NotABlock {
                offset: span.offset,
            }
        }
    }

    /// The state and word of a live block that this peer holds itself.
    #[inline(always)]
    pub(super) fn owned(
        &self,
        at: Granule,
        span: &PortalSpan,
    ) -> Result<(&PageState, Word), ArenaError> {
        let state = self.state(at).ok_or_else(|| not_a_block(span))?;
        let word = Word(self.mem.load_u64(self.layout.word(at), Ordering::Relaxed));
        let held = state.is_held_by(at.slot(), Claimant::Owner);
        if held && word.generation() == span.generation {
            return Ok((state, word));
        }
        Err(not_owned(state, at, word, span))
    }

    /// Occupancy counters. Cheap; the figures are those of slightly different
    /// moments when other threads are at work.
    pub fn occupancy(&self) -> Occupancy {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [not_lent, stale, out_of_range] = &self.counts.faults;
        Occupancy {
            pages: self.usable(),
            free_pages: self.runs.free_pages(),
            slab_pages: get(&self.counts.slab_pages) as u32,
            blocks_out: get(&self.counts.blocks_out),
            retired: get(&self.counts.retired),
            returns_not_lent: get(not_lent),
            returns_stale: get(stale),
            returns_out_of_range: get(out_of_range),
        }
    }

    /// Calls `each` for every live span (its length is what may be named of it)
    /// with the peer that holds it, if it is lent. Takes the lock.
    pub fn for_each_live(&self, mut each: impl FnMut(PortalSpan, Option<PeerId>)) {
        let _held = self.lock.lock();
        for page in 0..self.usable() {
            for at in (0..64).map(|slot| Granule::new(page, slot)) {
                let holder = match self.state(at).map(|state| state.holder(at.slot())) {
                    Some(Claimant::Owner) => None,
                    Some(Claimant::Peer(peer)) => Some(PeerId(peer)),
                    _ => continue,
                };
                let word = Word(self.mem.load_u64(self.layout.word(at), Ordering::Relaxed));
                let span = PortalSpan {
                    region: self.region,
                    section: self.owner.0,
                    flags: 0,
                    offset: self.first + u64::from(at.0) * GRANULE,
                    length: word.extent().bytes(),
                    generation: word.generation(),
                    epoch: self.epoch,
                };
                each(span, holder);
            }
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
        Self::format(place, super::pages::boxed(pages))
    }
}

/// The generation of a block that was free and is handed out.
#[inline(always)]
fn after_free(generation: u32) -> Option<u32> {
    if cfg!(feature = "negative_control_generation") {
        return Some(generation.wrapping_add(1) | 1);
    }
    // Odd where it should be even only when the section was scribbled: then the
    // next odd one.
    (generation < RETIRED - 1).then_some((generation.wrapping_add(1)) | 1)
}

/// The generation of a block that was live and is freed.
#[inline(always)]
fn after_live(generation: u32) -> Option<u32> {
    if cfg!(feature = "negative_control_generation") {
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

#[cold]
fn not_owned(state: &PageState, at: Granule, word: Word, span: &PortalSpan) -> ArenaError {
    match state.holder(at.slot()) {
        Claimant::NoBlock => not_a_block(span),
        Claimant::Peer(peer) if word.generation() == span.generation => {
            ArenaError::Lent { peer: PeerId(peer) }
        }
        _ => SpanError::StaleGeneration {
            found: span.generation,
            current: word.generation(),
        }
        .into(),
    }
}
