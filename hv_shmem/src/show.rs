//! What stands in a region, as plain values to print.
//!
//! Everything is text or a number that was copied and checked once; what cannot
//! be meant appears as a problem and nothing else. The figures of a region in
//! use are those of one moment each, not of the same moment.
//!
//! The work is bounded by the region's size, whatever its peers write:
//! [`RegionView::read`] reads no more slot words than the region has room for,
//! [`RegionView::glance`] reads 22 a ring and no arena, and neither shows more
//! than a fixed number of rings.

use crate::arena;
use crate::backing::Backing;
use crate::backing::Storage;
use crate::directory::Entry;
use crate::directory::ProducerEntry;
use crate::header::Header;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use crate::peers;
use crate::peers::PeerState;
use crate::ring::RingKind;
use crate::ring::RingLayout;
use crate::ring::cursor_batch;
use crate::section::SectionHeader;
use crate::section::SectionState;
use crate::survey;
use crate::survey::GoodSection;
use crate::survey::Scan;
use crate::survey::SectionSurvey;
use crate::survey::Survey;
use std::format;
use std::string::String;
use std::string::ToString;
use std::vec::Vec;

/// Most rings of a [`RegionView::read`]: 64 a peer of the largest region.
pub const RINGS_READ: usize = 1 << 16;
/// Most rings of a [`RegionView::glance`], which somebody looks at every second.
pub const RINGS_GLANCED: usize = 1 << 12;

/// Most problems of a peer that are told one by one.
const PROBLEMS: usize = 16;

/// A region.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RegionView {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Generation, from 1.
    pub generation: u64,
    /// Size in bytes.
    pub size: u64,
    /// Page size in bytes that all parts are multiples of.
    pub page: u64,
    /// Bytes of host pages.
    pub host_bytes: u64,
    /// Bytes of the common section; 0 when there is none.
    pub common_bytes: u64,
    /// Bytes of each output section.
    pub section_bytes: u64,
    /// Number of output sections.
    pub max_peers: u16,
    /// Feature masks: compatible, read-only-compatible, incompatible.
    pub features: [u64; 3],
    /// `memfd`, `huge pages` or `file`.
    pub storage: String,
    /// Whether others' sections are read-only by mapping (`true`: enforced) or
    /// by agreement (`false`: advisory).
    pub enforced: bool,
    /// Whether the bytes outlive the host.
    pub durable: bool,
    /// Peers that are or were there.
    pub peers: Vec<PeerView>,
    /// Rings in the directories.
    pub rings: Vec<RingView>,
    /// Rings beyond those listed.
    pub rings_left_out: u64,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PeerView {
    /// Number.
    pub id: u16,
    /// Name; empty for a free entry.
    pub name: String,
    /// `partition`, `host process` or empty.
    pub kind: String,
    /// `free`, `joining`, `ready`, `quiescing` or `dead`.
    pub state: String,
    /// Epoch.
    pub epoch: u32,
    /// Rights, each by name.
    pub rights: Vec<String>,
    /// Doorbell vectors.
    pub vectors: u32,
    /// Its section, when it was formatted.
    pub section: Option<SectionView>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// A section.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SectionView {
    /// `empty`, `ready`, `quiescing`, `closed` or a number.
    pub state: String,
    /// Epoch that it was formatted in.
    pub epoch: u32,
    /// Heartbeat.
    pub heartbeat: u64,
    /// Directory entries in use.
    pub entries_used: u32,
    /// Directory entries.
    pub entries: u32,
    /// Ring storage used, in bytes.
    pub ring_bytes_used: u64,
    /// Ring storage, in bytes.
    pub ring_bytes: u64,
    /// The arena, when the peer has made one.
    pub arena: Option<ArenaUse>,
}

/// How full an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ArenaUse {
    /// Size in bytes, its tables included.
    pub bytes: u64,
    /// Bytes that live spans can name.
    pub live_bytes: u64,
    /// Live spans.
    pub live_spans: u64,
    /// Of these, lent to a peer.
    pub lent_spans: u64,
    /// Free pages of 4096 bytes.
    pub free_pages: u32,
    /// All pages.
    pub pages: u32,
    /// Words that cannot be meant; `check` says which.
    pub faults: u64,
}

/// A ring.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RingView {
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// Ring id.
    pub id: u32,
    /// `stream`, `submit`, `complete`, `event`, `upcall` or `return`.
    pub kind: String,
    /// `in-line`, `bulk` or `in-place`.
    pub layout: String,
    /// Bytes a slot.
    pub slot_size: u32,
    /// Slots.
    pub slots: u32,
    /// Counts up with every renewal of the ring.
    pub instance: u32,
    /// Messages sent.
    pub sent: u64,
    /// Messages taken out; `None` before the receiver accepted the ring.
    pub taken: Option<u64>,
    /// How many messages may be taken out without `taken` having moved: receivers
    /// publish in batches while they are busy.
    pub untold: u64,
    /// Events that the sender counted as lost for want of space.
    pub lost: u64,
    /// Whether the sender sleeps until there is space.
    pub sender_waits: bool,
    /// Whether the receiver asked for a doorbell and has said nothing since.
    pub receiver_waits: bool,
    /// Whether both peers live in the epochs that the ring was made for.
    pub current: bool,
    /// What is wrong with its words.
    pub problem: Option<String>,
}

impl RegionView {
    /// Reads the region in `mem`, which is a mapping of `backing`: every slot of
    /// every ring and every page of every arena, once.
    ///
    /// # Errors
    /// [`OutOfBounds`] when `mem` is shorter than the region.
    pub fn read<M: SharedMem>(
        mem: &M,
        header: &Header,
        backing: &Backing,
    ) -> Result<Self, OutOfBounds> {
        let scan = Scan::Whole {
            // Words that slots can have, were every byte of the region one.
            budget: header.layout.size / size_of::<u64>() as u64,
            still: false,
        };
        Reading { mem, header, scan }.view(backing, RINGS_READ)
    }

    /// As [`Self::read`], cheap enough for every second: no arenas, and of each
    /// ring only how far it is.
    ///
    /// # Errors
    /// [`OutOfBounds`] when `mem` is shorter than the region.
    pub fn glance<M: SharedMem>(
        mem: &M,
        header: &Header,
        backing: &Backing,
    ) -> Result<Self, OutOfBounds> {
        let scan = Scan::Search;
        Reading { mem, header, scan }.view(backing, RINGS_GLANCED)
    }
}

/// One reading of a region.
struct Reading<'a, M> {
    mem: &'a M,
    header: &'a Header,
    scan: Scan,
}

impl<M: SharedMem> Reading<'_, M> {
    fn view(mut self, backing: &Backing, rings_max: usize) -> Result<RegionView, OutOfBounds> {
        let (mem, header) = (self.mem, self.header);
        let l = &header.layout;
        mem.window(0, l.size)?;
        let survey = Survey::read(mem, header)?;
        let mut view = RegionView {
            name: header.name.to_string(),
            uuid: header.uuid.to_string(),
            generation: header.generation,
            size: l.size,
            page: l.page,
            host_bytes: l.host.end,
            common_bytes: l.common.end - l.common.start,
            section_bytes: l.section_size,
            max_peers: l.max_peers,
            features: [header.compat, header.ro_compat, header.incompat],
            storage: match backing.storage() {
                Storage::Memfd => "memfd".into(),
                Storage::HugePages => "huge pages".into(),
                Storage::File(_) => "file".into(),
            },
            enforced: backing.is_sectioned(),
            durable: header.durable(),
            peers: Vec::new(),
            rings: Vec::new(),
            rings_left_out: 0,
        };
        for peer in l.peers() {
            let section = survey.section(peer);
            let shown = self.peer(peer, section)?;
            if shown.state != "free" || shown.section.is_some() || !shown.problems.is_empty() {
                view.peers.push(shown);
            }
            let SectionSurvey::Good(good) = section else {
                continue;
            };
            for (_, entry) in good.good_entries() {
                let Entry::Producer(ring) = entry else {
                    continue;
                };
                if view.rings.len() < rings_max {
                    view.rings.push(self.ring(&survey, peer, &ring)?);
                } else {
                    view.rings_left_out += 1;
                }
            }
        }
        Ok(view)
    }

    fn peer(&self, peer: PeerId, section: &SectionSurvey) -> Result<PeerView, OutOfBounds> {
        let (mem, header) = (self.mem, self.header);
        let mut view = PeerView {
            id: peer.0,
            name: String::new(),
            kind: String::new(),
            state: "unknown".into(),
            epoch: 0,
            rights: Vec::new(),
            vectors: 0,
            section: None,
            problems: Vec::new(),
        };
        match peers::read(mem, &header.layout, peer) {
            Ok(record) => {
                view.state = format!("{:?}", record.state).to_lowercase();
                view.epoch = record.epoch;
                if let Some(who) = record.who {
                    view.name = who.name.to_string();
                    view.kind = match who.kind {
                        peers::PeerKind::Partition => "partition".into(),
                        peers::PeerKind::HostProcess => "host process".into(),
                    };
                    view.rights = who.rights.names().map(Into::into).collect();
                    view.vectors = who.vectors;
                }
            }
            Err(e) => view.problems.push(e.to_string()),
        }
        match section {
            SectionSurvey::Blank => {}
            SectionSurvey::Bad(claim) => view.problems.push(format!("section: {claim}")),
            SectionSurvey::Good(good) => {
                let bad = good.entries.iter().filter_map(|(i, e)| Some((i, e.err()?)));
                let mut left_out = 0;
                for (index, claim) in bad {
                    if view.problems.len() < PROBLEMS {
                        let problem = format!("directory entry {index}: {claim}");
                        view.problems.push(problem);
                    } else {
                        left_out += 1;
                    }
                }
                if left_out > 0 {
                    let problem = format!("and {left_out} more directory entries");
                    view.problems.push(problem);
                }
                let at = header.layout.section(peer);
                let own = mem.window(at.start, at.end - at.start)?;
                view.section = Some(self.section(&own, good)?);
            }
        }
        Ok(view)
    }

    fn section(&self, mem: &M, good: &GoodSection) -> Result<SectionView, OutOfBounds> {
        let h = &good.header;
        let arena = match self.scan {
            Scan::Whole { .. } => arena_use(mem, h)?,
            Scan::Search => None,
        };
        Ok(SectionView {
            state: SectionState::from_u32(good.state).map_or_else(
                || good.state.to_string(),
                |s| format!("{s:?}").to_lowercase(),
            ),
            epoch: h.epoch,
            heartbeat: good.heartbeat,
            // At most MAX_DIRECTORY.
            entries_used: good.entries.len() as u32,
            entries: h.entries,
            ring_bytes_used: good.rings_used,
            ring_bytes: h.ring_bytes,
            arena,
        })
    }

    fn ring(
        &mut self,
        survey: &Survey,
        from: PeerId,
        ring: &ProducerEntry,
    ) -> Result<RingView, OutOfBounds> {
        let (mem, layout) = (self.mem, &self.header.layout);
        let consumer = survey.consumer(from, ring);
        let state = survey::ring_state(mem, layout, from, ring, consumer.as_ref(), &mut self.scan)?;
        let lives = |peer: PeerId, epoch: u32| {
            let (now, raw) = peers::life(mem, layout, peer);
            now == epoch && PeerState::from_u32(raw).is_some_and(PeerState::is_live)
        };
        let key = &ring.key;
        Ok(RingView {
            from: from.0,
            to: key.peer.0,
            id: key.id,
            kind: match ring.kind {
                RingKind::Stream => "stream",
                RingKind::Submit => "submit",
                RingKind::Complete => "complete",
                RingKind::Event => "event",
                RingKind::Upcall => "upcall",
                RingKind::Return => "return",
            }
            .into(),
            layout: match ring.layout {
                RingLayout::Inline => "in-line",
                RingLayout::Bulk => "bulk",
                RingLayout::InPlace => "in-place",
            }
            .into(),
            slot_size: ring.slot_size,
            slots: ring.slots,
            instance: ring.instance,
            sent: state.produced.unwrap_or(0),
            taken: state.consumed,
            untold: cursor_batch(ring.slots.into()) - 1,
            lost: state.lost,
            sender_waits: state.sender_waits,
            receiver_waits: state.receiver_waits,
            current: lives(from, key.epoch) && lives(key.peer, key.peer_epoch),
            problem: match (state.fault, state.produced) {
                (Some(fault), _) => Some(fault.to_string()),
                (None, Some(_)) => None,
                (None, None) => Some(
                    "not read: the directories name more slots than the region has room for".into(),
                ),
            },
        })
    }
}

fn arena_use<M: SharedMem>(
    section: &M,
    header: &SectionHeader,
) -> Result<Option<ArenaUse>, OutOfBounds> {
    let mem = section.window(header.arena, header.arena_bytes)?;
    if mem.load_u64(0, Ordering::Relaxed) == 0 {
        return Ok(None);
    }
    let census = arena::check(&mem, Some(header.epoch), false, |_| {});
    Ok(census.ok().map(|c| ArenaUse {
        bytes: header.arena_bytes,
        live_bytes: c.live_bytes,
        live_spans: c.live_spans,
        lent_spans: c.lent_spans,
        free_pages: c.free_pages,
        pages: c.pages,
        faults: c.faults,
    }))
}
