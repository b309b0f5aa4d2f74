//! The peer table: 64 bytes a peer in host pages, written by the host.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0x00 | 4 | sequence: odd while the host writes the entry |
//! | 0x04 | 2 | peer number, equal to the entry's index |
//! | 0x06 | 1 | kind ([`PeerKind`]) |
//! | 0x07 | 1 | zero |
//! | 0x08 | 4 | epoch, from 1; moves when the peer dies |
//! | 0x0c | 4 | state ([`PeerState`]); epoch and state are one aligned u64 |
//! | 0x10 | 4 | rights ([`Rights`]) |
//! | 0x14 | 4 | doorbell vectors that the peer receives on |
//! | 0x18 | 32 | name, NUL-padded; all zero while free |
//! | 0x38 | 8 | zero |
//!
//! The state table (one u32 a peer at offset 0 of the region) is another thing:
//! there the host keeps what a peer's ivshmem v2 state register holds, a value
//! of that peer's own protocol ([`HostPages::publish`]). It is 0 for a peer that
//! is not there, was reset, or has published nothing.
//!
//! [`HostPages::publish`]: crate::host_pages::HostPages::publish
//!
//! ```text
//! Free --admit--> Joining --peer's section is ready--> Ready <--> Quiescing
//!   ^                |                                  |            |
//!   '---- admit of a successor: same entry, epoch + 1 --- Dead <-- retire
//! ```

use crate::claim::BadClaim;
use crate::claim::Fields;
use crate::layout::Layout;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::name::Name;
use crate::sequenced;
use crate::sequenced::HalfWritten;
use crate::sequenced::RECORD;

pub(crate) mod at {
    pub(crate) const ID: u64 = 0x04;
    pub(crate) const KIND: u64 = 0x06;
    pub(crate) const EPOCH: u64 = 0x08;
    pub(crate) const STATE: u64 = 0x0c;
    pub(crate) const RIGHTS: u64 = 0x10;
    pub(crate) const VECTORS: u64 = 0x14;
    pub(crate) const NAME: u64 = 0x18;
}

/// Epoch of a peer that was never replaced.
pub const FIRST_EPOCH: u32 = 1;

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PeerKind {
    /// A process on the host.
    HostProcess = 1,
    /// A virtual machine.
    Partition = 2,
}

impl PeerKind {
    /// The kind with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::HostProcess),
            2 => Some(Self::Partition),
            _ => None,
        }
    }

    /// Its name in inspect trees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostProcess => "host process",
            Self::Partition => "partition",
        }
    }
}

/// Where a peer is in its life. The number is what the peer table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PeerState {
    /// Nobody has this number.
    Free = 0,
    /// Admitted; its section is not formatted yet.
    Joining = 1,
    /// Its section may be used.
    Ready = 2,
    /// Takes no new work, finishes what it has.
    Quiescing = 3,
    /// Gone; its epoch has moved on, so everything it wrote is stale.
    Dead = 4,
}

impl PeerState {
    /// The state with this number.
    pub const fn from_u32(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Free),
            1 => Some(Self::Joining),
            2 => Some(Self::Ready),
            3 => Some(Self::Quiescing),
            4 => Some(Self::Dead),
            _ => None,
        }
    }

    /// Whether a peer in this state may be moved to `next` (the picture in the
    /// module's documentation).
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Free | Self::Dead, Self::Joining)
                | (Self::Joining | Self::Quiescing, Self::Ready)
                | (Self::Joining | Self::Ready, Self::Quiescing)
                | (
                    Self::Joining | Self::Ready | Self::Quiescing,
                    Self::Dead | Self::Free
                )
                | (Self::Dead, Self::Free)
        )
    }

    /// Whether spans and rings of a peer in this state may be used.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Joining | Self::Ready | Self::Quiescing)
    }
}

/// What a peer may do, as a bit set. Mappings and doorbell routes enforce it;
/// the table tells the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rights(u32);

impl Rights {
    /// Reads the region.
    pub const READ: Self = Self(1 << 0);
    /// Writes its own section.
    pub const WRITE_OWN: Self = Self(1 << 1);
    /// Writes the common section.
    pub const WRITE_COMMON: Self = Self(1 << 2);
    /// Rings other peers' doorbells.
    pub const RING: Self = Self(1 << 3);
    /// All of the above.
    pub const ALL: Self = Self(0xf);
    /// Reads only.
    pub const OBSERVER: Self = Self::READ;

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every right of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits as the table holds them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The rights in the set, by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (Self::READ, "read"),
            (Self::WRITE_OWN, "write-own"),
            (Self::WRITE_COMMON, "write-common"),
            (Self::RING, "ring"),
        ]
        .into_iter()
        .filter(move |(right, _)| self.has(*right))
        .map(|(_, name)| name)
    }

    /// The set with these bits; `None` when there are others than rights.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }
}

/// A checked, private copy of one entry of the peer table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRecord {
    /// Number of the peer.
    pub id: PeerId,
    /// Epoch: the number of the peer's current (or, when dead, next) life.
    pub epoch: u32,
    /// State.
    pub state: PeerState,
    /// Who it is; `None` while the entry is free.
    pub who: Option<PeerIdentity>,
}

/// Who holds an entry of the peer table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Name.
    pub name: Name,
    /// Kind.
    pub kind: PeerKind,
    /// Rights.
    pub rights: Rights,
    /// Number of doorbell vectors that it receives on.
    pub vectors: u32,
}

/// Why an entry of the peer table could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The region has no such peer.
    #[error("peer {peer} does not exist; this region has peers 0 to {last}")]
    NoSuchPeer {
        /// Number asked for.
        peer: PeerId,
        /// Last number there is.
        last: u16,
    },
    /// The entry stayed half-written: the host died while it wrote, or writes
    /// all the time.
    #[error("the entry of peer {peer} stays half-written (sequence {sequence})")]
    HalfWritten {
        /// Number asked for.
        peer: PeerId,
        /// Sequence last seen.
        sequence: u32,
    },
    /// A field that cannot be meant.
    #[error("entry of peer {peer}: {claim}")]
    Entry {
        /// Number asked for.
        peer: PeerId,
        /// The field.
        claim: BadClaim,
    },
}

/// The 64 bytes of an entry as they stood at one moment.
pub(crate) struct ClaimedEntry(pub(crate) [u8; RECORD]);

impl ClaimedEntry {
    /// Copies the entry of `peer` (one that the layout has).
    pub(crate) fn copy<M: SharedMem>(
        host: &M,
        layout: &Layout,
        peer: PeerId,
    ) -> Result<Self, PeerError> {
        match sequenced::copy(host, layout.peer_at(peer)) {
            Ok(bytes) => Ok(Self(bytes)),
            Err(HalfWritten(sequence)) => Err(PeerError::HalfWritten { peer, sequence }),
        }
    }

    /// Checks the copy.
    pub(crate) fn check(&self, peer: PeerId) -> Result<PeerRecord, BadClaim> {
        let f = Fields(&self.0);
        let bad = |what, at, value: u64, limit: u64| BadClaim {
            what,
            at,
            value,
            limit,
        };
        BadClaim::exactly("peer number", at::ID, f.u16(at::ID).into(), peer.0.into())?;
        let epoch = f.u32(at::EPOCH);
        if epoch < FIRST_EPOCH {
            return Err(bad("epoch", at::EPOCH, epoch.into(), FIRST_EPOCH.into()));
        }
        let raw = f.u32(at::STATE);
        let state = PeerState::from_u32(raw)
            .ok_or_else(|| bad("peer state", at::STATE, raw.into(), PeerState::Dead as u64))?;
        if state == PeerState::Free {
            return Ok(PeerRecord {
                id: peer,
                epoch,
                state,
                who: None,
            });
        }
        let raw = f.u8(at::KIND);
        let kind = PeerKind::from_u8(raw).ok_or_else(|| {
            bad(
                "peer kind",
                at::KIND,
                raw.into(),
                PeerKind::Partition as u64,
            )
        })?;
        let raw = f.u32(at::RIGHTS);
        let rights = Rights::from_bits(raw)
            .ok_or_else(|| bad("peer rights", at::RIGHTS, raw.into(), Rights::ALL.0.into()))?;
        let name = Name::from_padded(&f.bytes(at::NAME))
            .map_err(|_| bad("peer name", at::NAME, f.u64(at::NAME), 0))?;
        Ok(PeerRecord {
            id: peer,
            epoch,
            state,
            who: Some(PeerIdentity {
                name,
                kind,
                rights,
                vectors: f.u32(at::VECTORS),
            }),
        })
    }
}

/// Reads one entry: copied once, then checked.
///
/// # Errors
/// [`PeerError`].
pub(crate) fn read<M: SharedMem>(
    host: &M,
    layout: &Layout,
    peer: PeerId,
) -> Result<PeerRecord, PeerError> {
    if !layout.has(peer) {
        return Err(PeerError::NoSuchPeer {
            peer,
            last: layout.max_peers - 1,
        });
    }
    ClaimedEntry::copy(host, layout, peer)?
        .check(peer)
        .map_err(|claim| PeerError::Entry { peer, claim })
}

/// Epoch and state of a peer that the layout has, in one load. The state is the
/// raw number.
#[inline]
pub(crate) fn life<M: SharedMem>(host: &M, layout: &Layout, peer: PeerId) -> (u32, u32) {
    // Pairs with the release stores of whole words in `sequenced::rewrite`.
    let word = host.load_u64(layout.peer_at(peer) + at::EPOCH, Ordering::Acquire);
    (word as u32, (word >> 32) as u32)
}
