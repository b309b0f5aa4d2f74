//! A region as a peer sees it: attach, look at other peers, join, find rings.
//!
//! Distrusted: every other peer, and whoever wrote the bytes of a carrier that
//! does not enforce who writes what. The header is copied and checked once, at
//! attach; after that the layout is a private value and nothing in shared
//! memory can move a section. Another peer's section header and directory are
//! copied and checked at each use: they are its claims and may change.
//!
//! Left out: how the memory got here (`backing`, a BAR, a pmem device), and the
//! ring and arena protocols.

use crate::claim::BadClaim;
use crate::directory::ClaimedEntry;
use crate::directory::ConsumerEntry;
use crate::directory::Entry;
use crate::directory::ProducerEntry;
use crate::directory::RingKey;
use crate::directory::Role;
use crate::header::Header;
use crate::header::HeaderError;
use crate::layout::Layout;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use crate::own_section::OwnSection;
use crate::peers;
use crate::peers::PeerError;
use crate::peers::PeerRecord;
use crate::peers::PeerState;
use crate::ring::CURSOR_BYTES;
use crate::ring::PRODUCED_BYTES;
use crate::ring::PlaceError;
use crate::ring::RingPlace;
use crate::section;
use crate::section::STATIC_BYTES;
use crate::section::SectionConfig;
use crate::section::SectionConfigError;
use crate::section::SectionHeader;
use crate::section::SectionState;
use uuid::Uuid;

/// How often a section header that cannot be meant is copied again: its peer's
/// successor may be formatting it between two looks at its state.
const SECTION_READS: u32 = 16;

/// How to attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Never write: joining is refused. Also lets regions with unknown
    /// read-only-compatible features be read.
    pub read_only: bool,
    /// The region has to be this one.
    pub expect: Option<Uuid>,
}

/// Why a region, or a peer's part in it, cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The memory is shorter than the region in it says, or than any region.
    #[error("the memory has {have} bytes; the region takes {need}")]
    TooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The header cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Another region than the one expected.
    #[error("the memory holds region {found}; {expected} was expected")]
    OtherRegion {
        /// UUID found.
        found: Uuid,
        /// UUID expected.
        expected: Uuid,
    },
    /// Attached read-only, by choice or because of unknown features.
    #[error(
        "the region is attached read-only (unknown read-only-compatible features: {unknown:#x})"
    )]
    ReadOnly {
        /// Feature bits that this build does not know; 0 when by choice.
        unknown: u64,
    },
    /// The peer table.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer is not alive.
    #[error("peer {peer} is {state:?}")]
    NotLive {
        /// Number.
        peer: PeerId,
        /// Its state.
        state: PeerState,
    },
    /// The epoch given is not the peer's current one: somebody else holds the
    /// number by now, or the section is a predecessor's.
    #[error("peer {peer}: epoch {found}, but it lives in epoch {current}")]
    StaleEpoch {
        /// Number.
        peer: PeerId,
        /// Epoch given or found.
        found: u32,
        /// Its epoch by the peer table.
        current: u32,
    },
    /// The peer's section is not in use (yet, or any more).
    #[error("the section of peer {peer} is {state:?}")]
    NotReady {
        /// Number.
        peer: PeerId,
        /// State of its section.
        state: SectionState,
    },
    /// The peer's section holds what no honest peer writes.
    #[error("section of peer {peer}: {claim}")]
    Section {
        /// Number.
        peer: PeerId,
        /// The field.
        claim: BadClaim,
    },
    /// The section cannot be divided as asked.
    #[error(transparent)]
    Config(#[from] SectionConfigError),
    /// A part does not lie in the memory given. A bug of ours: the layout was
    /// checked against it.
    #[error(transparent)]
    Memory(#[from] OutOfBounds),
}

/// Why a ring cannot be created, found or accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The region or a peer in it.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The other peer's directory holds what no honest peer writes.
    #[error("directory of peer {peer}: {claim}")]
    Claim {
        /// Whose directory.
        peer: PeerId,
        /// The field.
        claim: BadClaim,
    },
    /// The shape asked for.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The sender has not made the ring (for this receiver's epoch) yet.
    #[error("peer {from} has no ring {id} for peer {to} in its epoch {epoch}")]
    NotThere {
        /// Sender.
        from: PeerId,
        /// Receiver.
        to: PeerId,
        /// Ring id.
        id: u32,
        /// The receiver's epoch.
        epoch: u32,
    },
    /// This instance of the ring was accepted before; its cursor may have moved.
    #[error("ring {id} of peer {from} was accepted before; the sender has to renew it")]
    Accepted {
        /// Sender.
        from: PeerId,
        /// Ring id.
        id: u32,
    },
    /// No entry left in one's own directory.
    #[error("all {limit} directory entries are in use")]
    DirectoryFull {
        /// Entries of the directory.
        limit: u32,
    },
    /// No ring storage left in one's own section.
    #[error("{need} bytes of ring storage needed, {left} are left")]
    StorageFull {
        /// Bytes needed.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// No room for an in-place ring in this peer's share of the common section.
    #[error("{need} bytes of this peer's share of the common section needed, {left} are left")]
    CommonFull {
        /// Bytes needed.
        need: u64,
        /// Bytes left.
        left: u64,
    },
}

impl RingError {
    /// Whether another peer (and not this side) is at fault: count it, leave
    /// that peer alone.
    pub const fn is_misbehaviour(&self) -> bool {
        matches!(
            self,
            Self::Claim { .. } | Self::Region(RegionError::Section { .. })
        )
    }
}

/// An attached region: memory, and a private, checked copy of its header.
#[derive(Debug, Clone)]
pub struct PortalRegion<M> {
    mem: M,
    header: Header,
    read_only: bool,
}

impl<M: SharedMem> PortalRegion<M> {
    /// Attaches to the region in `mem`, which starts with its first byte and
    /// may be longer than the region.
    ///
    /// # Errors
    /// [`RegionError::TooSmall`], [`RegionError::Header`],
    /// [`RegionError::OtherRegion`].
    pub fn attach(mem: M, options: AttachOptions) -> Result<Self, RegionError> {
        let header = Header::copy_from(&mem)?;
        let need = header.layout.size;
        if mem.len() < need {
            let have = mem.len();
            return Err(RegionError::TooSmall { need, have });
        }
        if let Some(expected) = options.expect
            && expected != header.uuid
        {
            return Err(RegionError::OtherRegion {
                found: header.uuid,
                expected,
            });
        }
        Ok(Self {
            mem: mem.window(0, need)?,
            read_only: options.read_only || !header.writable(),
            header,
        })
    }

    /// The header as it was when this side attached.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Where the parts lie.
    pub const fn layout(&self) -> &Layout {
        &self.header.layout
    }

    /// The whole region's memory.
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// The generation that the header holds now; another one than
    /// [`Header::generation`] says that a new host took the region over.
    ///
    /// # Errors
    /// [`RegionError::Header`] when the header is damaged by now.
    pub fn generation_now(&self) -> Result<u64, RegionError> {
        Ok(Header::copy_from(&self.mem)?.generation)
    }

    /// One entry of the peer table, copied and checked.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn peer(&self, peer: PeerId) -> Result<PeerRecord, PeerError> {
        peers::read(&self.mem, self.layout(), peer)
    }

    /// The epoch of a live peer, by one load; `None` when the peer does not
    /// exist or is not alive. What every use of a span or ring asks.
    #[inline]
    pub fn live_epoch(&self, peer: PeerId) -> Option<u32> {
        if !self.layout().has(peer) {
            return None;
        }
        let (epoch, state) = peers::life(&self.mem, self.layout(), peer);
        PeerState::from_u32(state)
            .filter(|s| s.is_live())
            .map(|_| epoch)
    }

    /// The output section of a peer.
    ///
    /// # Errors
    /// [`PeerError::NoSuchPeer`].
    pub fn section_mem(&self, peer: PeerId) -> Result<M, RegionError> {
        self.exists(peer)?;
        let at = self.layout().section(peer);
        Ok(self.mem.window(at.start, at.end - at.start)?)
    }

    /// The common section; empty when the region has none.
    pub fn common_mem(&self) -> Result<M, RegionError> {
        let at = &self.layout().common;
        Ok(self.mem.window(at.start, at.end - at.start)?)
    }

    /// The section header of a live peer: copied once, checked, of its current
    /// epoch, and ready.
    ///
    /// # Errors
    /// [`RegionError::NotLive`], [`RegionError::NotReady`],
    /// [`RegionError::StaleEpoch`], [`RegionError::Section`].
    pub fn section(&self, peer: PeerId) -> Result<SectionHeader, RegionError> {
        let epoch = self.expect_live(peer)?;
        let mem = self.section_mem(peer)?;
        let mut tries = SECTION_READS;
        let header = loop {
            section_in_use(&mem, peer)?;
            let copied = copy_section(&mem, peer, self.layout().section_size);
            // The copy comes before the second look at the state; pairs with
            // the release fence in `OwnSection`'s formatting.
            mem.fence(Ordering::Acquire);
            section_in_use(&mem, peer)?;
            match copied {
                Ok(header) => break header,
                Err(_) if tries > 0 => tries -= 1,
                Err(claim) => return Err(RegionError::Section { peer, claim }),
            }
        };
        if header.epoch != epoch {
            return Err(RegionError::StaleEpoch {
                peer,
                found: header.epoch,
                current: epoch,
            });
        }
        Ok(header)
    }

    /// The heartbeat of a peer, as it claims; two equal values some time apart
    /// mean that it hangs (or does not beat).
    ///
    /// # Errors
    /// [`PeerError::NoSuchPeer`].
    pub fn heartbeat(&self, peer: PeerId) -> Result<u64, RegionError> {
        let mem = self.section_mem(peer)?;
        Ok(mem.load_u64(section::at::HEARTBEAT, Ordering::Relaxed))
    }

    /// Takes over one's own section: formats it, empty directory, empty rings,
    /// empty arena, and says that it is ready. A successor of a dead peer does
    /// the same and starts clean.
    ///
    /// # Errors
    /// [`RegionError::StaleEpoch`] when `epoch` is not the one that the host
    /// admitted, [`RegionError::ReadOnly`], [`RegionError::NotLive`],
    /// [`RegionError::Config`].
    pub fn join(
        &self,
        me: PeerId,
        epoch: u32,
        config: SectionConfig,
    ) -> Result<OwnSection<M>, RegionError> {
        self.may_join(me, epoch)?;
        OwnSection::format(self.clone(), me, epoch, &config)
    }

    /// Takes over one's own section on a durable backing and keeps its arena:
    /// the predecessor's division stands, its rings are gone, the section lives
    /// under the new epoch. Falls to [`Self::join`] by the caller's choice when
    /// the section is damaged.
    ///
    /// # Errors
    /// As [`Self::join`], and [`RegionError::Section`] when what is there is
    /// not a section of this peer.
    pub fn recover(&self, me: PeerId, epoch: u32) -> Result<OwnSection<M>, RegionError> {
        self.may_join(me, epoch)?;
        OwnSection::recover(self.clone(), me, epoch)
    }

    /// Looks a ring up: from `from` to `to`, both alive, in their current
    /// epochs. The cursor is there when the receiver has accepted the ring.
    /// `None` when the sender has made no such ring.
    ///
    /// # Errors
    /// [`RingError::Claim`] when a matching entry cannot be meant,
    /// [`RingError::Region`] when a peer is not there.
    pub fn find_ring(
        &self,
        from: PeerId,
        to: PeerId,
        id: u32,
    ) -> Result<Option<RingPlace<M>>, RingError> {
        let to_epoch = self.expect_live(to)?;
        let Some(entry) = self.producer_entry(from, to, to_epoch, id)? else {
            return Ok(None);
        };
        let cursor = match self.consumer_entry(to, &entry, from) {
            Ok(found) => found.map(|c| self.line(to, c.line)).transpose()?,
            // A receiver that has not formatted its section has no cursor.
            Err(RingError::Region(
                RegionError::NotReady { .. } | RegionError::StaleEpoch { .. },
            )) => None,
            Err(e) => return Err(e),
        };
        Ok(Some(self.place(from, &entry, cursor)?))
    }

    /// The sender's half of a ring, checked, for receiver `to` in `to_epoch`.
    pub(crate) fn producer_entry(
        &self,
        from: PeerId,
        to: PeerId,
        to_epoch: u32,
        id: u32,
    ) -> Result<Option<ProducerEntry>, RingError> {
        let header = self.section(from)?;
        let key = RingKey {
            peer: to,
            id,
            epoch: header.epoch,
            peer_epoch: to_epoch,
        };
        match self.find_entry(&header, Role::Producer, key)? {
            Some(Entry::Producer(entry)) => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// The receiver's half of the ring that `ring` (an entry of `from`)
    /// describes, if the receiver has accepted that instance.
    pub(crate) fn consumer_entry(
        &self,
        to: PeerId,
        ring: &ProducerEntry,
        from: PeerId,
    ) -> Result<Option<ConsumerEntry>, RingError> {
        let header = self.section(to)?;
        let key = RingKey {
            peer: from,
            id: ring.key.id,
            epoch: header.epoch,
            peer_epoch: ring.key.epoch,
        };
        match self.find_entry(&header, Role::Consumer, key)? {
            Some(Entry::Consumer(entry)) if entry.instance == ring.instance => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// The first entry with this role and key; checked. At most
    /// [`section::MAX_DIRECTORY`] entries are looked at. Entries that are
    /// something else are not judged here (`check` does that).
    fn find_entry(
        &self,
        header: &SectionHeader,
        role: Role,
        key: RingKey,
    ) -> Result<Option<Entry>, RingError> {
        let peer = header.peer;
        let mem = self.section_mem(peer)?;
        for index in 0..header.entries {
            let Ok(entry) = ClaimedEntry::copy(&mem, header, index) else {
                // Being rewritten, or left so: not there for now.
                continue;
            };
            if entry.claims() == (Some(role), key) {
                let checked = entry.check(header, self.layout());
                return match checked {
                    Ok(entry) => Ok(Some(entry)),
                    Err(claim) => Err(RingError::Claim { peer, claim }),
                };
            }
        }
        Ok(None)
    }

    /// The memory of a ring, from checked halves.
    pub(crate) fn place(
        &self,
        from: PeerId,
        ring: &ProducerEntry,
        cursor: Option<M>,
    ) -> Result<RingPlace<M>, RingError> {
        let section = self.section_mem(from)?;
        let bytes = ring.layout.storage_bytes(ring.slot_size, ring.slots)?;
        let storage = if ring.in_common {
            self.common_mem()?.window(ring.storage, bytes)
        } else {
            section.window(ring.storage, bytes)
        };
        let produced = section.window(ring.line, PRODUCED_BYTES);
        Ok(RingPlace {
            storage: storage.map_err(RegionError::from)?,
            produced: produced.map_err(RegionError::from)?,
            cursor,
            slot_size: ring.slot_size,
            slots: ring.slots,
            kind: ring.kind,
            layout: ring.layout,
        })
    }

    /// A consumer's line, from a checked entry of `peer`.
    pub(crate) fn line(&self, peer: PeerId, at: u64) -> Result<M, RingError> {
        let section = self.section_mem(peer)?;
        Ok(section
            .window(at, CURSOR_BYTES)
            .map_err(RegionError::from)?)
    }

    /// The epoch of a peer that has to be alive.
    pub(crate) fn expect_live(&self, peer: PeerId) -> Result<u32, RegionError> {
        self.exists(peer)?;
        if let Some(epoch) = self.live_epoch(peer) {
            return Ok(epoch);
        }
        // The slow way, for the message.
        let state = self.peer(peer)?.state;
        Err(RegionError::NotLive { peer, state })
    }

    fn may_join(&self, me: PeerId, epoch: u32) -> Result<(), RegionError> {
        if self.read_only {
            let unknown = self.header.ro_compat & !crate::header::KNOWN_RO_COMPAT;
            return Err(RegionError::ReadOnly { unknown });
        }
        let current = self.expect_live(me)?;
        if current != epoch {
            return Err(RegionError::StaleEpoch {
                peer: me,
                found: epoch,
                current,
            });
        }
        Ok(())
    }

    fn exists(&self, peer: PeerId) -> Result<(), PeerError> {
        if self.layout().has(peer) {
            return Ok(());
        }
        Err(PeerError::NoSuchPeer {
            peer,
            last: self.layout().max_peers - 1,
        })
    }
}

/// Whether the peer says that its section may be used.
fn section_in_use<M: SharedMem>(mem: &M, peer: PeerId) -> Result<(), RegionError> {
    // Pairs with the release store at the end of `OwnSection`'s formatting.
    let state = mem.load_u32(section::at::STATE, Ordering::Acquire);
    match SectionState::from_u32(state) {
        Some(SectionState::Ready | SectionState::Quiescing) => Ok(()),
        Some(state) => Err(RegionError::NotReady { peer, state }),
        None => {
            let claim = BadClaim {
                what: "section state",
                at: section::at::STATE,
                value: state.into(),
                limit: SectionState::Closed as u64,
            };
            Err(RegionError::Section { peer, claim })
        }
    }
}

/// Copies the static part of a section header once and checks the copy.
pub(crate) fn copy_section<M: SharedMem>(
    section: &M,
    peer: PeerId,
    size: u64,
) -> Result<SectionHeader, BadClaim> {
    let mut bytes = [0; STATIC_BYTES];
    section.read(0, &mut bytes);
    SectionHeader::from_bytes(&bytes, peer, size)
}
