//! Section headers, bump marks, directories and arenas.

use super::Checker;
use super::Code;
use super::Place;
use super::Severity;
use crate::arena;
use crate::directory;
use crate::directory::Entry;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use crate::peers;
use crate::peers::PeerRecord;
use crate::peers::PeerState;
use crate::ring::CURSOR_BYTES;
use crate::ring::PRODUCED_BYTES;
use crate::section;
use crate::section::SECTION_HEADER_BYTES;
use crate::section::SectionHeader;
use crate::section::SectionState;
use crate::survey::GoodSection;
use crate::survey::SectionSurvey;
use crate::survey::Survey;
use std::collections::HashSet;
use std::vec::Vec;

/// Bytes that an entry claims, and whether they lie in the common section.
struct Extent {
    in_common: bool,
    start: u64,
    end: u64,
    index: u32,
}

impl<M: SharedMem> Checker<'_, M> {
    /// Checks every section against its peer's entry.
    pub(super) fn sections(
        &mut self,
        survey: &Survey,
        peers: &[Option<PeerRecord>],
    ) -> Result<(), OutOfBounds> {
        for (peer, record) in self.header.layout.clone().peers().zip(peers) {
            let at = self.header.layout.section(peer);
            let mem = self.mem.window(at.start, at.end - at.start)?;
            match survey.section(peer) {
                SectionSurvey::Blank => self.blank(peer, record.as_ref()),
                SectionSurvey::Bad(claim) => self.find_and(
                    (Code::SectionHeader, Severity::Error, Place::Section(peer)),
                    claim,
                    "given up: its peer starts clean",
                    |_| mem.zero(0, SECTION_HEADER_BYTES),
                ),
                SectionSurvey::Good(good) => {
                    self.report.looked_at.sections += 1;
                    self.life(&good.header, record.as_ref());
                    self.moving(&mem, good);
                    self.directory(&mem, good);
                    self.arena(&mem, &good.header)?;
                }
            }
        }
        Ok(())
    }

    fn blank(&mut self, peer: PeerId, record: Option<&PeerRecord>) {
        if record.is_some_and(|r| r.state == PeerState::Ready) {
            self.find(
                Code::SectionMissing,
                Severity::Warning,
                Place::Section(peer),
                "the peer is ready, its section was never formatted",
            );
        }
    }

    /// Epoch and generation: a section may be old, never from the future.
    fn life(&mut self, header: &SectionHeader, record: Option<&PeerRecord>) {
        let peer = header.peer;
        let place = Place::Section(peer);
        if header.generation > self.header.generation {
            self.find(
                Code::SectionFuture,
                Severity::Warning,
                place,
                std::format!(
                    "formatted in generation {}, the region is in {}",
                    header.generation,
                    self.header.generation
                ),
            );
        }
        let Some(record) = record.filter(|r| header.epoch > r.epoch) else {
            return;
        };
        let what = std::format!(
            "formatted in epoch {}, the peer is in {}",
            header.epoch,
            record.epoch
        );
        let severity = (Code::SectionFuture, Severity::Error, place);
        match header.epoch.checked_add(1) {
            Some(next) => {
                let at = self.header.layout.peer_at(peer) + peers::at::EPOCH;
                self.find_and(severity, what, "the peer's epoch moved past it", |mem| {
                    mem.store_u32(at, next, Ordering::Release);
                });
            }
            None => self.find(severity.0, severity.1, severity.2, what),
        }
    }

    /// State and bump marks.
    fn moving(&mut self, mem: &M, good: &GoodSection) {
        let peer = good.header.peer;
        let place = Place::Section(peer);
        if SectionState::from_u32(good.state).is_none() {
            self.find_and(
                (Code::SectionState, Severity::Error, place),
                std::format!("state {:#x}; the largest known is 3", good.state),
                "set to closed",
                |_| {
                    let closed = SectionState::Closed as u32;
                    mem.store_u32(section::at::STATE, closed, Ordering::Release);
                },
            );
        }
        let slice = directory::common_slice(&self.header.layout, peer);
        let marks = [
            (
                "ring storage",
                false,
                good.rings_used,
                section::at::RINGS_USED,
                good.header.ring_bytes,
            ),
            (
                "the common section",
                true,
                good.common_used,
                section::at::COMMON_USED,
                slice.end - slice.start,
            ),
        ];
        for (what, in_common, used, at, limit) in marks {
            let base = if in_common {
                slice.start
            } else {
                good.header.rings
            };
            let claimed = extents(good)
                .iter()
                .filter(|e| e.in_common == in_common)
                .map(|e| e.end - base)
                .max()
                .unwrap_or(0);
            // A peer marks before it writes the entry: more used than claimed
            // is fine, the other way round never.
            if used > limit || used < claimed {
                self.find_and(
                    (Code::SectionUsage, Severity::Error, place),
                    std::format!(
                        "{used} bytes of {what} used, {claimed} are claimed, {limit} are there"
                    ),
                    "set to what is claimed",
                    |_| mem.store_u64(at, claimed, Ordering::Relaxed),
                );
            }
        }
    }

    /// Entries one by one, then against each other.
    fn directory(&mut self, mem: &M, good: &GoodSection) {
        let header = &good.header;
        let peer = header.peer;
        let free = |index| directory::write(mem, header, index, &Entry::Free);
        let mut gone = HashSet::new();
        let mut seen = HashSet::new();
        for (index, entry) in &good.entries {
            let place = Place::Directory(peer, *index);
            let entry = match entry {
                Ok(entry) => entry,
                Err(claim) => {
                    self.find_and(
                        (Code::DirectoryEntry, Severity::Error, place),
                        claim,
                        "freed",
                        |_| free(*index),
                    );
                    continue;
                }
            };
            let (key, sends) = match entry {
                Entry::Producer(e) => (e.key, true),
                Entry::Consumer(e) => (e.key, false),
                _ => continue,
            };
            if key.epoch != header.epoch {
                gone.insert(*index);
                self.find_and(
                    (Code::DirectoryStale, Severity::Warning, place),
                    std::format!("epoch {}, the section is in {}", key.epoch, header.epoch),
                    "freed",
                    |_| free(*index),
                );
            } else if !seen.insert((key.peer, key.id, sends)) {
                gone.insert(*index);
                self.find_and(
                    (Code::DirectoryDuplicate, Severity::Error, place),
                    std::format!(
                        "ring {} with peer {} has an entry already",
                        key.id,
                        key.peer
                    ),
                    "freed",
                    |_| free(*index),
                );
            }
        }
        let mut extents = extents(good);
        extents.retain(|e| !gone.contains(&e.index));
        extents.sort_by_key(|e| (e.in_common, e.start, e.index));
        let mut before: Option<Extent> = None;
        for extent in extents {
            if let Some(b) = &before
                && b.in_common == extent.in_common
                && extent.start < b.end
                && b.index != extent.index
            {
                let index = extent.index;
                self.find_and(
                    (
                        Code::DirectoryOverlap,
                        Severity::Error,
                        Place::Directory(peer, index),
                    ),
                    std::format!(
                        "bytes {:#x} to {:#x} overlap with entry {}, which ends at {:#x}",
                        extent.start,
                        extent.end,
                        b.index,
                        b.end
                    ),
                    "freed",
                    |_| free(index),
                );
                continue;
            }
            before = Some(extent);
        }
    }

    /// The arena's own check, as findings.
    fn arena(&mut self, section: &M, header: &SectionHeader) -> Result<(), OutOfBounds> {
        let mem = section.window(header.arena, header.arena_bytes)?;
        if mem.load_u64(0, Ordering::Relaxed) == 0 {
            // The peer has not made one.
            return Ok(());
        }
        let peer = header.peer;
        let mut faults = Vec::new();
        let mut more = 0u64;
        let census = arena::check(&mem, Some(header.epoch), self.options.repair, |fault| {
            if faults.len() < super::MAX_FINDINGS {
                faults.push(fault);
            } else {
                more += 1;
            }
        });
        const REMEDY: &str = "written anew so that nothing resolves there";
        for fault in faults {
            self.find_and(
                (Code::ArenaFault, Severity::Error, Place::Arena(peer)),
                fault,
                REMEDY,
                |_| {},
            );
        }
        self.report.more += more;
        match census {
            Ok(census) => {
                self.report.looked_at.arenas += 1;
                self.report.looked_at.spans += census.live_spans;
            }
            Err(e) => self.find(Code::ArenaFault, Severity::Error, Place::Arena(peer), e),
        }
        Ok(())
    }
}

/// All bytes that the entries of a section claim.
fn extents(good: &GoodSection) -> Vec<Extent> {
    let mut out = Vec::new();
    let mut push = |in_common, start: u64, len: u64, index| {
        // Checked entries: no overflow.
        let end = start + len;
        out.push(Extent {
            in_common,
            start,
            end,
            index,
        });
    };
    for (index, entry) in good.good_entries() {
        match entry {
            Entry::Producer(e) | Entry::Closed(e) => {
                push(false, e.line, PRODUCED_BYTES, index);
                let bytes = u64::from(e.slot_size) * u64::from(e.slots);
                push(e.in_common, e.storage, bytes, index);
            }
            Entry::Consumer(e) | Entry::ClosedConsumer(e) => {
                push(false, e.line, CURSOR_BYTES, index);
            }
            Entry::Free => {}
        }
    }
    out
}
