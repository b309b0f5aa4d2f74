//! Where the parts of an arena lie in its window of the owner's section.
//!
//! | offset | width | field | writer |
//! |---|---|---|---|
//! | 0 | 8 | magic, `PRTLARNA` | owner |
//! | 8 | 4 | version, 1 | owner |
//! | 12 | 4 | data pages | owner |
//! | 16 | 8 | epoch in which it was formatted | owner |
//! | 24 | 40 | reserved, 0 | owner |
//! | 64 | 8 a page | page words ([`super::word`]) | owner |
//! | next 4 KiB boundary | 4096 a page | data pages | owner |
//!
//! A slab page starts with 512 bytes of block words: the word of the block that
//! starts at granule n (64 bytes each) of the page lies at byte 8·n; granules
//! 0..8 are these words themselves. A run of pages has its word in the page
//! table, at its first page.
//!
//! Everything follows from the window's length, so that a reader needs no number
//! from the owner but the window itself (which `region` has checked).

use super::ArenaError;
use super::classes::GRANULE;
use super::classes::Granule;
use super::classes::PAGE;
use super::word::MAX_SPAN;

/// The first 8 bytes of an arena, little-endian.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"PRTLARNA");
/// The version of the format above.
pub(crate) const VERSION: u32 = 1;
pub(crate) const VERSION_AT: u64 = 8;
pub(crate) const EPOCH_AT: u64 = 16;
const TABLE_AT: u64 = 64;

/// The shortest arena in bytes: its tables and one data page.
pub const MIN_ARENA: u64 = 2 * PAGE;

/// Positions in an arena's window, computed from its length alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArenaLayout {
    pages: u32,
    data_at: u64,
}

impl ArenaLayout {
    /// The layout of a window of `len` bytes.
    pub(crate) fn new(len: u64) -> Result<Self, ArenaError> {
        if len < MIN_ARENA {
            return Err(ArenaError::TooSmall {
                len,
                limit: MIN_ARENA,
            });
        }
        // A span's granule number in its section is 32 bits wide.
        let len = len.min(MAX_SPAN - PAGE);
        let mut pages = (len - TABLE_AT) / (PAGE + 8);
        let mut data_at = Self::data_after(pages);
        // The rounding of the table to a page costs at most one page.
        if data_at + pages * PAGE > len {
            pages -= 1;
            data_at = Self::data_after(pages);
        }
        Ok(Self {
            pages: pages as u32,
            data_at,
        })
    }

    fn data_after(pages: u64) -> u64 {
        (TABLE_AT + pages * 8).next_multiple_of(PAGE)
    }

    /// Data pages.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Offset of the first data page from the start of the window.
    pub(crate) fn data_at(&self) -> u64 {
        self.data_at
    }

    /// Offset of the byte after the last data page.
    pub(crate) fn end(&self) -> u64 {
        self.data_at + u64::from(self.pages) * PAGE
    }

    /// Offset of a page's word.
    #[inline(always)]
    pub(crate) fn page_word(&self, page: u32) -> u64 {
        TABLE_AT + u64::from(page) * 8
    }

    /// Offset of the word of the block (or run, at slot 0) that starts there.
    #[inline(always)]
    pub(crate) fn word(&self, at: Granule) -> u64 {
        // Granule numbers are 32 bits and `data_at` is below 2^30: no sum here
        // comes near the end of a u64.
        let page = u64::from(at.page());
        let slot = u64::from(at.slot());
        if slot == 0 {
            TABLE_AT.wrapping_add(page * 8)
        } else {
            self.data_at.wrapping_add((page * PAGE) | (slot * 8))
        }
    }

    /// Offset of the first byte of a granule.
    #[inline(always)]
    pub(crate) fn bytes(&self, at: Granule) -> u64 {
        self.data_at.wrapping_add(u64::from(at.0) * GRANULE)
    }

    /// The granule whose first byte is at that offset; `None` when none is.
    #[inline(always)]
    pub(crate) fn granule(&self, offset: u64) -> Option<Granule> {
        let from_data = offset.checked_sub(self.data_at)?;
        if from_data % GRANULE != 0 || from_data / PAGE >= u64::from(self.pages) {
            return None;
        }
        Some(Granule((from_data / GRANULE) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_pages_fill_the_window_and_do_not_overlap() {
        for pages in (2..3000).chain([1 << 20, 1 << 26, 1 << 28]) {
            let len = pages * PAGE;
            let layout = ArenaLayout::new(len).expect("long enough");
            let table_end = layout.page_word(layout.pages());
            assert!(table_end <= layout.data_at());
            assert!(layout.end() <= len);
            assert!(len > MAX_SPAN - PAGE || len - layout.end() <= PAGE);
            let last = Granule::new(layout.pages() - 1, 63);
            assert_eq!(layout.granule(layout.bytes(last)), Some(last));
            assert_eq!(layout.granule(layout.bytes(last) + GRANULE), None);
            assert_eq!(layout.granule(layout.data_at() - GRANULE), None);
            assert_eq!(layout.granule(layout.data_at() + 1), None);
        }
        assert!(ArenaLayout::new(MIN_ARENA - 1).is_err());
    }
}
