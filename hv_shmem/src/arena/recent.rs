//! Runs that a thread freed a moment ago, kept whole in its magazine.
//!
//! Most runs are asked for again in the same length. Joining a freed run with
//! its neighbours and splitting it off again costs more than everything else
//! that handing over a long span does, and the lock that this takes makes the
//! core wait until its last stores have reached the other cores' caches.

use super::classes::Granule;

/// Runs kept.
const KEPT: usize = 4;

/// A free run of pages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FreeRun {
    pub(super) first: u32,
    pub(super) pages: u32,
    pub(super) generation: u32,
}

impl FreeRun {
    pub(super) fn at(self) -> Granule {
        Granule::new(self.first, 0)
    }
}

/// The runs that a magazine keeps: no more than [`KEPT`], and no more pages than
/// its limit, so that what one thread keeps does not starve the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    /// A run of 0 pages is none.
    runs: [FreeRun; KEPT],
    pages: u32,
    limit: u32,
}

impl Recent {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            runs: [FreeRun::default(); KEPT],
            pages: 0,
            limit,
        }
    }

    /// Takes a run of exactly `pages` pages.
    #[inline]
    pub(super) fn take(&mut self, pages: u32) -> Option<FreeRun> {
        let run = self.runs.iter_mut().find(|run| run.pages == pages)?;
        self.pages -= run.pages;
        Some(core::mem::take(run))
    }

    /// Takes any run.
    pub(super) fn take_any(&mut self) -> Option<FreeRun> {
        let run = self.runs.iter_mut().find(|run| run.pages != 0)?;
        self.pages -= run.pages;
        Some(core::mem::take(run))
    }

    /// Whether a run of `pages` pages can be kept.
    #[inline]
    pub(super) fn has_room(&self, pages: u32) -> bool {
        let fits = self.pages.saturating_add(pages) <= self.limit;
        fits && pages != 0 && self.runs.iter().any(|run| run.pages == 0)
    }

    /// Keeps a run for which there is room.
    #[inline]
    pub(super) fn keep(&mut self, run: FreeRun) -> bool {
        if !self.has_room(run.pages) {
            return false;
        }
        let Some(place) = self.runs.iter_mut().find(|run| run.pages == 0) else {
            return false;
        };
        self.pages += run.pages;
        *place = run;
        true
    }
}
