//! One's own output section: the only place where a peer writes.
//!
//! Works from private copies (division, bump marks), so that on a flat carrier
//! a hostile peer that scribbles here can spoil data but not lead this side out
//! of bounds. Entries of the own directory are read back as claims for the same
//! reason.
//!
//! Ring storage is handed out from the bottom up. A closed ring leaves its
//! storage with its entry, and a new ring of the same storage size takes both.

use crate::claim::BadClaim;
use crate::directory;
use crate::directory::ClaimedEntry;
use crate::directory::ConsumerEntry;
use crate::directory::Entry;
use crate::directory::ProducerEntry;
use crate::directory::RingKey;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::region;
use crate::region::PortalRegion;
use crate::region::RegionError;
use crate::region::RingError;
use crate::ring::CURSOR_BYTES;
use crate::ring::PRODUCED_BYTES;
use crate::ring::RingKind;
use crate::ring::RingLayout;
use crate::ring::RingPlace;
use crate::section::RING_ALIGN;
use crate::section::SECTION_HEADER_BYTES;
use crate::section::SectionConfig;
use crate::section::SectionHeader;
use crate::section::SectionState;
use crate::section::at;

/// A ring that this peer wants to send on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    /// Ring id: the receiver asks for the same one.
    pub id: u32,
    /// Receiver.
    pub to: PeerId,
    /// What the ring carries.
    pub kind: RingKind,
    /// How its slots are laid out.
    pub layout: RingLayout,
    /// Bytes a slot, a power of two.
    pub slot_size: u32,
    /// Number of slots, a power of two.
    pub slots: u32,
}

/// A peer's own section.
#[derive(Debug)]
pub struct OwnSection<M> {
    region: PortalRegion<M>,
    mem: M,
    header: SectionHeader,
    rings_used: u64,
    common_used: u64,
    heartbeat: u64,
    /// Rings made so far: instances are unique within an epoch (2^32 of them), also
    /// when several processes of one partition format the section in turn.
    instances: u32,
    recovered: bool,
    arena_taken: bool,
}

impl<M: SharedMem> OwnSection<M> {
    /// Formats the section. The state is stored last.
    pub(crate) fn format(
        region: PortalRegion<M>,
        me: PeerId,
        epoch: u32,
        config: &SectionConfig,
    ) -> Result<Self, RegionError> {
        let mem = region.section_mem(me)?;
        let generation = region.header().generation;
        let header = SectionHeader::divide(me, epoch, generation, mem.len(), config)?;
        let instances = instances_of(&mem, me, epoch);
        let mut this = Self::over(region, mem, header, false);
        this.instances = instances;
        this.write_clean();
        Ok(this)
    }

    /// Keeps the division and the arena that are there; clears the rings.
    pub(crate) fn recover(
        region: PortalRegion<M>,
        me: PeerId,
        epoch: u32,
    ) -> Result<Self, RegionError> {
        let mem = region.section_mem(me)?;
        let old = region::copy_section(&mem, me, mem.len())
            .map_err(|claim| RegionError::Section { peer: me, claim })?;
        let header = SectionHeader {
            epoch,
            generation: region.header().generation,
            ..old
        };
        let instances = instances_of(&mem, me, epoch);
        let mut this = Self::over(region, mem, header, true);
        this.instances = instances;
        this.write_clean();
        Ok(this)
    }

    fn over(region: PortalRegion<M>, mem: M, header: SectionHeader, recovered: bool) -> Self {
        Self {
            region,
            mem,
            header,
            rings_used: 0,
            common_used: 0,
            heartbeat: 0,
            instances: 0,
            recovered,
            arena_taken: false,
        }
    }

    /// Header, empty directory, no rings. Old rings are matched by epoch, so
    /// nobody reads what is being cleared.
    fn write_clean(&self) {
        let empty = SectionState::Empty as u32;
        self.mem.store_u32(at::STATE, empty, Ordering::Relaxed);
        // Whoever sees a changed byte sees the state; pairs with the acquire
        // fence in `PortalRegion::section`.
        self.mem.fence(Ordering::Release);
        self.mem.zero(0, SECTION_HEADER_BYTES);
        for index in 0..self.header.entries {
            directory::write(&self.mem, &self.header, index, &Entry::Free);
        }
        self.mem.write(0, &self.header.to_bytes());
        self.mem
            .store_u32(at::INSTANCES, self.instances, Ordering::Relaxed);
        self.set_state(SectionState::Ready);
    }

    /// This peer's number.
    pub const fn me(&self) -> PeerId {
        self.header.peer
    }

    /// The epoch that this peer lives under.
    pub const fn epoch(&self) -> u32 {
        self.header.epoch
    }

    /// How the section is divided.
    pub const fn header(&self) -> &SectionHeader {
        &self.header
    }

    /// The region.
    pub const fn region(&self) -> &PortalRegion<M> {
        &self.region
    }

    /// The section's memory.
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// Whether the arena is a predecessor's that was kept.
    pub const fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Whether the host still counts this peer as alive in this epoch. A peer
    /// that finds `false` was declared dead: somebody else may own the section
    /// by now, and it must not write any more.
    pub fn is_current(&self) -> bool {
        self.region.live_epoch(self.me()) == Some(self.epoch())
    }

    /// The arena's memory; what lies in it is `arena`'s business.
    ///
    /// # Errors
    /// None that a peer can cause.
    pub fn arena_mem(&self) -> Result<M, RegionError> {
        Ok(self
            .mem
            .window(self.header.arena, self.header.arena_bytes)?)
    }

    /// Notes that the arena is in use; says whether it was already.
    pub(crate) fn take_arena(&mut self) -> bool {
        core::mem::replace(&mut self.arena_taken, true)
    }

    /// Counts the heartbeat up.
    pub fn beat(&mut self) {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        self.mem
            .store_u64(at::HEARTBEAT, self.heartbeat, Ordering::Relaxed);
    }

    /// Tells the others how the section is.
    pub fn set_state(&self, state: SectionState) {
        // Pairs with the acquire load in `PortalRegion::section`.
        self.mem
            .store_u32(at::STATE, state as u32, Ordering::Release);
    }

    /// Ring storage left, in bytes.
    pub const fn ring_bytes_left(&self) -> u64 {
        self.header.ring_bytes - self.rings_used
    }

    /// Makes (or renews) a ring that this peer sends on and puts it into the
    /// directory. A ring with the same receiver and id is replaced: messages
    /// in it are gone, and the receiver has to accept the new instance. That is
    /// what a sender does when the receiver died and a successor joined. A ring
    /// of another storage size leaves the old storage behind in a closed entry.
    ///
    /// # Errors
    /// [`RingError::Place`] for an impossible shape, `DirectoryFull`,
    /// `StorageFull`, `CommonFull`, and [`RingError::Region`] when the receiver
    /// does not exist.
    pub fn create_ring(&mut self, spec: RingSpec) -> Result<RingPlace<M>, RingError> {
        let bytes = spec.layout.storage_bytes(spec.slot_size, spec.slots)?;
        // A receiver that has not joined yet will live under this epoch.
        let peer_epoch = self.region.peer(spec.to).map_err(RegionError::from)?.epoch;
        let in_common = spec.layout == RingLayout::InPlace;
        let key = RingKey {
            peer: spec.to,
            id: spec.id,
            epoch: self.epoch(),
            peer_epoch,
        };
        let (index, reuse) = self.vacancy(&spec, bytes, in_common)?;
        let (line, storage) = match reuse {
            Some(places) => places,
            None => self.reserve(bytes, in_common)?,
        };
        self.instances = self.instances.wrapping_add(1);
        self.mem
            .store_u32(at::INSTANCES, self.instances, Ordering::Relaxed);
        let entry = ProducerEntry {
            key,
            instance: self.instances,
            kind: spec.kind,
            layout: spec.layout,
            slot_size: spec.slot_size,
            slots: spec.slots,
            line,
            in_common,
            storage,
        };
        let place = self.region.place(self.me(), &entry, None)?;
        // Nobody finds the ring while its slots are cleared.
        directory::write(&self.mem, &self.header, index, &Entry::Closed(entry));
        place.produced.zero(0, PRODUCED_BYTES);
        place.storage.zero(0, bytes);
        directory::write(&self.mem, &self.header, index, &Entry::Producer(entry));
        Ok(place)
    }

    /// The receiver's cursor line of a ring made by [`Self::create_ring`], once
    /// the receiver has accepted it; for the sender's `set_cursor`.
    ///
    /// # Errors
    /// [`RingError::NotThere`] when this peer has no such ring (for the
    /// receiver's current epoch), [`RingError::Claim`], [`RingError::Region`].
    pub fn cursor(&self, to: PeerId, id: u32) -> Result<Option<M>, RingError> {
        let epoch = self.region.expect_live(to)?;
        let Some((_, ring)) = self.find_producer(to, id, Some(epoch)) else {
            return Err(RingError::NotThere {
                from: self.me(),
                to,
                id,
                epoch,
            });
        };
        match self.region.consumer_entry(to, &ring, self.me()) {
            Ok(Some(found)) => Ok(Some(self.region.line(to, found.line)?)),
            Ok(None) => Ok(None),
            Err(RingError::Region(
                RegionError::NotReady { .. } | RegionError::StaleEpoch { .. },
            )) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Accepts a ring that `from` sends on: checks its entry and registers a
    /// cursor line of this peer's own.
    ///
    /// # Errors
    /// [`RingError::NotThere`] when the sender has not made it yet (ask again),
    /// [`RingError::Accepted`] when this instance was accepted before,
    /// [`RingError::Claim`] when the entry cannot be meant, `DirectoryFull`,
    /// `StorageFull`, [`RingError::Region`].
    pub fn accept_ring(&mut self, from: PeerId, id: u32) -> Result<RingPlace<M>, RingError> {
        let (me, epoch) = (self.me(), self.epoch());
        let Some(ring) = self.region.producer_entry(from, me, epoch, id)? else {
            return Err(RingError::NotThere {
                from,
                to: me,
                id,
                epoch,
            });
        };
        let mut vacant = None;
        for (index, entry) in self.entries() {
            match entry {
                Entry::Consumer(old) if old.key.peer == from && old.key.id == id => {
                    let same =
                        old.instance == ring.instance && old.key.peer_epoch == ring.key.epoch;
                    if same {
                        return Err(RingError::Accepted { from, id });
                    }
                    vacant = Some((index, Some(old.line)));
                    break;
                }
                Entry::ClosedConsumer(old) if !matches!(vacant, Some((_, Some(_)))) => {
                    vacant = Some((index, Some(old.line)));
                }
                Entry::Free if vacant.is_none() => vacant = Some((index, None)),
                _ => {}
            }
        }
        let limit = self.header.entries;
        let (index, line) = vacant.ok_or(RingError::DirectoryFull { limit })?;
        let line = match line {
            Some(line) => line,
            None => self.reserve_own(CURSOR_BYTES)?,
        };
        let entry = ConsumerEntry {
            key: RingKey {
                peer: from,
                id,
                epoch,
                peer_epoch: ring.key.epoch,
            },
            instance: ring.instance,
            line,
        };
        let cursor = self.region.line(me, line)?;
        let closed = Entry::ClosedConsumer(entry);
        directory::write(&self.mem, &self.header, index, &closed);
        cursor.zero(0, CURSOR_BYTES);
        let place = self.region.place(from, &ring, Some(cursor))?;
        directory::write(&self.mem, &self.header, index, &Entry::Consumer(entry));
        Ok(place)
    }

    /// Takes a ring that this peer sends on out of the directory. Its storage
    /// serves a later ring of the same size. The sender value must be dropped
    /// first. Does nothing when there is no such ring.
    pub fn close_ring(&mut self, to: PeerId, id: u32) {
        if let Some((index, ring)) = self.find_producer(to, id, None) {
            directory::write(&self.mem, &self.header, index, &Entry::Closed(ring));
        }
    }

    /// Takes a ring that this peer receives on out of the directory. Does
    /// nothing when it was not accepted.
    pub fn leave_ring(&mut self, from: PeerId, id: u32) {
        let found = self.entries().find_map(|(index, entry)| match entry {
            Entry::Consumer(e) if e.key.peer == from && e.key.id == id => Some((index, e)),
            _ => None,
        });
        if let Some((index, e)) = found {
            directory::write(&self.mem, &self.header, index, &Entry::ClosedConsumer(e));
        }
    }

    /// The entries of the own directory that can be meant.
    fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        (0..self.header.entries).filter_map(|index| {
            let claimed: Result<ClaimedEntry, BadClaim> =
                ClaimedEntry::copy(&self.mem, &self.header, index);
            let entry = claimed.ok()?.check(&self.header, self.region.layout());
            Some((index, entry.ok()?))
        })
    }

    fn find_producer(
        &self,
        to: PeerId,
        id: u32,
        peer_epoch: Option<u32>,
    ) -> Option<(u32, ProducerEntry)> {
        self.entries().find_map(|(index, entry)| match entry {
            Entry::Producer(e)
                if e.key.peer == to
                    && e.key.id == id
                    && peer_epoch.is_none_or(|epoch| epoch == e.key.peer_epoch) =>
            {
                Some((index, e))
            }
            _ => None,
        })
    }

    /// Finds an entry for a ring: its index, and line and slots where an earlier
    /// ring left fitting ones.
    fn vacancy(
        &self,
        spec: &RingSpec,
        bytes: u64,
        in_common: bool,
    ) -> Result<(u32, Option<(u64, u64)>), RingError> {
        let fits = |e: &ProducerEntry| {
            e.in_common == in_common && e.layout.storage_bytes(e.slot_size, e.slots) == Ok(bytes)
        };
        let mut vacant = None;
        for (index, entry) in self.entries() {
            let (Entry::Producer(old) | Entry::Closed(old)) = entry else {
                if entry == Entry::Free && vacant.is_none() {
                    vacant = Some((index, None));
                }
                continue;
            };
            let same = old.key.peer == spec.to && old.key.id == spec.id;
            if matches!(entry, Entry::Producer(_)) {
                if same && !fits(&old) {
                    // Its storage stays with a closed entry.
                    directory::write(&self.mem, &self.header, index, &Entry::Closed(old));
                } else if same {
                    vacant = Some((index, Some((old.line, old.storage))));
                }
            } else if fits(&old) && !matches!(vacant, Some((_, Some(_)))) {
                vacant = Some((index, Some((old.line, old.storage))));
            }
        }
        let limit = self.header.entries;
        vacant.ok_or(RingError::DirectoryFull { limit })
    }

    /// Reserves a producer's line and slots.
    fn reserve(&mut self, bytes: u64, in_common: bool) -> Result<(u64, u64), RingError> {
        if !in_common {
            let line = self.reserve_own(PRODUCED_BYTES + bytes)?;
            return Ok((line, line + PRODUCED_BYTES));
        }
        let slice = directory::common_slice(self.region.layout(), self.me());
        let need = bytes.next_multiple_of(RING_ALIGN);
        let left = slice.end - slice.start - self.common_used;
        if need > left {
            return Err(RingError::CommonFull { need, left });
        }
        let line = self.reserve_own(PRODUCED_BYTES)?;
        let storage = slice.start + self.common_used;
        self.common_used += need;
        self.mem
            .store_u64(at::COMMON_USED, self.common_used, Ordering::Relaxed);
        Ok((line, storage))
    }

    /// Reserves bytes of the own ring storage.
    fn reserve_own(&mut self, bytes: u64) -> Result<u64, RingError> {
        let need = bytes.next_multiple_of(RING_ALIGN);
        let left = self.ring_bytes_left();
        if need > left {
            return Err(RingError::StorageFull { need, left });
        }
        let at = self.header.rings + self.rings_used;
        self.rings_used += need;
        self.mem
            .store_u64(at::RINGS_USED, self.rings_used, Ordering::Relaxed);
        Ok(at)
    }
}

/// Rings made so far in this epoch by whoever formatted the section before. Another
/// peer that scribbles here changes a number, not a place.
fn instances_of<M: SharedMem>(mem: &M, me: PeerId, epoch: u32) -> u32 {
    match region::copy_section(mem, me, mem.len()) {
        Ok(old) if old.epoch == epoch => mem.load_u32(at::INSTANCES, Ordering::Relaxed),
        _ => 0,
    }
}
