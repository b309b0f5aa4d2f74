//! Size classes of the blocks in a slab page, and the granule that numbers them.
//!
//! A slab page is 4 KiB: 512 bytes of block words (one u64 for each of the
//! page's 64 granules) and 56 granules of 64 bytes, cut into blocks of one
//! class. Every class is a whole number of granules, so every block is
//! cache-line aligned. What is longer than the longest class gets pages.

/// Bytes of a granule: the unit in which blocks start.
pub(crate) const GRANULE: u64 = 64;
/// Bytes of a page of the arena.
pub(crate) const PAGE: u64 = 4096;
/// Granules of a page.
pub(crate) const SLOTS: u32 = 64;
/// Granules at the start of a slab page that hold its block words.
pub(crate) const FIRST_SLOT: u32 = 8;

/// Granules of a block, by class.
const GRANULES: [u32; CLASSES] = [1, 2, 3, 4, 6, 8, 11, 14, 18, 28];
/// Number of classes.
pub(crate) const CLASSES: usize = 10;
/// The longest length in bytes that a class serves.
pub(crate) const LONGEST: u64 = 28 * GRANULE;

/// A size class: an index that is known to be in range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class(u8);

/// Class for a length of 0, 1, .. 28 granules.
const BY_GRANULES: [u8; 29] = {
    let mut table = [0; 29];
    let (mut granules, mut class) = (1, 0);
    while granules < 29 {
        if granules > GRANULES[class] as usize {
            class += 1;
        }
        table[granules] = class as u8;
        granules += 1;
    }
    table
};

/// The granules at which blocks start, one bit each, by class.
const STARTS: [u64; CLASSES] = {
    let mut table = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let mut slot = FIRST_SLOT;
        while slot + GRANULES[class] <= SLOTS {
            table[class] |= 1 << slot;
            slot += GRANULES[class];
        }
        class += 1;
    }
    table
};

impl Class {
    /// The class that serves `len` bytes; `None` when only pages do.
    #[inline(always)]
    pub(crate) fn for_len(len: u64) -> Option<Self> {
        if len > LONGEST {
            return None;
        }
        let granules = len.div_ceil(GRANULE) as usize;
        BY_GRANULES.get(granules).map(|&class| Self(class))
    }

    /// A class by its number, when there is one.
    pub(crate) fn from_index(index: u64) -> Option<Self> {
        (index < CLASSES as u64).then_some(Self(index as u8))
    }

    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(GRANULES.get(self.index()).copied().unwrap_or(1)) * GRANULE
    }

    /// The granules of a page at which blocks start, one bit each.
    pub(crate) fn starts(self) -> u64 {
        STARTS.get(self.index()).copied().unwrap_or(0)
    }
}

/// The number of a granule in the arena's data pages: `page * 64 + slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granule(pub(crate) u32);

impl Granule {
    pub(crate) fn new(page: u32, slot: u32) -> Self {
        Self((page << 6) | (slot & 63))
    }

    #[inline(always)]
    pub(crate) fn page(self) -> u32 {
        self.0 >> 6
    }

    /// 0 for a run of pages, 8..64 for a block.
    #[inline(always)]
    pub(crate) fn slot(self) -> u32 {
        self.0 & 63
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_gets_the_smallest_class_that_holds_it() {
        for len in 0..=LONGEST {
            let class = Class::for_len(len).expect("short enough");
            assert!(class.bytes() >= len);
            if class.index() > 0 {
                let smaller = Class::from_index(class.index() as u64 - 1).expect("in range");
                assert!(smaller.bytes() < len, "{len} fits in {}", smaller.bytes());
            }
        }
        assert_eq!(Class::for_len(LONGEST + 1), None);
        assert_eq!(Class::from_index(CLASSES as u64), None);
    }

    #[test]
    fn blocks_of_a_page_neither_overlap_nor_leave_it() {
        for index in 0..CLASSES as u64 {
            let class = Class::from_index(index).expect("in range");
            let mut end = u64::from(FIRST_SLOT) * GRANULE;
            for slot in (0..64).filter(|slot| class.starts() >> slot & 1 == 1) {
                assert!(slot * GRANULE >= end);
                end = slot * GRANULE + class.bytes();
            }
            assert!(end <= PAGE && end > PAGE / 2);
        }
    }
}
