//! Slab pages: cutting a page into blocks, taking them, putting them back.

use super::Arena;
use super::classes::Class;
use super::classes::Granule;
use super::classes::SLOTS;
use super::pages::Claimant;
use super::pages::Kind;
use super::pages::NIL;
use super::pages::PageState;
use super::runs::Search;
use super::sync::Locked;
use super::word::RETIRED;
use super::word::Word;
use crate::guard::Guard;
use crate::guard::stands;
use crate::mem::Ordering;
use crate::mem::Ordering::Relaxed;
use crate::mem::SharedMem;

/// Pages whose generations have run out that are stepped over for a new slab.
const TRIES: usize = 8;

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// Takes up to `out.len()` free blocks; says how many.
    pub(super) fn take_blocks(&self, class: Class, out: &mut [u32], held: &Locked<'_>) -> usize {
        let mut taken = 0;
        while taken < out.len() {
            let Some(page) = self.page_with_free(class, held) else {
                break;
            };
            let Some(state) = self.states.as_ref().get(page as usize) else {
                break;
            };
            let mut free = state.free_blocks(held);
            for place in &mut out[taken..] {
                if free == 0 {
                    break;
                }
                *place = Granule::new(page, free.trailing_zeros()).0;
                free &= free - 1;
                taken += 1;
            }
            state.set_free_blocks(free, held);
            if free == 0 {
                self.unlist(page, state, class, held);
            }
        }
        self.counts
            .blocks_out
            .store(self.blocks_out() + taken as u64, Relaxed);
        taken
    }

    /// Puts a free block back into its page; the page goes back to the runs when
    /// all of it is free and the class has other free blocks.
    pub(super) fn put_block(
        &self,
        state: &PageState,
        at: Granule,
        class: Class,
        held: &Locked<'_>,
    ) {
        let free = state.free_blocks(held);
        let bit = 1u64 << at.slot();
        if free & bit != 0 || class.starts() & bit == 0 {
            // Freed twice by two threads at the same moment: once is enough.
            return;
        }
        state.set_free_blocks(free | bit, held);
        self.block_lost(held);
        if free == 0 {
            self.list(at.page(), state, class, held);
        }
        if free | bit == class.starts() && state.links(held) != (NIL, NIL) {
            self.release(at.page(), state, class, held);
        }
    }

    /// One block fewer is out.
    pub(super) fn block_lost(&self, _held: &Locked<'_>) {
        let out = self.blocks_out().saturating_sub(1);
        self.counts.blocks_out.store(out, Relaxed);
    }

    /// Gives every wholly free slab page back to the runs.
    pub(super) fn trim(&self, held: &Locked<'_>) {
        let states = self.states.as_ref();
        for (index, head) in self.partial.iter().enumerate() {
            let Some(class) = Class::from_index(index as u64) else {
                continue;
            };
            let mut page = head.load(Relaxed);
            // A page is on one list once: no more steps than pages.
            while let Some(state) = states.get(page as usize) {
                let next = state.links(held).1;
                if state.free_blocks(held) == class.starts() {
                    self.release(page, state, class, held);
                }
                page = next;
            }
        }
    }

    fn blocks_out(&self) -> u64 {
        self.counts.blocks_out.load(Relaxed)
    }

    fn page_with_free(&self, class: Class, held: &Locked<'_>) -> Option<u32> {
        let page = self.partial.get(class.index())?.load(Relaxed);
        if page != NIL {
            return Some(page);
        }
        self.cut(class, held).or_else(|| {
            self.trim(held);
            self.cut(class, held)
        })
    }

    /// Makes a slab page of a free page.
    fn cut(&self, class: Class, held: &Locked<'_>) -> Option<u32> {
        for _ in 0..TRIES {
            let page = self
                .runs
                .take(self.states.as_ref(), 1, Search::Quick, held)?;
            let state = self.states.as_ref().get(page as usize)?;
            let head = Granule::new(page, 0);
            let found = self.window.load(head).generation();
            if found >= RETIRED - 1 && stands(Guard::Generation) {
                state.set_kind(Kind::Retired, held);
                self.counts.retired.fetch_add(1, Relaxed);
                continue;
            }
            // Blocks go on where anything in this page has ever been.
            let floor = found.wrapping_add(1) & !1;
            if !stands(Guard::Order) {
                self.window
                    .store(head, Word::slab(floor, class), Ordering::Release);
            }
            for slot in 0..SLOTS {
                let starts = class.starts() >> slot & 1 == 1;
                let word = if starts { Word::free(floor) } else { Word(0) };
                let holder = if starts {
                    Claimant::Free
                } else {
                    Claimant::NoBlock
                };
                state.set_holder(slot, holder);
                if slot == 0 {
                    // The page's first 8 bytes: the word of slot 0 is elsewhere.
                    let first_bytes = self.window.layout().bytes(head);
                    self.window.mem().store_u64(first_bytes, 0, Relaxed);
                } else {
                    self.window.store(Granule::new(page, slot), word, Relaxed);
                }
            }
            // Release pairs with the Acquire in `ArenaView::resolve`: who sees a
            // slab page sees its block words.
            let word = Word::slab(floor, class);
            self.window.store(head, word, Ordering::Release);
            state.set_kind(Kind::Slab(class), held);
            state.set_free_blocks(class.starts(), held);
            self.list(page, state, class, held);
            let pages = self.counts.slab_pages.load(Relaxed) + 1;
            self.counts.slab_pages.store(pages, Relaxed);
            return Some(page);
        }
        None
    }

    /// Gives a wholly free slab page back to the runs.
    fn release(&self, page: u32, state: &PageState, class: Class, held: &Locked<'_>) {
        self.unlist(page, state, class, held);
        state.set_free_blocks(0, held);
        let mut highest = 0;
        for slot in 0..SLOTS {
            if class.starts() >> slot & 1 == 1 {
                let word = self.window.load(Granule::new(page, slot));
                highest = word.generation().max(highest);
            }
            state.set_holder(slot, Claimant::NoBlock);
        }
        let pages = self.counts.slab_pages.load(Relaxed).saturating_sub(1);
        self.counts.slab_pages.store(pages, Relaxed);
        let (word, retired) = match highest {
            RETIRED.. => (Word::free(RETIRED), true),
            _ => (Word::free(highest.wrapping_add(1) & !1), false),
        };
        // Before any byte of the page is reused: who then finds the bytes of a
        // run where it expected a block word also finds that this is no slab
        // page any more. The fence pairs with the Acquire load of the block word
        // in `ArenaView::resolve`.
        self.window.store(Granule::new(page, 0), word, Relaxed);
        self.window.mem().fence(Ordering::Release);
        if retired && stands(Guard::Generation) {
            state.set_kind(Kind::Retired, held);
            self.counts.retired.fetch_add(1, Relaxed);
        } else {
            self.runs.give(self.states.as_ref(), page, 1, held);
        }
    }

    pub(super) fn list(&self, page: u32, state: &PageState, class: Class, held: &Locked<'_>) {
        let Some(head) = self.partial.get(class.index()) else {
            return;
        };
        let next = head.load(Relaxed);
        state.set_links(NIL, next, held);
        if let Some(next) = self.states.as_ref().get(next as usize) {
            next.set_links(page, next.links(held).1, held);
        }
        head.store(page, Relaxed);
    }

    fn unlist(&self, page: u32, state: &PageState, class: Class, held: &Locked<'_>) {
        let states = self.states.as_ref();
        let Some(head) = self.partial.get(class.index()) else {
            return;
        };
        let (previous, next) = state.links(held);
        match states.get(previous as usize) {
            Some(previous) => previous.set_links(previous.links(held).0, next, held),
            None if head.load(Relaxed) == page => head.store(next, Relaxed),
            None => {}
        }
        if let Some(next) = states.get(next as usize) {
            next.set_links(previous, next.links(held).1, held);
        }
        state.set_links(NIL, NIL, held);
    }
}
