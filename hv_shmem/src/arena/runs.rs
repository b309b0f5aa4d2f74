//! Free runs of pages: lists by length, split on take, joined on give.
//!
//! A two-level index as in TLSF, over whole pages: lengths below 8 pages have a
//! list each, longer ones four lists a power of two. Taking and giving touch a
//! bounded number of pages whatever the arena's size; only when nothing else is
//! left is a whole list searched.
//!
//! Works on private records only; every page number here is this crate's own.

use super::pages::Kind;
use super::pages::NIL;
use super::pages::PageState;
use super::sync::AtomicU32;
use super::sync::AtomicU64;
use super::sync::Locked;
use super::sync::Ordering::Relaxed;

/// Lists: 8 exact ones and 4 for each power of two up to 2^26 pages.
const BINS: usize = 8 + 4 * 24;
/// How hard to look for a run in a list whose runs may be too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// At a few of them.
    Quick,
    /// At all of them: there is nothing else left.
    Full,
}

/// Entries that a quick search looks at.
const TRIES: u32 = 16;

/// The heads of the lists of free runs.
#[derive(Debug)]
pub(crate) struct Runs {
    heads: [AtomicU32; BINS],
    filled: [AtomicU64; 2],
    free_pages: AtomicU32,
}

/// The list on which a run of `len` pages is kept.
fn bin_of(len: u32) -> usize {
    if len < 8 {
        return len as usize;
    }
    let power = len.ilog2();
    8 + 4 * (power as usize - 3) + ((len >> (power - 2)) & 3) as usize
}

/// The first list all of whose runs have at least `len` pages.
fn bin_above(len: u32) -> usize {
    if len < 8 {
        return len as usize;
    }
    let step = 1u32 << (len.ilog2() - 2);
    bin_of(len.saturating_add(step - 1))
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self {
            heads: core::array::from_fn(|_| AtomicU32::new(NIL)),
            filled: core::array::from_fn(|_| AtomicU64::new(0)),
            free_pages: AtomicU32::new(0),
        }
    }

    /// Free pages, in all runs.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages.load(Relaxed)
    }

    /// Takes `len` pages: the number of the first, whose kind is now `Run`.
    pub(crate) fn take(
        &self,
        pages: &[PageState],
        len: u32,
        search: Search,
        held: &Locked<'_>,
    ) -> Option<u32> {
        let (first, found) = self.find(pages, len, search, held)?;
        self.unlink(pages, first, found, held);
        if found > len {
            self.link(pages, first + len, found - len, held);
        }
        pages.get(first as usize)?.set_kind(Kind::Run(len), held);
        Some(first)
    }

    /// Gives pages back; joins them with free neighbours.
    pub(crate) fn give(&self, pages: &[PageState], first: u32, len: u32, held: &Locked<'_>) {
        let (mut first, mut len) = (first, len);
        if let Some(page) = pages.get(first as usize) {
            page.set_kind(Kind::Body, held);
        }
        let before = first.checked_sub(1).and_then(|p| pages.get(p as usize));
        let joined = match before.map(PageState::kind) {
            Some(Kind::FreeTail(n)) => n,
            Some(Kind::FreeHead(1)) => 1,
            _ => 0,
        };
        if joined > 0 {
            first -= joined;
            len += joined;
            self.unlink(pages, first, joined, held);
        }
        let after = first + len;
        if let Some(Kind::FreeHead(n)) = pages.get(after as usize).map(PageState::kind) {
            self.unlink(pages, after, n, held);
            len += n;
        }
        self.link(pages, first, len, held);
    }

    fn find(
        &self,
        pages: &[PageState],
        len: u32,
        search: Search,
        held: &Locked<'_>,
    ) -> Option<(u32, u32)> {
        let run = |first: u32| match pages.get(first as usize)?.kind() {
            Kind::FreeHead(n) if n >= len => Some((first, n)),
            _ => None,
        };
        let sure = self.first_filled(bin_above(len));
        if let Some(head) = sure.and_then(|bin| self.heads.get(bin)) {
            return run(head.load(Relaxed));
        }
        // Shorter and longer runs share the list of `len` itself.
        let mut at = self.heads.get(bin_of(len))?.load(Relaxed);
        let tries = match search {
            Search::Quick => TRIES,
            // No list is longer than there are pages.
            Search::Full => pages.len() as u32,
        };
        for _ in 0..tries {
            if let Some(found) = run(at) {
                return Some(found);
            }
            at = pages.get(at as usize)?.links(held).1;
        }
        None
    }

    fn first_filled(&self, from: usize) -> Option<usize> {
        let word = |i: usize| self.filled.get(i).map_or(0, |w| w.load(Relaxed));
        let low = if from < 64 {
            word(0) >> from << from
        } else {
            0
        };
        if low != 0 {
            return Some(low.trailing_zeros() as usize);
        }
        let skip = from.saturating_sub(64);
        let high = if skip < 64 {
            word(1) >> skip << skip
        } else {
            0
        };
        (high != 0).then(|| 64 + high.trailing_zeros() as usize)
    }

    fn link(&self, pages: &[PageState], first: u32, len: u32, held: &Locked<'_>) {
        let bin = bin_of(len);
        let tail = pages.get((first + len - 1) as usize);
        let (Some(page), Some(tail), Some(head)) =
            (pages.get(first as usize), tail, self.heads.get(bin))
        else {
            return;
        };
        let next = head.load(Relaxed);
        tail.set_kind(Kind::FreeTail(len), held);
        page.set_kind(Kind::FreeHead(len), held);
        page.set_links(NIL, next, held);
        if let Some(next) = pages.get(next as usize) {
            next.set_links(first, next.links(held).1, held);
        }
        head.store(first, Relaxed);
        self.mark(bin, true);
        self.free_pages.store(self.free_pages() + len, Relaxed);
    }

    fn unlink(&self, pages: &[PageState], first: u32, len: u32, held: &Locked<'_>) {
        let bin = bin_of(len);
        let tail = pages.get((first + len - 1) as usize);
        let (Some(page), Some(tail), Some(head)) =
            (pages.get(first as usize), tail, self.heads.get(bin))
        else {
            return;
        };
        let (previous, next) = page.links(held);
        match pages.get(previous as usize) {
            Some(previous) => previous.set_links(previous.links(held).0, next, held),
            None => {
                head.store(next, Relaxed);
                self.mark(bin, next != NIL);
            }
        }
        if let Some(next) = pages.get(next as usize) {
            next.set_links(previous, next.links(held).1, held);
        }
        page.set_kind(Kind::Body, held);
        tail.set_kind(Kind::Body, held);
        self.free_pages.store(self.free_pages() - len, Relaxed);
    }

    fn mark(&self, bin: usize, filled: bool) {
        if let Some(word) = self.filled.get(bin / 64) {
            let bit = 1u64 << (bin % 64);
            let old = word.load(Relaxed);
            word.store(if filled { old | bit } else { old & !bit }, Relaxed);
        }
    }
}
