//! Recovering an arena from a durable backing.
//!
//! The owner's private records died with it; the words in its own section say
//! the same. [`Arena::recover`] believes them as far as they can be true,
//! repairs the rest so that nothing resolves there, and goes on under the new
//! epoch. What was lent is the owner's again: in the new epoch no peer has a
//! span that resolves.

use super::Arena;
use super::ArenaCensus;
use super::ArenaError;
use super::ArenaPlace;
use super::classes::Granule;
use super::layout;
use super::pages::Claimant;
use super::pages::Kind;
use super::pages::PageState;
use super::pages::Shape;
use super::sync::Locked;
use super::walk::Seen;
use super::walk::walk;
use super::word::Holder;
use super::word::RETIRED;
use super::word::Word;
use crate::mem::Ordering;
use crate::mem::SharedMem;

/// What a recovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// What is in the arena now; its `faults` are words that were repaired, its
    /// `lent_spans` are the owner's again.
    pub census: ArenaCensus,
}

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// Takes over the arena that an earlier life of this peer left in `place`,
    /// under the epoch that `place` names now. [`Arena::for_each_live`] gives
    /// the spans that survived their names in this epoch.
    ///
    /// # Errors
    /// [`ArenaError::NotAnArena`] when the window holds none of this version and
    /// size, [`ArenaError::TooSmall`] (also when there are fewer page states than
    /// pages), [`ArenaError::Misplaced`].
    pub fn recover(place: ArenaPlace<M>, states: S) -> Result<(Self, Recovered), ArenaError> {
        let this = Self::over(place, states, false)?;
        let version = u64::from(layout::VERSION) | (u64::from(this.window.layout().pages()) << 32);
        for (at, expected) in [(0, layout::MAGIC), (layout::VERSION_AT, version)] {
            let found = this.window.mem().load_u64(at, Ordering::Acquire);
            if found != expected {
                return Err(ArenaError::NotAnArena { found, expected });
            }
        }
        if this.usable() < this.window.layout().pages() {
            return Err(ArenaError::TooSmall {
                len: u64::from(this.usable()) * super::classes::PAGE,
                limit: u64::from(this.window.layout().pages()) * super::classes::PAGE,
            });
        }
        let mut census = ArenaCensus {
            pages: this.usable(),
            ..ArenaCensus::default()
        };
        let held = this.lock.lock();
        let (mem, layout) = (this.window.mem(), this.window.layout());
        walk(mem, layout, this.usable(), &mut |seen| {
            census.count(seen);
            this.adopt(seen, &held);
        });
        for page in 0..this.usable() {
            this.adopt_free_blocks(page, &held);
        }
        drop(held);
        this.write_header();
        Ok((this, Recovered { census }))
    }

    fn adopt(&self, seen: Seen, held: &Locked<'_>) {
        let states = self.states.as_ref();
        match seen {
            Seen::Fault { at, repaired, .. } => {
                let mem = self.window.mem();
                mem.store_u64(at, repaired.0, Ordering::Relaxed);
            }
            Seen::Free { page, word } if word.generation() >= RETIRED => {
                if let Some(state) = states.get(page as usize) {
                    state.set_kind(Kind::Retired, held);
                }
                self.counts.retired.fetch_add(1, Ordering::Relaxed);
            }
            Seen::Free { page, .. } => self.runs.give(states, page, 1, held),
            Seen::Slab { page, class } => {
                if let Some(state) = states.get(page as usize) {
                    state.set_kind(Kind::Slab(class), held);
                    state.set_free_blocks(0, held);
                }
                self.counts.slab_pages.fetch_add(1, Ordering::Relaxed);
            }
            Seen::Run { page, pages, word } => {
                if let Some(state) = states.get(page as usize) {
                    state.set_kind(Kind::Run(pages), held);
                    self.adopt_live(state, Granule::new(page, 0), Shape::RUN, word);
                }
            }
            Seen::Block { at, word } => {
                let Some(state) = self.state(at) else { return };
                if word.is_live() {
                    let shape = state.class().map_or(Shape::RUN, Shape::of);
                    self.adopt_live(state, at, shape, word);
                    self.counts.blocks_out.fetch_add(1, Ordering::Relaxed);
                } else if word.generation() >= RETIRED {
                    state.set_holder(at.slot(), Claimant::Retired);
                    self.counts.retired.fetch_add(1, Ordering::Relaxed);
                } else {
                    state.set_holder(at.slot(), Claimant::Free);
                    let free = state.free_blocks(held) | (1 << at.slot());
                    state.set_free_blocks(free, held);
                }
            }
        }
    }

    fn adopt_live(&self, state: &PageState, at: Granule, shape: Shape, word: Word) {
        state.set_holder(at.slot(), Claimant::Owner(shape));
        let word = Word::live(word.generation(), Holder::Owner, word.extent());
        self.window.store(at, word, Ordering::Relaxed);
    }

    fn adopt_free_blocks(&self, page: u32, held: &Locked<'_>) {
        let Some(state) = self.states.as_ref().get(page as usize) else {
            return;
        };
        if let Kind::Slab(class) = state.kind()
            && state.free_blocks(held) != 0
        {
            self.list(page, state, class, held);
        }
    }
}

#[cfg(feature = "std")]
impl<M: SharedMem> super::BoxedArena<M> {
    /// [`Arena::recover`] with page states from the heap.
    ///
    /// # Errors
    /// As [`Arena::recover`].
    pub fn recover_boxed(place: ArenaPlace<M>) -> Result<(Self, Recovered), ArenaError> {
        let pages = layout::ArenaLayout::new(place.mem.len())?.pages();
        Self::recover(place, super::fresh::fresh(pages))
    }
}
