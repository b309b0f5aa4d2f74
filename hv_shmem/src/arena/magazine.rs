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
use super::owner::RETIRED_IN_A_ROW;
use super::pages::PageState;
use super::word::Extent;
use crate::mem::SharedMem;
use crate::span::PortalSpan;
use core::marker::PhantomData;
use core::ops::Deref;

/// Blocks of a class that a magazine holds at most.
const ROOM: usize = 64;

/// Blocks held at most, by class: at most 4 KiB of any but the longest ones.
const LIMITS: [u8; CLASSES] = [64, 32, 16, 16, 8, 8, 4, 4, 4, 2];

/// The stock of one class.
#[derive(Debug, Clone, Copy)]
struct Stock {
    count: u8,
    limit: u8,
    blocks: [u32; ROOM],
}

/// One thread's way into an arena.
///
/// `A` is how the thread holds the arena: `&Arena` or `Arc<Arena>`. What is left
/// in the magazine goes back when it is dropped.
#[derive(Debug)]
pub struct Magazine<M, S, A>
where
    M: SharedMem,
    S: AsRef<[PageState]>,
    A: Deref<Target = Arena<M, S>>,
{
    arena: A,
    stocks: [Stock; CLASSES],
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
            count: 0,
            limit,
            blocks: [0; ROOM],
        };
        Self {
            arena,
            stocks: LIMITS.map(stock),
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
            let at = match self.stocks.get_mut(class.index()).and_then(Stock::pop) {
                Some(at) => at,
                None => self.refill(class, len)?,
            };
            if let Some(span) = self.arena.hand_out(at, len, extent) {
                return Ok(span);
            }
            self.lost_one();
        }
        Err(self.arena.out_of_memory(len))
    }

    #[cold]
    fn alloc_run(&mut self, len: u64, extent: Extent) -> Result<PortalSpan, ArenaError> {
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
        if at.slot() == 0 {
            return self.arena.free(span);
        }
        let (state, word) = self.arena.owned(at, span)?;
        let class = state.class();
        if !self.arena.bury(state, at, word) {
            self.lost_one();
            return Ok(());
        }
        let Some(stock) = class.and_then(|class| self.stocks.get_mut(class.index())) else {
            return Ok(());
        };
        if !stock.push(at) {
            self.make_room(at);
        }
        Ok(())
    }

    /// Gives all blocks back to the arena.
    pub fn empty(&mut self) {
        let held = self.arena.lock.lock();
        for stock in &mut self.stocks {
            stock.give(&self.arena, 0, &held);
        }
    }

    /// Half fills a class and takes one block.
    #[cold]
    fn refill(&mut self, class: Class, len: u64) -> Result<Granule, ArenaError> {
        for retry in [true, false] {
            if let Some(stock) = self.stocks.get_mut(class.index()) {
                let wanted = usize::from(stock.limit / 2).max(1);
                let held = self.arena.lock.lock();
                let room = stock.blocks.get_mut(..wanted).unwrap_or_default();
                let count = self.arena.take_blocks(class, room, &held);
                drop(held);
                // The lowest address first.
                stock.blocks.get_mut(..count).unwrap_or_default().reverse();
                stock.count = count as u8;
                if let Some(at) = stock.pop() {
                    return Ok(at);
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
        stock.push(at);
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
    #[inline(always)]
    fn pop(&mut self) -> Option<Granule> {
        let top = self.count.checked_sub(1)?;
        let block = *self.blocks.get(usize::from(top))?;
        self.count = top;
        Some(Granule(block))
    }

    #[inline(always)]
    fn push(&mut self, at: Granule) -> bool {
        if self.count >= self.limit {
            return false;
        }
        let Some(place) = self.blocks.get_mut(usize::from(self.count)) else {
            return false;
        };
        *place = at.0;
        self.count += 1;
        true
    }

    /// Gives the oldest blocks back until `keep` are left.
    fn give<M: SharedMem, S: AsRef<[PageState]>>(
        &mut self,
        arena: &Arena<M, S>,
        keep: u8,
        held: &super::sync::Locked<'_>,
    ) {
        let given = self.count.saturating_sub(keep);
        for &block in self.blocks.get(..usize::from(given)).unwrap_or_default() {
            let at = Granule(block);
            if let Some((state, class)) = arena.state(at).and_then(|s| Some((s, s.class()?))) {
                arena.put_block(state, at, class, held);
            }
        }
        self.blocks
            .copy_within(usize::from(given)..usize::from(self.count), 0);
        self.count -= given;
    }
}
