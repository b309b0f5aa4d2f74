//! What the owner knows about each page of its arena: private memory, no claim.
//!
//! Which blocks are free, who holds which, how long a run is: the owner decides
//! by this table and never by what stands in the section, where on a flat
//! backing others could write. It can be rebuilt from the section (`recover`).
//!
//! The fields that a thread touches without the lock are `holders`: the entry of
//! a live block belongs to the thread that has its span. The rest is touched
//! under the arena's lock only.

use super::classes::Class;
use super::sync::AtomicU16;
use super::sync::AtomicU64;
use super::sync::Locked;
use super::sync::Ordering::Relaxed;

/// No page: the end of a list.
pub(crate) const NIL: u32 = u32::MAX;

/// The owner's record of one 4 KiB page: 152 bytes of private memory.
///
/// All zero is the record of a page that was never used. Give
/// [`super::Arena::format`] as many as the arena has pages (a `static` array
/// where there is no allocator); with fewer, the arena uses so many pages.
#[derive(Debug)]
pub struct PageState {
    /// Kind (0..8), class (8..16), pages of the run (32..64).
    head: AtomicU64,
    /// Links of the list that the page is on: previous (0..32), next (32..64).
    link: AtomicU64,
    /// Slab page: the free blocks, one bit at the slot where each starts.
    free: AtomicU64,
    /// Who holds the block that starts at a slot, as [`Claimant`] codes it.
    holders: [AtomicU16; 64],
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Inside a run, free or not (but neither its head nor a free one's tail).
    Body,
    /// First page of a free run of that many pages.
    FreeHead(u32),
    /// Last page of a free run of that many (two or more) pages.
    FreeTail(u32),
    /// First page of an allocated run of that many pages.
    Run(u32),
    /// A slab page of that class.
    Slab(Class),
    /// Not used again: its generations have run out.
    Retired,
}

/// Who holds a block, as the owner knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimant {
    /// No block starts there.
    NoBlock,
    /// Free, or in a magazine.
    Free,
    /// Allocated, not lent.
    Owner(Shape),
    /// Lent to that peer.
    Peer(u16),
    /// Not used again.
    Retired,
}

/// Codes from here on: held by the owner, with the class in the low bits.
const OWNER: u16 = 0x10;
/// The low bits for a run of pages.
const RUN: u16 = 0xF;
/// Codes from here on: lent, with the peer's number added.
const FIRST_PEER: u16 = 0x20;

/// What kind of block the owner holds: a class, or a run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(u16);

impl Shape {
    pub(crate) const RUN: Self = Self(RUN);

    #[inline(always)]
    pub(crate) fn of(class: Class) -> Self {
        Self(class.index() as u16)
    }

    /// The class; `None` for a run.
    #[inline(always)]
    pub(crate) fn class(self) -> Option<Class> {
        Class::from_index(self.0.into())
    }
}

impl Claimant {
    #[inline(always)]
    fn code(self) -> u16 {
        match self {
            Self::NoBlock => 0,
            Self::Free => 1,
            Self::Retired => 2,
            Self::Owner(shape) => OWNER | shape.0,
            Self::Peer(peer) => peer.saturating_add(FIRST_PEER),
        }
    }

    #[inline(always)]
    fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Free,
            2 => Self::Retired,
            n if n >= FIRST_PEER => Self::Peer(n - FIRST_PEER),
            n if n >= OWNER => Self::Owner(Shape(n - OWNER)),
            _ => Self::NoBlock,
        }
    }
}

impl PageState {
    /// The record of a page that was never used.
    #[cfg(not(feature = "loom"))]
    pub const fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            link: AtomicU64::new(0),
            free: AtomicU64::new(0),
            holders: [const { AtomicU16::new(0) }; 64],
        }
    }

    /// The record of a page that was never used.
    #[cfg(feature = "loom")]
    pub fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            link: AtomicU64::new(0),
            free: AtomicU64::new(0),
            holders: core::array::from_fn(|_| AtomicU16::new(0)),
        }
    }

    /// Makes this the record of a page that was never used. Reads before it
    /// writes, so that fresh zero pages of the system stay untouched.
    pub(crate) fn clear(&self) {
        for word in [&self.head, &self.link, &self.free] {
            if word.load(Relaxed) != 0 {
                word.store(0, Relaxed);
            }
        }
        for holder in &self.holders {
            if holder.load(Relaxed) != 0 {
                holder.store(0, Relaxed);
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        let head = self.head.load(Relaxed);
        let pages = (head >> 32) as u32;
        match head & 0xFF {
            1 => Kind::FreeHead(pages),
            2 => Kind::FreeTail(pages),
            3 => Kind::Run(pages),
            4 => match Class::from_index((head >> 8) & 0xFF) {
                Some(class) => Kind::Slab(class),
                None => Kind::Body,
            },
            5 => Kind::Retired,
            _ => Kind::Body,
        }
    }

    /// The class of a slab page.
    #[inline(always)]
    pub(crate) fn class(&self) -> Option<Class> {
        let head = self.head.load(Relaxed);
        if head & 0xFF != 4 {
            return None;
        }
        Class::from_index((head >> 8) & 0xFF)
    }

    /// Whether blocks can start here at all.
    pub(crate) fn may_lend(&self) -> bool {
        matches!(self.kind(), Kind::Run(_) | Kind::Slab(_))
    }

    pub(crate) fn set_kind(&self, kind: Kind, _held: &Locked<'_>) {
        let (code, class, pages) = match kind {
            Kind::Body => (0, 0, 0),
            Kind::FreeHead(pages) => (1, 0, pages),
            Kind::FreeTail(pages) => (2, 0, pages),
            Kind::Run(pages) => (3, 0, pages),
            Kind::Slab(class) => (4, class.index() as u64, 0),
            Kind::Retired => (5, 0, 0),
        };
        let head = code | (class << 8) | (u64::from(pages) << 32);
        self.head.store(head, Relaxed);
    }

    /// Previous and next page of the list that this page is on.
    pub(crate) fn links(&self, _held: &Locked<'_>) -> (u32, u32) {
        let link = self.link.load(Relaxed);
        (link as u32, (link >> 32) as u32)
    }

    pub(crate) fn set_links(&self, previous: u32, next: u32, _held: &Locked<'_>) {
        let link = u64::from(previous) | (u64::from(next) << 32);
        self.link.store(link, Relaxed);
    }

    pub(crate) fn free_blocks(&self, _held: &Locked<'_>) -> u64 {
        self.free.load(Relaxed)
    }

    pub(crate) fn set_free_blocks(&self, free: u64, _held: &Locked<'_>) {
        self.free.store(free, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn holder(&self, slot: u32) -> Claimant {
        match self.holders.get(slot as usize) {
            Some(holder) => Claimant::from_code(holder.load(Relaxed)),
            None => Claimant::NoBlock,
        }
    }

    #[inline(always)]
    pub(crate) fn is_held_by(&self, slot: u32, by: Claimant) -> bool {
        match self.holders.get(slot as usize) {
            Some(holder) => holder.load(Relaxed) == by.code(),
            None => false,
        }
    }

    /// What the owner holds there, when it is the owner who holds it.
    #[inline(always)]
    pub(crate) fn owned(&self, slot: u32) -> Option<Shape> {
        let code = self.holders.get(slot as usize)?.load(Relaxed);
        (OWNER..FIRST_PEER)
            .contains(&code)
            .then_some(Shape(code & 0xF))
    }

    #[inline(always)]
    pub(crate) fn set_holder(&self, slot: u32, to: Claimant) {
        if let Some(holder) = self.holders.get(slot as usize) {
            holder.store(to.code(), Relaxed);
        }
    }
}

impl Default for PageState {
    fn default() -> Self {
        Self::new()
    }
}
