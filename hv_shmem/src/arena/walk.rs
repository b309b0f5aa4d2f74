//! A walk over everything that an arena's words say, for `check` and `recover`.
//!
//! The section may be hostile, torn by a crash, or half written: each word is
//! loaded once, compared with what can be true, and reported as it is or as a
//! fault. The walk takes one step a page and one a block, whatever it finds.

use super::classes::Class;
use super::classes::FIRST_SLOT;
use super::classes::Granule;
use super::classes::PAGE;
use super::classes::SLOTS;
use super::layout::ArenaLayout;
use super::word::Extent;
use super::word::Holder;
use super::word::RETIRED;
use super::word::Word;
use crate::layout::MAX_PEERS;
use crate::layout::PeerId;
use crate::mem::Ordering::Relaxed;
use crate::mem::SharedMem;

/// What is wrong with an arena's words. Offsets count from the arena's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaFault {
    /// A header field is not what it has to be.
    #[error("header at {at:#x}: {found:#x}, expected {expected:#x}")]
    Header {
        /// Offset of the field.
        at: u64,
        /// Its value.
        found: u64,
        /// What it has to be.
        expected: u64,
    },
    /// A slab page of a class that does not exist.
    #[error("page {page}: slab page of unknown class {class}")]
    UnknownClass {
        /// Number of the page.
        page: u32,
        /// The class number found.
        class: u64,
    },
    /// A run goes past the last page.
    #[error("page {page}: a run of {pages} pages, {limit} are left")]
    RunTooLong {
        /// Number of its first page.
        page: u32,
        /// Its length in pages.
        pages: u64,
        /// Pages from there to the end.
        limit: u32,
    },
    /// A page inside a run is also said to be a run or a slab page.
    #[error("page {page}: in use, but inside the run at page {run}")]
    Overlap {
        /// Number of the page.
        page: u32,
        /// First page of the run.
        run: u32,
    },
    /// A word where no block starts is not 0.
    #[error("page {page}: word {word:#x} at granule {slot}, where no block starts")]
    Stray {
        /// Number of the page.
        page: u32,
        /// Granule in the page.
        slot: u32,
        /// The word found.
        word: u64,
    },
    /// More bytes can be named than the block has.
    #[error("page {page}, granule {slot}: extent {extent} of a block of {limit} bytes")]
    Extent {
        /// Number of the page.
        page: u32,
        /// Granule in the page.
        slot: u32,
        /// Bytes that can be named.
        extent: u64,
        /// Bytes of the block.
        limit: u64,
    },
    /// A block is lent to a peer that no region can have.
    #[error("page {page}, granule {slot}: lent to peer {}", peer.0)]
    UnknownPeer {
        /// Number of the page.
        page: u32,
        /// Granule in the page.
        slot: u32,
        /// The peer found.
        peer: PeerId,
    },
    /// A free block's word has more than a generation.
    #[error("page {page}, granule {slot}: word {word:#x} of a free block")]
    FreeWord {
        /// Number of the page.
        page: u32,
        /// Granule in the page.
        slot: u32,
        /// The word found.
        word: u64,
    },
    /// A block is in an older generation than its page (an old span could
    /// resolve again), or in one that no block or slab page can be in.
    #[error("page {page}, granule {slot}: generation {found}, the limit is {floor}")]
    Generation {
        /// Number of the page.
        page: u32,
        /// Granule in the page.
        slot: u32,
        /// The generation found.
        found: u32,
        /// The page's generation, or the last one of all.
        floor: u32,
    },
}

/// One thing on the walk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    /// A page in no slab and no run.
    Free { page: u32, word: Word },
    /// A slab page; its blocks follow.
    Slab { page: u32, class: Class },
    /// A block of the slab page.
    Block { at: Granule, word: Word },
    /// A live run.
    Run { page: u32, pages: u32, word: Word },
    /// A word that cannot be meant: what it was, where it lies, and what stands
    /// there when the arena is repaired. The walk goes on as if it did already.
    Fault {
        fault: ArenaFault,
        at: u64,
        repaired: Word,
    },
}

/// Walks the first `pages` pages.
pub(super) fn walk<M: SharedMem>(
    mem: &M,
    layout: &ArenaLayout,
    pages: u32,
    see: &mut impl FnMut(Seen),
) {
    // The live run that covers pages up to (not including) `covered`.
    let (mut run, mut covered) = (0, 0);
    for page in 0..pages.min(layout.pages()) {
        let at = layout.page_word(page);
        let mut word = Word(mem.load_u64(at, Relaxed));
        let fault = if page < covered {
            let in_use = word.is_live() || word.is_slab();
            in_use.then_some((ArenaFault::Overlap { page, run }, ended(word)))
        } else {
            page_fault(word, page, pages)
        };
        if let Some((fault, repaired)) = fault {
            word = repaired;
            see(Seen::Fault {
                fault,
                at,
                repaired,
            });
        }
        if page < covered {
            continue;
        }
        match word.class() {
            Some(class) if word.is_slab() => {
                see(Seen::Slab { page, class });
                walk_slab(mem, layout, page, class, word.generation(), see);
            }
            _ if word.is_live() => {
                let length = run_pages(word.extent()) as u32;
                see(Seen::Run {
                    page,
                    pages: length,
                    word,
                });
                (run, covered) = (page, page + length);
            }
            _ => see(Seen::Free { page, word }),
        }
    }
}

/// Pages of a run whose word has that extent.
fn run_pages(extent: Extent) -> u64 {
    extent.bytes().div_ceil(PAGE).max(1)
}

/// The word of what a live word named, freed. Retired when nothing is known of
/// the generations inside.
fn ended(word: Word) -> Word {
    if word.is_slab() {
        return Word::free(RETIRED);
    }
    let generation = word.generation();
    Word::free(generation.saturating_add(generation & 1).min(RETIRED))
}

fn page_fault(word: Word, page: u32, pages: u32) -> Option<(ArenaFault, Word)> {
    if word.is_slab() {
        let class = word.0 >> 44;
        return match word.class() {
            None => Some((ArenaFault::UnknownClass { page, class }, ended(word))),
            Some(_) => {
                let found = word.generation();
                let fault = ArenaFault::Generation {
                    page,
                    slot: 0,
                    found,
                    floor: RETIRED,
                };
                (found & 1 == 1 || found >= RETIRED).then(|| (fault, ended(word)))
            }
        };
    }
    let block = block_fault(word, page, 0, u64::MAX, 0);
    if block.is_some() || !word.is_live() {
        return block;
    }
    let (length, limit) = (run_pages(word.extent()), pages - page);
    (length > u64::from(limit)).then(|| {
        let pages = length;
        (ArenaFault::RunTooLong { page, pages, limit }, ended(word))
    })
}

fn block_fault(
    word: Word,
    page: u32,
    slot: u32,
    limit: u64,
    floor: u32,
) -> Option<(ArenaFault, Word)> {
    let found = word.generation();
    if found < floor || word.is_slab() {
        let fault = ArenaFault::Generation {
            page,
            slot,
            found,
            floor,
        };
        // How far the block had come is not known.
        return Some((fault, Word::free(RETIRED)));
    }
    if !word.is_live() {
        let word = word.0;
        let fault = ArenaFault::FreeWord { page, slot, word };
        return (word >> 32 != 0).then(|| (fault, Word::free(found.min(RETIRED))));
    }
    if found >= RETIRED {
        let floor = RETIRED;
        let fault = ArenaFault::Generation {
            page,
            slot,
            found,
            floor,
        };
        return Some((fault, Word::free(RETIRED)));
    }
    let extent = word.extent().bytes();
    if extent > limit {
        let fault = ArenaFault::Extent {
            page,
            slot,
            extent,
            limit,
        };
        return Some((fault, ended(word)));
    }
    match word.holder() {
        Holder::Peer(peer) if peer >= MAX_PEERS => {
            let peer = PeerId(peer);
            let fault = ArenaFault::UnknownPeer { page, slot, peer };
            Some((fault, ended(word)))
        }
        _ => None,
    }
}

fn walk_slab<M: SharedMem>(
    mem: &M,
    layout: &ArenaLayout,
    page: u32,
    class: Class,
    floor: u32,
    see: &mut impl FnMut(Seen),
) {
    // Granules 0..8 are the words themselves; their own words stay 0.
    for slot in 0..SLOTS {
        let at = layout.bytes(Granule::new(page, 0)) + u64::from(slot) * 8;
        let mut word = Word(mem.load_u64(at, Relaxed));
        let starts = slot >= FIRST_SLOT && class.starts() >> slot & 1 == 1;
        let fault = if starts {
            block_fault(word, page, slot, class.bytes(), floor)
        } else {
            let word = word.0;
            let fault = ArenaFault::Stray { page, slot, word };
            (word != 0).then_some((fault, Word(0)))
        };
        if let Some((fault, repaired)) = fault {
            word = repaired;
            see(Seen::Fault {
                fault,
                at,
                repaired,
            });
        }
        if starts {
            see(Seen::Block {
                at: Granule::new(page, slot),
                word,
            });
        }
    }
}
