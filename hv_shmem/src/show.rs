//! What stands in a region, as plain values to print.
//!
//! Everything is text or a number that was copied and checked once; what cannot
//! be meant appears as a problem and nothing else. The figures of a region in
//! use are those of one moment each, not of the same moment.

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
use crate::ring::RingKind;
use crate::ring::RingLayout;
use crate::section::SectionHeader;
use crate::section::SectionState;
use crate::survey;
use crate::survey::GoodSection;
use crate::survey::SectionSurvey;
use crate::survey::Survey;
use std::format;
use std::string::String;
use std::string::ToString;
use std::vec::Vec;

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
    /// Messages sent.
    pub sent: u64,
    /// Messages taken out; `None` before the receiver accepted the ring.
    pub taken: Option<u64>,
    /// Whether both peers live in the epochs that the ring was made for.
    pub current: bool,
    /// What is wrong with its words.
    pub problem: Option<String>,
}

impl RegionView {
    /// Reads the region in `mem`, which is a mapping of `backing`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when `mem` is shorter than the region.
    pub fn read<M: SharedMem>(
        mem: &M,
        header: &Header,
        backing: &Backing,
    ) -> Result<Self, OutOfBounds> {
        let l = &header.layout;
        mem.window(0, l.size)?;
        let survey = Survey::read(mem, header)?;
        let mut view = Self {
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
        };
        for peer in l.peers() {
            let section = survey.section(peer);
            let shown = peer_view(mem, header, peer, section)?;
            if shown.state != "free" || shown.section.is_some() || !shown.problems.is_empty() {
                view.peers.push(shown);
            }
            if let SectionSurvey::Good(good) = section {
                for (_, entry) in good.good_entries() {
                    if let Entry::Producer(ring) = entry {
                        view.rings
                            .push(ring_view(mem, header, &survey, peer, &ring)?);
                    }
                }
            }
        }
        Ok(view)
    }
}

fn peer_view<M: SharedMem>(
    mem: &M,
    header: &Header,
    peer: PeerId,
    section: &SectionSurvey,
) -> Result<PeerView, OutOfBounds> {
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
            for (index, claim) in bad {
                let problem = format!("directory entry {index}: {claim}");
                view.problems.push(problem);
            }
            let at = header.layout.section(peer);
            let own = mem.window(at.start, at.end - at.start)?;
            view.section = Some(section_view(&own, good)?);
        }
    }
    Ok(view)
}

fn section_view<M: SharedMem>(mem: &M, good: &GoodSection) -> Result<SectionView, OutOfBounds> {
    let h = &good.header;
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
        arena: arena_use(mem, h)?,
    })
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

fn ring_view<M: SharedMem>(
    mem: &M,
    header: &Header,
    survey: &Survey,
    from: PeerId,
    ring: &ProducerEntry,
) -> Result<RingView, OutOfBounds> {
    let layout = &header.layout;
    let consumer = survey.consumer(from, ring);
    let state = survey::ring_state(mem, layout, from, ring, consumer.as_ref(), false)?;
    let lives = |peer: PeerId, epoch: u32| {
        peers::read(mem, layout, peer).is_ok_and(|r| r.state.is_live() && r.epoch == epoch)
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
        sent: state.produced,
        taken: state.consumed,
        current: lives(from, key.epoch) && lives(key.peer, key.peer_epoch),
        problem: state.fault.map(|f| f.to_string()),
    })
}
