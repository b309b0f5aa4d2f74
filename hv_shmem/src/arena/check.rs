//! Checking an arena's words from outside: what `portal region check` runs.

use super::ArenaError;
use super::layout;
use super::layout::ArenaLayout;
use super::walk::ArenaFault;
use super::walk::Seen;
use super::walk::walk;
use super::word::Holder;
use super::word::RETIRED;
use super::word::Word;
use crate::mem::Ordering;
use crate::mem::SharedMem;

/// What an arena's words say is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArenaCensus {
    /// Pages of 4096 bytes.
    pub pages: u32,
    /// Of these, slab pages.
    pub slab_pages: u32,
    /// Of these, in live runs.
    pub run_pages: u32,
    /// Of these, in neither.
    pub free_pages: u32,
    /// Live spans.
    pub live_spans: u64,
    /// Bytes that live spans can name.
    pub live_bytes: u64,
    /// Of the live spans, those that are lent to a peer.
    pub lent_spans: u64,
    /// Blocks and pages whose generations have run out.
    pub retired: u64,
    /// Words that cannot be meant.
    pub faults: u64,
}

/// Checks every word of the arena in `mem` and reports what cannot be true. With
/// `repair` the words at fault are written anew so that nothing resolves there;
/// only for a section that no peer uses.
///
/// `epoch` is the owner's epoch, where the caller knows it.
///
/// # Errors
/// [`ArenaError::TooSmall`] when `mem` cannot hold an arena at all.
pub fn check<M: SharedMem>(
    mem: &M,
    epoch: Option<u32>,
    repair: bool,
    mut report: impl FnMut(ArenaFault),
) -> Result<ArenaCensus, ArenaError> {
    let layout = ArenaLayout::new(mem.len())?;
    let mut census = ArenaCensus {
        pages: layout.pages(),
        ..ArenaCensus::default()
    };
    let version = u64::from(layout::VERSION) | (u64::from(layout.pages()) << 32);
    let fields = [
        (0, Some(layout::MAGIC)),
        (layout::VERSION_AT, Some(version)),
        (layout::EPOCH_AT, epoch.map(u64::from)),
    ];
    for (at, expected) in fields {
        let found = mem.load_u64(at, Ordering::Acquire);
        let Some(expected) = expected.filter(|&expected| expected != found) else {
            continue;
        };
        census.faults += 1;
        report(ArenaFault::Header {
            at,
            found,
            expected,
        });
        if repair {
            mem.store_u64(at, expected, Ordering::Relaxed);
        }
    }
    walk(mem, &layout, layout.pages(), &mut |seen| {
        if let Seen::Fault {
            fault,
            at,
            repaired,
        } = seen
        {
            report(fault);
            if repair {
                mem.store_u64(at, repaired.0, Ordering::Relaxed);
            }
        }
        census.count(seen);
    });
    Ok(census)
}

impl ArenaCensus {
    pub(super) fn count(&mut self, seen: Seen) {
        match seen {
            Seen::Free { word, .. } => {
                self.free_pages += 1;
                self.retired += u64::from(word.generation() >= RETIRED);
            }
            Seen::Slab { .. } => self.slab_pages += 1,
            Seen::Block { word, .. } if word.is_live() => self.count_live(word),
            Seen::Block { word, .. } => {
                self.retired += u64::from(word.generation() >= RETIRED);
            }
            Seen::Run { pages, word, .. } => {
                self.run_pages += pages;
                self.count_live(word);
            }
            Seen::Fault { .. } => self.faults += 1,
        }
    }

    fn count_live(&mut self, word: Word) {
        self.live_spans += 1;
        self.live_bytes += word.extent().bytes();
        self.lent_spans += u64::from(matches!(word.holder(), Holder::Peer(_)));
    }
}
