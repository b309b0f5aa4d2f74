//! Looking into one's own arena: how full it is, what is live.

use super::Arena;
use super::classes::Granule;
use super::pages::Claimant;
use super::pages::PageState;
use super::sync::AtomicU64;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::span::PortalSpan;

/// How full an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Pages of 4096 bytes that the arena has.
    pub pages: u32,
    /// Pages in no slab, no run and no magazine.
    pub free_pages: u32,
    /// Slab pages.
    pub slab_pages: u32,
    /// Blocks in use or in a magazine.
    pub blocks_out: u64,
    /// Blocks and pages out of use because their generations have run out.
    pub retired: u64,
    /// Returns of what was not lent to the peer that returned it (or twice).
    pub returns_not_lent: u64,
    /// Returns of an older generation.
    pub returns_stale: u64,
    /// Returns of what is no block.
    pub returns_out_of_range: u64,
}

impl<M: SharedMem, S: AsRef<[PageState]>> Arena<M, S> {
    /// Occupancy counters. Cheap; the figures are those of slightly different
    /// moments when other threads are at work.
    pub fn occupancy(&self) -> Occupancy {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [not_lent, stale, out_of_range] = &self.counts.faults;
        Occupancy {
            pages: self.usable(),
            free_pages: self.runs.free_pages(),
            slab_pages: get(&self.counts.slab_pages) as u32,
            blocks_out: get(&self.counts.blocks_out),
            retired: get(&self.counts.retired),
            returns_not_lent: get(not_lent),
            returns_stale: get(stale),
            returns_out_of_range: get(out_of_range),
        }
    }

    /// Calls `each` for every live span (its length is what may be named of it)
    /// with the peer that holds it, if it is lent. Takes the lock.
    pub fn for_each_live(&self, mut each: impl FnMut(PortalSpan, Option<PeerId>)) {
        let _held = self.lock.lock();
        for page in 0..self.usable() {
            for at in (0..64).map(|slot| Granule::new(page, slot)) {
                let holder = match self.state(at).map(|state| state.holder(at.slot())) {
                    Some(Claimant::Owner(_)) => None,
                    Some(Claimant::Peer(peer)) => Some(PeerId(peer)),
                    _ => continue,
                };
                let word = self.window.load(at);
                each(
                    self.span(at, word.generation(), word.extent().bytes()),
                    holder,
                );
            }
        }
    }
}
