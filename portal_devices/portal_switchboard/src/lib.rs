//! The switchboard: regions by name, peer ids, and the doorbell fabric between
//! peers, as one object in one process.
//!
//! It owns the host pages of every region ([`HostPages`]): admitting, readying
//! and retiring a peer here is what writes the peer table and the state table.
//! It knows doorbells only as opaque handles `B` (an event fd, a test's
//! counter): each peer brings one receive bell for each of its vectors, and the
//! others get clones of them.
//!
//! ```text
//!            admit            ready             quiesce
//!   absent ────────▶ joined ────────▶ ready ◀──────────▶ quiescing
//!     ▲                │                │      ready          │
//!     └────────────────┴──── gone ──────┴─────────────────────┘
//! ```
//!
//! Every step of a peer is told to every other peer of its region as an
//! [`Event`], in order for each pair. A peer that does not fetch its events
//! costs a fixed amount of memory, because events are computed from what it was
//! told last ([`events`]), not queued.
//!
//! Specification: none; ids and vectors mean what they mean in ivshmem, where an
//! id is 16 bits wide.
//!
//! Distrusted: what a peer asks for (checked against policy and quota; a stale
//! [`PeerKey`] has no effect). Trusted: whoever holds the object, who decides
//! which request a peer may make at all.
//!
//! Left out: sockets, threads, the memory itself, waking a peer that has events.
//!
//! # Example
//!
//! ```
//! use hv_shmem::host_pages::HostPages;
//! use hv_shmem::layout::RegionSpec;
//! use hv_shmem::mem::HeapMem;
//! use hv_shmem::name::Name;
//! use hv_shmem::peers::{PeerKind, Rights};
//! use portal_switchboard::{Admission, Event, Limits, Policy, Switchboard};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let name = Name::new("lake")?;
//! let spec = RegionSpec::new(name, 1 << 20, 4);
//! let pages = HostPages::format(HeapMem::new(1 << 20), &spec, uuid::Uuid::from_u128(7))?;
//!
//! let mut board = Switchboard::new(Limits::default());
//! board.add_region(pages, Policy::default())?;
//! let admission = |name| -> Result<_, hv_shmem::name::NameError> {
//!     Ok(Admission {
//!         name: Name::new(name)?,
//!         kind: PeerKind::Partition,
//!         rights: Rights::ALL,
//!         id: None,
//!         bells: vec!["a bell"],
//!     })
//! };
//! let a = board.admit(&name, admission("a")?)?;
//! let b = board.admit(&name, admission("b")?)?;
//! assert!(matches!(board.next_event(&a)?, Some(Event::Joined { peer, .. }) if peer == b.peer));
//! board.gone(&b)?;
//! assert!(matches!(board.next_event(&a)?, Some(Event::Gone { peer, .. }) if peer == b.peer));
//! # Ok(())
//! # }
//! ```

mod error;
pub mod events;
pub mod guard;
mod region;

pub use error::AdmissionError;
pub use error::RegionError;
pub use error::StalePeer;
pub use error::StepError;
pub use events::Event;

use hv_shmem::header::Header;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use hv_shmem::peers::Rights;
use portal_device::Counter;
use portal_device::inspect::Node;
use region::Region;
use std::collections::BTreeMap;

/// What one switchboard may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Regions. Each has 8 KiB of private state beside its pages.
    pub regions: usize,
    /// Vectors of one peer. The Windows driver has 64.
    pub vectors_per_peer: usize,
    /// Vectors of all peers of one region: each is an event fd of this process.
    pub vectors_per_region: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            regions: 64,
            vectors_per_peer: 64,
            vectors_per_region: 4096,
        }
    }
}

/// Who may join a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most that a partition may ask for; `None` keeps partitions out.
    pub partitions: Option<Rights>,
    /// The most that a host process may ask for; `None` keeps them out.
    pub host_processes: Option<Rights>,
    /// The lowest id that is given to a peer that asks for none.
    pub first_id: PeerId,
}

impl Default for Policy {
    /// Everybody, with every right, from id 0.
    fn default() -> Self {
        Policy {
            partitions: Some(Rights::ALL),
            host_processes: Some(Rights::ALL),
            first_id: PeerId(0),
        }
    }
}

/// A request to join.
#[derive(Clone, Debug)]
pub struct Admission<B> {
    /// Name; no two live peers of a region have the same.
    pub name: Name,
    /// Partition or host process.
    pub kind: PeerKind,
    /// What the peer wants to do.
    pub rights: Rights,
    /// The id it has to have (a restored partition's), or any.
    pub id: Option<PeerId>,
    /// One receive bell a vector, vector 0 first.
    pub bells: Vec<B>,
}

/// Names one life of one peer. A key of an earlier life has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// Name of the region.
    pub region: Name,
    /// Id of the peer.
    pub peer: PeerId,
    /// Its epoch.
    pub epoch: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    admitted: Counter,
    refused: Counter,
    gone: Counter,
    stale: Counter,
}

/// All regions and peers.
#[derive(Debug)]
pub struct Switchboard<M, B> {
    regions: BTreeMap<Name, Region<M, B>>,
    limits: Limits,
    counters: Counters,
}

impl<M: SharedMem, B: Clone> Switchboard<M, B> {
    /// No regions yet.
    pub fn new(limits: Limits) -> Self {
        Switchboard {
            regions: BTreeMap::new(),
            limits,
            counters: Counters::default(),
        }
    }

    /// Takes a region over by its host pages; its name is in their header.
    ///
    /// # Errors
    /// [`RegionError::NameTaken`], [`RegionError::Full`].
    pub fn add_region(&mut self, pages: HostPages<M>, policy: Policy) -> Result<Name, RegionError> {
        let name = pages.header().name;
        if self.regions.contains_key(&name) {
            return Err(RegionError::NameTaken { region: name });
        }
        if self.regions.len() >= self.limits.regions {
            return Err(RegionError::Full {
                region: name,
                limit: self.limits.regions,
            });
        }
        tracing::info!(region = name.as_str(), "switchboard: region added");
        self.regions.insert(name, Region::new(pages, policy));
        Ok(name)
    }

    /// Gives a region up, with its pages.
    ///
    /// # Errors
    /// [`RegionError::NoSuchRegion`], [`RegionError::InUse`] while peers live.
    pub fn remove_region(&mut self, region: &Name) -> Result<HostPages<M>, RegionError> {
        let Some(found) = self.regions.get(region) else {
            return Err(RegionError::NoSuchRegion { region: *region });
        };
        let peers = found.live();
        if peers > 0 {
            return Err(RegionError::InUse {
                region: *region,
                peers,
            });
        }
        let removed = self.regions.remove(region);
        removed
            .map(Region::into_pages)
            .ok_or(RegionError::NoSuchRegion { region: *region })
    }

    /// Names of all regions, in order.
    pub fn regions(&self) -> impl Iterator<Item = Name> {
        self.regions.keys().copied()
    }

    /// Header of a region: who it is, how it is laid out.
    pub fn header(&self, region: &Name) -> Option<&Header> {
        self.regions.get(region).map(Region::header)
    }

    /// Whether the region lets this kind of peer have these rights.
    ///
    /// # Errors
    /// [`AdmissionError::NoSuchRegion`], [`AdmissionError::Kind`],
    /// [`AdmissionError::Rights`].
    pub fn may(&self, region: &Name, kind: PeerKind, rights: Rights) -> Result<(), AdmissionError> {
        let found = self.regions.get(region);
        let found = found.ok_or(AdmissionError::NoSuchRegion { region: *region })?;
        found.check_rights(kind, rights)
    }

    /// Live peers of a region, those that are away among them.
    pub fn live(&self, region: &Name) -> usize {
        self.regions.get(region).map_or(0, Region::live)
    }

    /// The lowest id that a newcomer can have.
    ///
    /// # Errors
    /// [`AdmissionError::NoSuchRegion`], [`AdmissionError::Full`].
    pub fn vacancy(&self, region: &Name) -> Result<PeerId, AdmissionError> {
        match self.regions.get(region) {
            Some(found) => found.vacancy(),
            None => Err(AdmissionError::NoSuchRegion { region: *region }),
        }
    }

    /// What is known of an id, to be kept by a host that may die.
    pub fn record(&self, region: &Name, peer: PeerId) -> Option<PeerRecord> {
        self.regions.get(region)?.record(peer)
    }

    /// As [`Self::add_region`] for pages that were taken up again
    /// ([`HostPages::resume`]) with these records: every peer that lives in them is
    /// *away* until [`Self::come_back`] or [`Self::gone`]. Returns their keys.
    ///
    /// # Errors
    /// As [`Self::add_region`].
    pub fn restore_region(
        &mut self,
        pages: HostPages<M>,
        policy: Policy,
        records: &[PeerRecord],
    ) -> Result<Vec<PeerKey>, RegionError> {
        let region = self.add_region(pages, policy)?;
        let Some(found) = self.regions.get_mut(&region) else {
            return Ok(Vec::new());
        };
        found.restore(records);
        let key = |peer: PeerId| {
            Some(PeerKey {
                region,
                peer,
                epoch: found.epoch(peer)?,
            })
        };
        Ok(found.ids().into_iter().filter_map(key).collect())
    }

    /// A peer that was away is back, with its bells: it is told of the others,
    /// and they of it.
    ///
    /// # Errors
    /// [`AdmissionError::NotAway`] when nobody of this key is away; the quotas'.
    pub fn come_back(&mut self, key: &PeerKey, bells: Vec<B>) -> Result<(), AdmissionError> {
        let limits = self.limits;
        let not_away = AdmissionError::NotAway {
            region: key.region,
            peer: key.peer,
        };
        let region = self.region_of(key).map_err(|_| not_away)?;
        if !region.is_away(key.peer) {
            return Err(not_away);
        }
        region.come_back(key.peer, bells, &limits)
    }

    /// Layout of a region.
    pub fn layout(&self, region: &Name) -> Option<&Layout> {
        self.regions.get(region).map(Region::layout)
    }

    /// Lets a peer in: it has an id, an epoch and an entry in the peer table
    /// from now on, and the others are told. The peer itself learns of the
    /// others through its events.
    ///
    /// # Errors
    /// [`AdmissionError`]; nothing has changed then.
    pub fn admit(
        &mut self,
        region: &Name,
        admission: Admission<B>,
    ) -> Result<PeerKey, AdmissionError> {
        let who = admission.name;
        let result = match self.regions.get_mut(region) {
            Some(found) => found.admit(admission, &self.limits),
            None => Err(AdmissionError::NoSuchRegion { region: *region }),
        };
        match result {
            Ok((peer, epoch)) => {
                self.counters.admitted.bump();
                tracing::info!(
                    region = region.as_str(),
                    peer = peer.0,
                    name = who.as_str(),
                    epoch,
                    "switchboard: peer admitted"
                );
                Ok(PeerKey {
                    region: *region,
                    peer,
                    epoch,
                })
            }
            Err(error) => {
                if self.counters.refused.bump() {
                    tracing::warn!(region = region.as_str(), %error, "switchboard: peer refused");
                }
                Err(error)
            }
        }
    }

    /// The id that [`Self::admit`] would give to a peer with so many vectors,
    /// before there are bells for them.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub fn consider(
        &self,
        region: &Name,
        admission: &Admission<()>,
        vectors: usize,
    ) -> Result<PeerId, AdmissionError> {
        match self.regions.get(region) {
            Some(found) => found.consider(admission, vectors, &self.limits),
            None => Err(AdmissionError::NoSuchRegion { region: *region }),
        }
    }

    fn region_of(&mut self, key: &PeerKey) -> Result<&mut Region<M, B>, StalePeer> {
        let live = self
            .regions
            .get(&key.region)
            .is_some_and(|region| region.epoch(key.peer) == Some(key.epoch));
        if !live && portal_device::guard::stands(guard::Guard::Epoch) {
            self.counters.stale.bump();
            return Err(StalePeer { key: *key });
        }
        self.regions
            .get_mut(&key.region)
            .ok_or(StalePeer { key: *key })
    }

    /// The peer has formatted its section (or ends its quiescing).
    ///
    /// # Errors
    /// [`StepError`].
    pub fn ready(&mut self, key: &PeerKey) -> Result<(), StepError> {
        self.region_of(key)?.ready(key.peer)
    }

    /// The peer takes no new work.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn quiesce(&mut self, key: &PeerKey) -> Result<(), StepError> {
        self.region_of(key)?.quiesce(key.peer)
    }

    /// The peer hears on these bells from now on; the others are told. `false`, and
    /// nothing has changed, when they are not as many as it was let in with.
    ///
    /// # Errors
    /// [`StalePeer`].
    pub fn hear_on(&mut self, key: &PeerKey, bells: Vec<B>) -> Result<bool, StalePeer> {
        Ok(self.region_of(key)?.hear_on(key.peer, bells))
    }

    /// The peer's ivshmem v2 state is `state` from now on: its word in the state
    /// table says so. Ringing the others is the business of whoever publishes.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn publish(&mut self, key: &PeerKey, state: u32) -> Result<(), StepError> {
        self.region_of(key)?.publish(key.peer, state)
    }

    /// The peer left or died: its epoch moves, its state is 0, its bells are
    /// dropped, the others are told.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn gone(&mut self, key: &PeerKey) -> Result<(), StepError> {
        self.region_of(key)?.gone(key.peer)?;
        self.counters.gone.bump();
        tracing::info!(
            region = key.region.as_str(),
            peer = key.peer.0,
            epoch = key.epoch,
            "switchboard: peer gone"
        );
        Ok(())
    }

    /// The next thing that this peer has to know, if any.
    ///
    /// # Errors
    /// [`StalePeer`].
    pub fn next_event(&mut self, key: &PeerKey) -> Result<Option<Event<B>>, StalePeer> {
        Ok(self.region_of(key)?.next_event(key.peer))
    }

    /// Gives every waiting event of a region to `tell`, with the peer that it is
    /// for. For a host that has all peers in its own process.
    pub fn tell_all(&mut self, region: &Name, mut tell: impl FnMut(PeerId, Event<B>)) {
        let Some(region) = self.regions.get_mut(region) else {
            return;
        };
        for peer in region.ids() {
            while let Some(event) = region.next_event(peer) {
                tell(peer, event);
            }
        }
    }

    /// The bell of `vector` of `to`, for a doorbell that `from` rang through its
    /// trapped register; `None` when there is no such vector or `from` may not
    /// ring.
    ///
    /// # Errors
    /// [`StalePeer`].
    pub fn bell(
        &mut self,
        from: &PeerKey,
        to: PeerId,
        vector: u16,
    ) -> Result<Option<&B>, StalePeer> {
        Ok(self.region_of(from)?.bell(from.peer, to, vector))
    }

    /// The tree that `portal top` and `portal inspect` show.
    pub fn inspect(&self) -> Node {
        let mut regions = Node::new();
        for (name, region) in &self.regions {
            regions.push(name.as_str().to_owned(), region.inspect());
        }
        let mut counters = Node::new();
        self.counters(&mut |name, count| counters.push(name, count));
        Node::new()
            .with("regions", regions)
            .with("counters", counters)
    }

    /// Calls `visit` with the name and value of every counter.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("admitted", self.counters.admitted.get());
        visit("refused", self.counters.refused.get());
        visit("gone", self.counters.gone.get());
        visit("stale", self.counters.stale.get());
    }
}
