//! The word that says of a block: which generation, lent to whom, how long.
//!
//! One u64 a block, in the owner's section, written by the owner with single
//! stores, so that a receiver's one load sees a state that was true at some
//! moment:
//!
//! | bits | field |
//! |---|---|
//! | 0..32 | generation: odd while the block is live, even while it is free |
//! | 32..44 | holder: 0 the owner, n+1 peer n, `0xFFF` the page is a slab page |
//! | 44..64 | extent: how many bytes may be named (of a slab page: its class) |
//!
//! An extent is a 15-bit count of units of 2^e bytes with a 5-bit e: exact below
//! 32 KiB, above that rounded up by less than 1/16384. The owner zeroes what the
//! rounding adds.
//!
//! Distrusted: every word read from another peer's section, and on a flat
//! backing those from one's own. Every bit pattern decodes.

use super::classes::Class;

/// The generation of a block that is not used again: one step short of the wrap.
/// A block counts up from 0; when it is freed into this generation it is
/// retired, because after the wrap an old span would resolve again.
pub(crate) const RETIRED: u32 = u32::MAX - 1;

/// The longest span in bytes: what the granule numbers of a return can name.
pub const MAX_SPAN: u64 = 1 << 38;

const SLAB: u64 = 0xFFF;
const EXTENT_BITS: u32 = 15;

/// How many bytes of a block may be named, as coded in its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent(u32);

impl Extent {
    pub(crate) const NONE: Self = Self(0);

    /// The smallest extent of at least `len` bytes (at most [`MAX_SPAN`]).
    #[inline(always)]
    pub(crate) fn covering(len: u64) -> Self {
        let len = if len > MAX_SPAN { MAX_SPAN } else { len };
        if len < 1 << EXTENT_BITS {
            return Self(len as u32);
        }
        let mut shift = len.ilog2() + 1 - EXTENT_BITS;
        let mut units = len.div_ceil(1 << shift);
        if units >> EXTENT_BITS != 0 {
            shift += 1;
            units = len.div_ceil(1 << shift);
        }
        Self((shift << EXTENT_BITS) | units as u32)
    }

    /// Its length in bytes: below 2^46 for every bit pattern.
    #[inline(always)]
    pub(crate) fn bytes(self) -> u64 {
        let units = u64::from(self.0) & ((1 << EXTENT_BITS) - 1);
        units << ((self.0 >> EXTENT_BITS) & 31)
    }
}

/// Who may name a block, as its word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Only the owner of the section.
    Owner,
    /// This peer (and the owner).
    Peer(u16),
}

/// A block's (or page's) word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) fn free(generation: u32) -> Self {
        Self(u64::from(generation))
    }

    #[inline(always)]
    pub(crate) fn live(generation: u32, holder: Holder, extent: Extent) -> Self {
        let holder = match holder {
            Holder::Owner => 0,
            Holder::Peer(peer) => u64::from(peer) + 1,
        };
        Self(u64::from(generation) | (holder << 32) | (u64::from(extent.0) << 44))
    }

    /// The word of a page that holds blocks of `class`.
    pub(crate) fn slab(generation: u32, class: Class) -> Self {
        Self(u64::from(generation) | (SLAB << 32) | ((class.index() as u64) << 44))
    }

    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(crate) fn is_slab(self) -> bool {
        (self.0 >> 32) & 0xFFF == SLAB
    }

    /// Whether the block is live; never so for a slab page.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self.0 & 1 == 1 && !self.is_slab()
    }

    /// The class of a slab page; `None` when the number means none.
    pub(crate) fn class(self) -> Option<Class> {
        Class::from_index(self.0 >> 44)
    }

    #[inline(always)]
    pub(crate) fn holder(self) -> Holder {
        match (self.0 >> 32) & 0xFFF {
            0 => Holder::Owner,
            n => Holder::Peer(n as u16 - 1),
        }
    }

    #[inline(always)]
    pub(crate) fn extent(self) -> Extent {
        Extent((self.0 >> 44) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_covers_its_length_and_little_more() {
        let edges = (0..=38).flat_map(|e| [(1u64 << e) - 1, 1 << e, (1 << e) + 1, (3 << e) / 2]);
        for len in edges.chain(0..70_000).filter(|&len| len <= MAX_SPAN) {
            let bytes = Extent::covering(len).bytes();
            assert!(bytes >= len);
            assert!(bytes - len <= len / 16384, "{len} became {bytes}");
        }
        assert_eq!(Extent::covering(u64::MAX).bytes(), MAX_SPAN);
    }

    #[test]
    fn a_word_keeps_its_fields() {
        for peer in [0, 1, 1023] {
            for generation in [1, 77, u32::MAX - 2] {
                let extent = Extent::covering(123_456_789);
                let word = Word::live(generation, Holder::Peer(peer), extent);
                assert_eq!(word.generation(), generation);
                assert_eq!(word.holder(), Holder::Peer(peer));
                assert_eq!(word.extent(), extent);
                assert!(word.is_live());
            }
        }
        assert!(!Word::free(2).is_live());
        let class = Class::for_len(100).expect("a class");
        assert!(Word::slab(7, class).is_slab());
        assert!(!Word::slab(7, class).is_live());
        assert_eq!(Word::slab(7, class).class(), Some(class));
    }
}
