//! [`Magazine`]: a thread's own stock of free blocks.
//!
//! Allocating takes a block from it and freeing puts one into it: no lock and no
//! locked instruction. Every so many blocks the magazine is refilled from, or
//! half emptied into, the arena's pages under the arena's lock.

use super::Arena;
use super::ArenaError;
use super::classes::CLASSES;
use super::classes::Class;
use super::classes::Granule;
use super::lending::Returned;
use super::owner::RETIRED_IN_A_ROW;
use super::pages::Kind;
use super::pages::PageState;
use super::pages::Shape;
use super::recent::FreeRun;
use super::recent::Recent;
use super::returns::ReturnReceiver;
use super::sync::Locked;
use super::word::Extent;
use crate::mem::SharedMem;
use crate::ring::RecvError;
use crate::span::PortalSpan;
use core::marker::PhantomData;
use core::ops::Deref;

/// Blocks of a class that a magazine holds at most.
const ROOM: usize = 128;

/// Blocks held at most, by class: about 8 KiB of each.
const LIMITS: [u8; CLASSES] = [128, 64, 32, 32, 16, 16, 8, 8, 8, 4];

/// A magazine keeps runs of at most this part of the arena's pages.
const PAGES_KEPT: u32 = 16;

/// The free blocks of one class, first in, first out: a block rests before it is
/// used again, so that its generations last longer, and one allocation does not
/// wait for what the last one wrote.
#[derive(Debug, Clone, Copy)]
struct Stock {
    head: u8,
    tail: u8,
    limit: u8,
    /// Granule (0..32) and generation (32..64).
    blocks: [u64; ROOM],
}

/// One thread's way into an arena.
///
/// `A` is how the thread holds the arena: `&Arena` or `Arc<Arena>`. What is in a
/// magazine, no other thread can allocate; it goes back when the magazine is
/// emptied or dropped.
#[derive(Debug)]
pub struct Magazine<M, S, A>
where
    M: SharedMem,
    S: AsRef<[PageState]>,
    A: Deref<Target = Arena<M, S>>,
{
    arena: A,
    stocks: [Stock; CLASSES],
    recent: Recent,
    marker: PhantomData<fn() -> (M, S)>,
}

impl<M, S, A> Magazine<M, S, A>
where
    M: SharedMem,
    S: AsRef<[PageState]>,
    A: Deref<Target = Arena<M, S>>,
{
    /// An empty magazine of `arena`.
    pub fn new(arena: A) -> Self {
        let stock = |limit| Stock {
            head: 0,
            tail: 0,
            limit,
            blocks: [0; ROOM],
        };
        let recent = Recent::new(arena.usable() / PAGES_KEPT);
        Self {
            arena,
            stocks: LIMITS.map(stock),
            recent,
            marker: PhantomData,
        }
    }

    /// The arena that this is a magazine of.
    pub fn arena(&self) -> &Arena<M, S> {
        &self.arena
    }

    /// Allocates `len` bytes of zeros.
    ///
    /// # Errors
    /// As [`Arena::alloc`].
    #[inline]
    pub fn alloc(&mut self, len: u64) -> Result<PortalSpan, ArenaError> {
        self.alloc_with(len, Extent::covering(len))
    }

    /// Allocates `len` bytes that the caller will write and then
    /// [`fill`](Arena::fill).
    ///
    /// # Errors
    /// As [`Arena::alloc_unfilled`].
    #[inline]
    pub fn alloc_unfilled(&mut self, len: u64) -> Result<PortalSpan, ArenaError> {
        self.alloc_with(len, Extent::NONE)
    }

    #[inline(always)]
    fn alloc_with(&mut self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
        let Some(class) = Class::for_len(len) else {
            return self.alloc_run(len, extent);
        };
        for _ in 0..RETIRED_IN_A_ROW {
            let (at, generation) = match self.stocks.get_mut(class.index()).and_then(Stock::pop) {
                Some(block) => block,
                None => self.refill(class, len)?,
            };
            let shape = Shape::of(class);
            if let Some(span) = self.arena.hand_out(at, shape, generation, len, extent) {
                return Ok(span);
            }
            self.lost_one();
        }
        Err(self.arena.out_of_memory(len))
    }

    fn alloc_run(&mut self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
        let pages = self.arena.pages_for(len)?;
        if let Some(run) = self.recent.take(pages) {
            let at = run.at();
            match self
                .arena
                .hand_out(at, Shape::RUN, run.generation, len, extent)
            {
                Some(span) => return Ok(span),
                None => {
                    let held = self.arena.lock.lock();
                    self.arena
                        .give_run_without_head(run.first, run.pages, &held);
                }
            }
        }
        match self.arena.alloc_run(len, extent) {
            Err(ArenaError::OutOfMemory { .. }) => {
                self.empty();
                self.arena.alloc_run(len, extent)
            }
            done => done,
        }
    }

    /// Frees a span that is not lent.
    ///
    /// # Errors
    /// As [`Arena::free`].
    #[inline]
    pub fn free(&mut self, span: &PortalSpan) -> Result<(), ArenaError> {
        let at = self.arena.locate(span)?;
        let (state, word, shape) = self.arena.owned(at, span)?;
        let stock = shape.class().and_then(|c| self.stocks.get_mut(c.index()));
        let Some(stock) = stock else {
            return self.free_run(span, at);
        };
        match self.arena.bury(state, at, word) {
            Some(generation) if stock.push(at, generation) => {}
            Some(_) => self.make_room(at),
            None => self.lost_one(),
        }
        Ok(())
    }

    /// Takes what a peer returned, as [`Arena::take_returns`], and keeps the
    /// blocks in this magazine as far as they fit.
    ///
    /// # Errors
    /// [`RecvError`] when the peer broke the ring itself.
    pub fn take_returns(&mut self, from: &mut ReturnReceiver<M>) -> Result<Returned, RecvError> {
        let Self {
            arena,
            stocks,
            recent,
            ..
        } = self;
        from.take_with(|peer, claims| {
            arena.take_claims_with(peer, claims, |state, at, word, held| {
                let stock = state.class().and_then(|c| stocks.get_mut(c.index()));
                match (stock, state.kind()) {
                    (Some(stock), _) if stock.has_room() => match arena.bury(state, at, word) {
                        Some(generation) => {
                            stock.push(at, generation);
                        }
                        None => arena.block_lost(held),
                    },
                    (None, Kind::Run(pages)) if recent.has_room(pages) => {
                        match arena.bury(state, at, word) {
                            Some(generation) => {
                                recent.keep(FreeRun {
                                    first: at.page(),
                                    pages,
                                    generation,
                                });
                            }
                            None => arena.give_run_without_head(at.page(), pages, held),
                        }
                    }
                    _ => arena.give_back(state, at, word, held),
                }
            })
        })
    }

    /// Gives all blocks back to the arena.
    pub fn empty(&mut self) {
        let held = self.arena.lock.lock();
        for stock in &mut self.stocks {
            stock.give(&self.arena, 0, &held);
        }
        while let Some(run) = self.recent.take_any() {
            self.arena.give_run(run.first, run.pages, &held);
        }
    }

    /// Half fills a class and takes one block.
    #[cold]
    fn refill(&mut self, class: Class, len: u64) -> Result<(Granule, u32), ArenaError> {
        for retry in [true, false] {
            if let Some(stock) = self.stocks.get_mut(class.index()) {
                let mut found = [0; ROOM / 2];
                let wanted = usize::from(stock.limit / 2).clamp(1, found.len());
                let room = found.get_mut(..wanted).unwrap_or_default();
                let held = self.arena.lock.lock();
                let count = self.arena.take_blocks(class, room, &held);
                drop(held);
                for &block in found.get(..count).unwrap_or_default() {
                    let at = Granule(block);
                    stock.push(at, self.arena.window.load(at).generation());
                }
                if let Some(block) = stock.pop() {
                    return Ok(block);
                }
            }
            if retry {
                // What the other classes hold may be the rest of a page.
                self.empty();
            }
        }
        Err(self.arena.out_of_memory(len))
    }

    /// Gives half of a class back, then keeps `at`.
    #[cold]
    fn make_room(&mut self, at: Granule) {
        let arena = &*self.arena;
        let class = arena.state(at).and_then(PageState::class);
        let Some(stock) = class.and_then(|class| self.stocks.get_mut(class.index())) else {
            return;
        };
        let held = arena.lock.lock();
        stock.give(arena, stock.limit / 2, &held);
        drop(held);
        stock.push(at, arena.window.load(at).generation());
    }

    fn free_run(&mut self, span: &PortalSpan, at: Granule) -> Result<(), ArenaError> {
        let (state, word, _) = self.arena.owned(at, span)?;
        let Kind::Run(pages) = state.kind() else {
            return self.arena.free(span);
        };
        if !self.recent.has_room(pages) {
            return self.arena.free(span);
        }
        let first = at.page();
        match self.arena.bury(state, at, word) {
            Some(generation) => {
                self.recent.keep(FreeRun {
                    first,
                    pages,
                    generation,
                });
            }
            None => {
                let held = self.arena.lock.lock();
                self.arena.give_run_without_head(first, pages, &held);
            }
        }
        Ok(())
    }

    #[cold]
    fn lost_one(&self) {
        self.arena.block_lost(&self.arena.lock.lock());
    }
}

impl<M, S, A> Drop for Magazine<M, S, A>
where
    M: SharedMem,
    S: AsRef<[PageState]>,
    A: Deref<Target = Arena<M, S>>,
{
    fn drop(&mut self) {
        self.empty();
    }
}

impl Stock {
    fn count(&self) -> u8 {
        self.tail.wrapping_sub(self.head)
    }

    fn has_room(&self) -> bool {
        self.count() < self.limit
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<(Granule, u32)> {
        if self.head == self.tail {
            return None;
        }
        let block = *self.blocks.get(usize::from(self.head) % ROOM)?;
        self.head = self.head.wrapping_add(1);
        Some((Granule(block as u32), (block >> 32) as u32))
    }

    #[inline(always)]
    fn push(&mut self, at: Granule, generation: u32) -> bool {
        if !self.has_room() {
            return false;
        }
        let Some(place) = self.blocks.get_mut(usize::from(self.tail) % ROOM) else {
            return false;
        };
        *place = u64::from(at.0) | (u64::from(generation) << 32);
        self.tail = self.tail.wrapping_add(1);
        true
    }

    /// Gives the oldest blocks back until `keep` are left.
    fn give<M: SharedMem, S: AsRef<[PageState]>>(
        &mut self,
        arena: &Arena<M, S>,
        keep: u8,
        held: &Locked<'_>,
    ) {
        while self.count() > keep {
            let Some((at, _)) = self.pop() else { return };
            if let Some((state, class)) = arena.state(at).and_then(|s| Some((s, s.class()?))) {
                arena.put_block(state, at, class, held);
            }
        }
    }
}
