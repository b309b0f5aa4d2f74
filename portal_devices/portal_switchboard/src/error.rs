//! Why the switchboard refuses. Each text names the thing, the value and the
//! limit.

use crate::PeerKey;
use hv_shmem::host_pages::HostError;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;

/// A region cannot be added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Another region has this name.
    #[error("region {region} is there already")]
    NameTaken {
        /// The name.
        region: Name,
    },
    /// No room for another.
    #[error("region {region} is one too many: the limit is {limit}")]
    Full {
        /// The name.
        region: Name,
        /// The limit.
        limit: usize,
    },
    /// No region has this name.
    #[error("there is no region {region}")]
    NoSuchRegion {
        /// The name.
        region: Name,
    },
    /// Peers are still there.
    #[error("region {region} has {peers} live peers")]
    InUse {
        /// The name.
        region: Name,
        /// How many.
        peers: usize,
    },
}

/// A peer cannot be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// No region has this name.
    #[error("there is no region {region}")]
    NoSuchRegion {
        /// The name.
        region: Name,
    },
    /// Every id is in use.
    #[error("region {region} is full: ids {first} to {last} are all in use")]
    Full {
        /// The region.
        region: Name,
        /// The lowest id that would be given.
        first: PeerId,
        /// The highest id.
        last: u16,
    },
    /// The id that was asked for does not exist.
    #[error("region {region} has no peer id {peer}: its ids end at {last}")]
    NoSuchId {
        /// The region.
        region: Name,
        /// The id.
        peer: PeerId,
        /// The highest id.
        last: u16,
    },
    /// The id that was asked for is in use.
    #[error("peer id {peer} of region {region} is in use by {by}")]
    IdTaken {
        /// The region.
        region: Name,
        /// The id.
        peer: PeerId,
        /// Who has it.
        by: Name,
    },
    /// The name is in use.
    #[error("peer {by} of region {region} is already called {name}")]
    NameTaken {
        /// The region.
        region: Name,
        /// The name.
        name: Name,
        /// Who has it.
        by: PeerId,
    },
    /// The region does not let this kind of peer in.
    #[error("region {region} does not admit a {kind:?}")]
    Kind {
        /// The region.
        region: Name,
        /// The kind.
        kind: PeerKind,
    },
    /// More rights than the region gives to this kind, or no right to read.
    #[error("region {region} gives a {kind:?} rights {limit:?}, {asked:?} were asked for")]
    Rights {
        /// The region.
        region: Name,
        /// The kind.
        kind: PeerKind,
        /// What was asked for.
        asked: Rights,
        /// The most that is given.
        limit: Rights,
    },
    /// Too many vectors for one peer.
    #[error("{asked} vectors were asked for in region {region}, the limit of a peer is {limit}")]
    Vectors {
        /// The region.
        region: Name,
        /// What was asked for.
        asked: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many vectors in the region.
    #[error("{asked} vectors were asked for in region {region}, its peers have {used} of {limit}")]
    VectorQuota {
        /// The region.
        region: Name,
        /// What was asked for.
        asked: usize,
        /// What is in use.
        used: usize,
        /// The limit.
        limit: usize,
    },
    /// Nobody with this id is expected back.
    #[error("no peer {peer} of region {region} is expected back in this life")]
    NotAway {
        /// The region.
        region: Name,
        /// The id.
        peer: PeerId,
    },
    /// The host pages refuse.
    #[error("region {region}: {error}")]
    Pages {
        /// The region.
        region: Name,
        /// Why.
        error: HostError,
    },
}

/// A key of a life that is over, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer {} of region {} does not live under epoch {}", key.peer, key.region, key.epoch)]
pub struct StalePeer {
    /// The key.
    pub key: PeerKey,
}

/// A peer cannot take this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The key is stale.
    #[error(transparent)]
    Stale(#[from] StalePeer),
    /// The life of a peer has no such step.
    #[error("peer {peer} is {from:?} and cannot become {to:?}")]
    Step {
        /// The peer.
        peer: PeerId,
        /// Its state.
        from: PeerState,
        /// The state asked for.
        to: PeerState,
    },
    /// The host pages refuse.
    #[error(transparent)]
    Pages(HostError),
}

impl From<HostError> for StepError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Step { peer, from, to } => StepError::Step { peer, from, to },
            other => StepError::Pages(other),
        }
    }
}
