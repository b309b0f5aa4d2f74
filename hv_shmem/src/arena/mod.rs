//! The arena: a peer's allocator over its own output section.
//!
//! Source: `DESIGN.md`, "The memory", arena and span. One peer allocates, and it
//! is the only writer of every byte here; the others read through
//! [`ArenaView::resolve`]. A block's life:
//!
//! ```text
//!        alloc                  grant(peer)               ReturnSender::give_back
//! free ────────> owner's ──────────────────> lent to peer ───────────────┐
//!  ^               │ free                         │ revoke, reclaim      │ take_returns
//!  └───────────────┴──────────────────────────────┴──────────────────────┘
//!          each way back moves the block's generation: old spans are stale
//! ```
//!
//! * **Sizes**: up to 1792 bytes from slab pages in ten classes, longer ones as
//!   runs of 4 KiB pages.
//! * **Threads**: an [`Arena`] may be shared by the threads of its peer. Each
//!   takes a [`Magazine`], which allocates and frees short spans without a lock
//!   or a locked instruction.
//! * **Generations**: a word a block (module `word`). It only grows; a block whose
//!   generation would wrap is retired until the next epoch.
//! * **Residue**: [`Arena::alloc`] hands out zeros. For data that is written in
//!   full anyway, [`Arena::alloc_unfilled`] and [`Arena::fill`] zero nothing but
//!   name nothing that was not filled either.
//! * **Death**: [`Arena::reclaim`] takes back what a dead receiver held. A dead
//!   owner's spans are stale by epoch at once, whatever its section says.
//!
//! ```
//! # #[cfg(all(feature = "std", not(feature = "loom")))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hv_shmem::arena::{Arena, ArenaPlace, ArenaView, Magazine, ReturnClaim};
//! use hv_shmem::layout::PeerId;
//! use hv_shmem::mem::HeapMem;
//! use hv_shmem::span::Access;
//!
//! let (owner, friend) = (PeerId(0), PeerId(1));
//! // In a region, `OwnSection::arena` and `PortalRegion::arena_view` do this.
//! let mem = HeapMem::new(1 << 20);
//! let place = ArenaPlace { mem, offset: 0, region: 7, owner, epoch: 1 };
//! let view = ArenaView::new(place.clone())?;
//! let arena = Arena::format_boxed(place)?;
//!
//! let mut magazine = Magazine::new(&arena);
//! let draft = magazine.alloc_unfilled(4096)?;
//! arena.view(&draft)?.write(0, b"hello")?;
//! let span = arena.fill(&draft, 5)?;
//! arena.grant(&span, friend)?;
//!
//! // At the other peer, from the bytes of a ring slot:
//! let seen = view.resolve(&span, friend, Access::Read)?;
//! let mut hello = [0; 5];
//! seen.read(0, &mut hello)?;
//! assert_eq!(&hello, b"hello");
//! let claim = ReturnClaim::new(&span).ok_or("no block")?;
//!
//! // And home again; the old name is stale.
//! assert_eq!(arena.take_claims(friend, &[claim]).spans, 1);
//! assert!(view.resolve(&span, friend, Access::Read).is_err());
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "std", not(feature = "loom"))))]
//! # fn main() {}
//! ```
//!
//! Distrusted: everything that a receiver returns, and (on flat backings, where
//! others could write it) every word in the section itself: the owner decides by
//! its private [`PageState`]s, and uses words from the section for comparison
//! only. Left out: two threads of one peer that free the same span at the same
//! moment; the arena refuses the second free when it can tell, and stays inside
//! its section when it cannot.

mod check;
mod classes;
#[cfg(feature = "std")]
mod fresh;
mod inspect;
mod layout;
mod lending;
mod magazine;
mod owner;
mod pages;
mod recent;
mod recover;
mod returns;
mod runs;
mod slabs;
mod sync;
mod view;
mod walk;
mod window;
mod word;

pub use check::ArenaCensus;
pub use check::check;
pub use inspect::Occupancy;
pub use layout::MIN_ARENA;
pub use lending::ReturnFault;
pub use lending::Returned;
pub use magazine::Magazine;
pub use owner::Arena;
pub use pages::PageState;
pub use recover::Recovered;
pub use returns::RETURN_RING;
pub use returns::RETURN_SLOT;
pub use returns::ReturnClaim;
pub use returns::ReturnError;
pub use returns::ReturnReceiver;
pub use returns::ReturnSender;
pub use view::ArenaView;
pub use walk::ArenaFault;
pub use word::MAX_SPAN;

use crate::layout::PeerId;
use crate::mem::OutOfBounds;
use crate::span::SpanError;

/// An arena's memory and name: what the region knows and the arena does not.
#[derive(Debug, Clone)]
pub struct ArenaPlace<M> {
    /// The arena's window, 4 KiB aligned.
    pub mem: M,
    /// Offset of the window from the start of its section, bytes; a multiple of
    /// 4096.
    pub offset: u64,
    /// Low 32 bits of the region's UUID.
    pub region: u32,
    /// The owner.
    pub owner: PeerId,
    /// The owner's epoch.
    pub epoch: u32,
}

/// An arena whose private records are on the heap.
#[cfg(feature = "std")]
pub type BoxedArena<M> = Arena<M, alloc::boxed::Box<[PageState]>>;

/// Why the owner did not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The window is too short for an arena, or no page states were given.
    #[error("an arena of {len} bytes; {limit} are the least")]
    TooSmall {
        /// Length given, in bytes.
        len: u64,
        /// The least, in bytes.
        limit: u64,
    },
    /// The window does not start at a page of its section, or too far inside.
    #[error("an arena at offset {offset:#x}; it starts at a multiple of 4096 below 2^38")]
    Misplaced {
        /// Offset given, in bytes.
        offset: u64,
    },
    /// The window holds no arena of this version (nothing to recover).
    #[error("no arena here: {found:#x} where {expected:#x} was expected")]
    NotAnArena {
        /// The value found in the header.
        found: u64,
        /// The value expected there.
        expected: u64,
    },
    /// The section's arena is in use already.
    #[error("this section's arena is in use already")]
    Taken,
    /// More bytes than the arena could ever give.
    #[error("a span of {len} bytes; {limit} are the most in this arena")]
    TooLong {
        /// Length asked for, in bytes.
        len: u64,
        /// The most, in bytes.
        limit: u64,
    },
    /// Not enough free bytes, or none that lie together.
    #[error("no room for {len} bytes ({free_pages} pages are free)")]
    OutOfMemory {
        /// Length asked for, in bytes.
        len: u64,
        /// Free pages of 4096 bytes.
        free_pages: u32,
    },
    /// The span is not one of this arena's, or no longer.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// The span is lent: it comes back by return, revoke or reclaim.
    #[error("the span is lent to peer {}", peer.0)]
    Lent {
        /// Who holds it.
        peer: PeerId,
    },
    /// The span is not lent to anyone.
    #[error("the span is not lent")]
    NotLent,
    /// More bytes are named than were filled.
    #[error("a span of {length} bytes of which {filled} are filled")]
    NotFilled {
        /// Length in the span, in bytes.
        length: u64,
        /// Bytes that may be named.
        filled: u64,
    },
    /// No peer can have that number.
    #[error("peer {} is beyond the {limit} that a region can have", peer.0)]
    NoSuchPeer {
        /// The peer given.
        peer: PeerId,
        /// Number of peers at most.
        limit: u16,
    },
}

impl From<OutOfBounds> for ArenaError {
    fn from(e: OutOfBounds) -> Self {
        Self::Span(SpanError::Memory(e))
    }
}
