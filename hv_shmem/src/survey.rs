//! Everything that stands in a region, read once into private memory: what
//! `check` judges and `show` prints.
//!
//! Distrusted: all of it. Each header, entry and line is copied once and
//! checked; what cannot be meant is kept as the [`BadClaim`] that it is. The
//! memory is bounded by the region's size: at most
//! [`MAX_DIRECTORY`](crate::section::MAX_DIRECTORY) entries a section. The work
//! on a ring is at most [`MAX_SLOTS`](crate::ring::MAX_SLOTS) words; directories
//! may name the same words again and again, so whoever reads many rings gives a
//! budget ([`Scan`]).

use crate::claim::BadClaim;
use crate::directory::ClaimedEntry;
use crate::directory::ConsumerEntry;
use crate::directory::Entry;
use crate::directory::ProducerEntry;
use crate::header::Header;
use crate::layout::Layout;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use crate::region;
use crate::ring::EVENT_INDEX;
use crate::ring::EVENTS_LOST;
use crate::ring::PRODUCER_INDEX;
use crate::ring::RingLayout;
use crate::ring::SPACE_THRESHOLD;
use crate::section;
use crate::section::SectionHeader;
use crate::section::SectionState;
use std::collections::HashMap;
use std::vec::Vec;

/// Offset of the cursor in a consumer's line, in bytes (`ring::place`).
const CURSOR: u64 = 0;

/// One section as it stands.
#[derive(Debug, Clone)]
pub(crate) enum SectionSurvey {
    /// Never formatted, being formatted, or left in the middle of that.
    Blank,
    /// Its header cannot be meant.
    Bad(BadClaim),
    /// Its header is fine.
    Good(GoodSection),
}

/// What a section with a good header holds.
#[derive(Debug, Clone)]
pub(crate) struct GoodSection {
    pub(crate) header: SectionHeader,
    pub(crate) state: u32,
    pub(crate) heartbeat: u64,
    pub(crate) rings_used: u64,
    pub(crate) common_used: u64,
    /// Entries that are not free, by index.
    pub(crate) entries: Vec<(u32, Result<Entry, BadClaim>)>,
}

impl GoodSection {
    /// The entries that can be meant.
    pub(crate) fn good_entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        self.entries
            .iter()
            .filter_map(|(index, entry)| Some((*index, entry.ok()?)))
    }
}

/// Which consumer entry belongs to which ring: sender, receiver, ring id, the
/// sender's epoch, instance.
type ConsumerKey = (PeerId, PeerId, u32, u32, u32);

/// All sections of a region.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    pub(crate) sections: Vec<SectionSurvey>,
    consumers: HashMap<ConsumerKey, (PeerId, ConsumerEntry)>,
}

impl Survey {
    /// Reads all sections of the region in `mem`.
    pub(crate) fn read<M: SharedMem>(mem: &M, header: &Header) -> Result<Self, OutOfBounds> {
        let layout = &header.layout;
        let mut sections = Vec::with_capacity(layout.max_peers.into());
        let mut consumers = HashMap::new();
        for peer in layout.peers() {
            let at = layout.section(peer);
            let section = mem.window(at.start, at.end - at.start)?;
            let survey = read_section(&section, peer, layout);
            if let SectionSurvey::Good(good) = &survey {
                for (_, entry) in good.good_entries() {
                    if let Entry::Consumer(c) = entry {
                        let key = (c.key.peer, peer, c.key.id, c.key.peer_epoch, c.instance);
                        consumers.insert(key, (peer, c));
                    }
                }
            }
            sections.push(survey);
        }
        Ok(Self {
            sections,
            consumers,
        })
    }

    /// The section of a peer that the layout has.
    pub(crate) fn section(&self, peer: PeerId) -> &SectionSurvey {
        self.sections
            .get(usize::from(peer.0))
            .unwrap_or(&SectionSurvey::Blank)
    }

    /// The receiver's half of a ring of `from`.
    pub(crate) fn consumer(&self, from: PeerId, ring: &ProducerEntry) -> Option<ConsumerEntry> {
        let key = &ring.key;
        self.consumers
            .get(&(from, key.peer, key.id, key.epoch, ring.instance))
            .map(|(_, entry)| *entry)
    }
}

fn read_section<M: SharedMem>(mem: &M, peer: PeerId, layout: &Layout) -> SectionSurvey {
    let state = mem.load_u32(section::at::STATE, Ordering::Acquire);
    if state == SectionState::Empty as u32 {
        return SectionSurvey::Blank;
    }
    let header = match region::copy_section(mem, peer, layout.section_size) {
        Ok(header) => header,
        Err(claim) => return SectionSurvey::Bad(claim),
    };
    let mut entries = Vec::new();
    for index in 0..header.entries {
        let entry = ClaimedEntry::copy(mem, &header, index).and_then(|e| e.check(&header, layout));
        if entry != Ok(Entry::Free) {
            entries.push((index, entry));
        }
    }
    SectionSurvey::Good(GoodSection {
        header,
        state,
        heartbeat: mem.load_u64(section::at::HEARTBEAT, Ordering::Relaxed),
        rings_used: mem.load_u64(section::at::RINGS_USED, Ordering::Relaxed),
        common_used: mem.load_u64(section::at::COMMON_USED, Ordering::Relaxed),
        entries,
    })
}

/// How far a ring is, and the first thing wrong with its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RingState {
    /// Messages sent; `None` when the budget was spent before this ring.
    pub(crate) produced: Option<u64>,
    /// Messages taken out; `None` before the ring is accepted.
    pub(crate) consumed: Option<u64>,
    /// Events that the sender says it lost for want of space.
    pub(crate) lost: u64,
    /// Whether the sender sleeps until there is space.
    pub(crate) sender_waits: bool,
    /// Whether the receiver asked for a doorbell and has said nothing since.
    pub(crate) receiver_waits: bool,
    /// The first word that cannot be meant; offsets count from the slots.
    pub(crate) fault: Option<BadClaim>,
}

/// How the slots of in-line and in-place rings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Every word, and what cannot be meant is found.
    Whole {
        /// Words that may still be read, over all rings.
        budget: u64,
        /// Nobody moves them: they are held against each other.
        still: bool,
    },
    /// Only as many words as it takes to find the last message, if the words
    /// are in order: 22 at most.
    Search,
}

/// Reads the words of a ring of `from`.
pub(crate) fn ring_state<M: SharedMem>(
    mem: &M,
    layout: &Layout,
    from: PeerId,
    ring: &ProducerEntry,
    consumer: Option<&ConsumerEntry>,
    scan: &mut Scan,
) -> Result<RingState, OutOfBounds> {
    let section = layout.section(from).start;
    let slots = u64::from(ring.slots);
    let bytes = u64::from(ring.slot_size) * slots;
    let start = if ring.in_common {
        layout.common.start
    } else {
        section
    };
    let storage = mem.window(start + ring.storage, bytes)?;
    let line = mem.window(section + ring.line, crate::ring::PRODUCED_BYTES)?;
    let mut state = RingState {
        lost: line.load_u64(EVENTS_LOST, Ordering::Relaxed),
        ..RingState::default()
    };
    // The cursor first: it cannot pass an index that is read after it.
    if let Some(c) = consumer {
        let at = layout.section(ring.key.peer).start + c.line;
        let line = mem.window(at, crate::ring::CURSOR_BYTES)?;
        let cursor = line.load_u64(CURSOR, Ordering::Acquire);
        state.consumed = Some(cursor);
        state.receiver_waits = line.load_u64(EVENT_INDEX, Ordering::Relaxed) == cursor;
    }
    let taken = state.consumed.unwrap_or(0);
    if ring.layout == RingLayout::Bulk {
        state.produced = Some(line.load_u64(PRODUCER_INDEX, Ordering::Acquire));
    } else {
        match scan {
            Scan::Whole { budget, .. } => match budget.checked_sub(slots) {
                Some(left) => {
                    *budget = left;
                    scan_slots(&storage, ring, &mut state);
                }
                None => return Ok(state),
            },
            Scan::Search => search_slots(&storage, ring, &mut state),
        }
    }
    let produced = state.produced.unwrap_or(0);
    let waiting = produced.wrapping_sub(taken);
    // A threshold at or behind the cursor is left over from an earlier wait; in
    // front of it, or with no slot free, the sender can do nothing but wait.
    let ahead = line
        .load_u64(SPACE_THRESHOLD, Ordering::Relaxed)
        .wrapping_sub(taken);
    state.sender_waits = waiting >= slots || (ahead > 0 && ahead < slots);
    let still = matches!(scan, Scan::Whole { still: true, .. });
    if state.fault.is_none() && (taken > produced || (still && waiting > slots)) {
        state.fault = Some(BadClaim {
            what: "messages waiting (sent less taken)",
            at: 0,
            value: waiting,
            limit: slots,
        });
    }
    Ok(state)
}

/// How many messages a slot's word stands for: position + 1, or 0.
fn sent_by(word: u64, layout: RingLayout) -> u64 {
    match layout {
        RingLayout::InPlace => word.div_ceil(2),
        _ => word,
    }
}

/// Reads every slot's word of an in-line or in-place ring.
fn scan_slots<M: SharedMem>(storage: &M, ring: &ProducerEntry, state: &mut RingState) {
    let mask = u64::from(ring.slots) - 1;
    let mut produced = 0;
    for slot in 0..u64::from(ring.slots) {
        let at = slot * u64::from(ring.slot_size);
        let word = storage.load_u64(at, Ordering::Acquire);
        let sent = sent_by(word, ring.layout);
        if sent != 0 && (sent - 1) & mask != slot && state.fault.is_none() {
            state.fault = Some(BadClaim {
                what: "slot's sequence word",
                at,
                value: word,
                limit: (sent & !mask) | slot,
            });
            continue;
        }
        produced = produced.max(sent);
    }
    state.produced = Some(produced);
}

/// Finds the last message from the cursor on: the first slot whose word is not
/// the one of its turn. Words are in order unless the sender lies, and then it is
/// the sender's number. A cursor in front of everything that was sent is the
/// receiver's lie.
fn search_slots<M: SharedMem>(storage: &M, ring: &ProducerEntry, state: &mut RingState) {
    let mask = u64::from(ring.slots) - 1;
    let taken = state.consumed.unwrap_or(0);
    let sent_in = |position: u64| {
        let at = (position & mask) * u64::from(ring.slot_size);
        sent_by(storage.load_u64(at, Ordering::Acquire), ring.layout)
    };
    let before = taken.checked_sub(1).map_or(0, sent_in);
    if before < taken {
        state.produced = Some(before);
        return;
    }
    // Slots before `low` hold messages; from `high` on none does.
    let (mut low, mut high) = (0, u64::from(ring.slots));
    while low < high {
        let middle = low + (high - low) / 2;
        let position = taken.wrapping_add(middle);
        if sent_in(position) == position.wrapping_add(1) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    state.produced = Some(taken.wrapping_add(low));
}
