//! The owner's way to its own words and bytes, by granule number.
//!
//! The layout was computed from the memory's length, so a granule number below
//! the number of granules names a word and 64 bytes inside the memory. That one
//! comparison is the only check an access costs.
#![expect(
    unsafe_code,
    reason = "turns one comparison of a granule number into unchecked accesses"
)]

use super::classes::GRANULE;
use super::classes::Granule;
use super::classes::PAGE;
use super::layout::ArenaLayout;
use super::word::Word;
use crate::mem::Ordering;
use crate::mem::SharedMem;

/// An arena's memory with the layout that was computed for it.
#[derive(Debug, Clone)]
pub(super) struct Window<M> {
    mem: M,
    layout: ArenaLayout,
    /// Granules in the pages that are used: what every access is checked against.
    granules: u64,
}

impl<M: SharedMem> Window<M> {
    /// The first `pages` pages (at most as many as there are) of an arena laid
    /// out as `layout`, which must be the one for this memory.
    pub(super) fn new(mem: M, layout: ArenaLayout, pages: u32) -> Self {
        let fits = ArenaLayout::new(mem.len()) == Ok(layout) && layout.end() <= mem.len();
        let pages = if fits { pages.min(layout.pages()) } else { 0 };
        Self {
            mem,
            layout,
            granules: u64::from(pages) * (PAGE / GRANULE),
        }
    }

    pub(super) fn mem(&self) -> &M {
        &self.mem
    }

    pub(super) fn layout(&self) -> &ArenaLayout {
        &self.layout
    }

    /// Granules in the pages that are used.
    #[inline(always)]
    pub(super) fn granules(&self) -> u64 {
        self.granules
    }

    #[inline(always)]
    fn has(&self, at: Granule) -> bool {
        u64::from(at.0) < self.granules
    }

    /// The word of the block (or run) that starts there; of none, 0.
    #[inline(always)]
    pub(super) fn load(&self, at: Granule) -> Word {
        if !self.has(at) {
            return Word(0);
        }
        let word_at = self.layout.word(at);
        // SAFETY: `word_at` is a multiple of 8, and its word lies inside: in the
        // page table for slot 0, in the first 512 bytes of the granule's page
        // otherwise; both are inside `layout.end()`, which `new` compared with
        // the memory's length.
        Word(unsafe { self.mem.load_u64_unchecked(word_at, Ordering::Relaxed) })
    }

    /// Writes the word of the block (or run) that starts there.
    #[inline(always)]
    pub(super) fn store(&self, at: Granule, word: Word, order: Ordering) {
        if self.has(at) {
            let word_at = self.layout.word(at);
            // SAFETY: as in `load`.
            unsafe { self.mem.store_u64_unchecked(word_at, word.0, order) }
        }
    }

    /// Zeroes `len` bytes from a granule on; stops at the last page in use.
    #[inline(always)]
    pub(super) fn zero(&self, at: Granule, len: u64) {
        if len == GRANULE && self.has(at) {
            let bytes_at = self.layout.bytes(at);
            // SAFETY: the granule lies inside the memory, as in `load`, and
            // starts at a multiple of 64.
            unsafe { self.mem.write_unchecked(bytes_at, &[0; GRANULE as usize]) }
        } else if len != 0 && self.has(at) {
            let left = (self.granules - u64::from(at.0)) * GRANULE;
            self.mem.zero(self.layout.bytes(at), len.min(left));
        }
    }
}
