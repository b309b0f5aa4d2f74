//! What can go wrong, by whose fault.

use hv_shmem::backing::BackingError;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::layout::PeerId;
use hv_shmem::peers::PeerError;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::PlaceError;
use hv_shmem::ring::RecvError;
use hv_shmem::ring::SendError;
use hv_shmem::wait::WaitError;
use portal_client::ClientError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Whose fault a [`GuestError`] is: what a program makes its exit code of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This machine lacks a device, a driver, a right or memory.
    Machine,
    /// The region is not there, not whole, or not open to this peer.
    Region,
    /// The other peer died, left, or started again.
    PeerLost,
    /// The other peer broke the rules.
    Misbehaviour,
    /// Nothing happened for longer than was allowed.
    Deadline,
}

/// What became of a peer that is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its program ended and said so.
    Left,
    /// The host ended its life: the machine or process is gone, its epoch has moved.
    Died,
    /// Another program took its place, in the same machine.
    StartedAgain,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::Died => "died: its epoch has moved on",
            Self::StartedAgain => "started again: another program has its place now",
        })
    }
}

/// Why something in this crate did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Os {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No carrier holds the region.
    #[error("not found: {wanted}; {seen}")]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// What is there.
        seen: String,
    },
    /// Two different regions answer to it.
    #[error("{wanted} stands for several regions: {seen}; name one by its UUID")]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// What is there.
        seen: String,
    },
    /// The memory cannot be mapped so that other machines see what is written.
    #[error("{path}: {why}")]
    NotShared {
        /// The carrier.
        path: PathBuf,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// A carrier that has no register with the own peer number.
    #[error("{carrier} does not tell this machine's peer number; give it (--peer N)")]
    NoPeerId {
        /// The carrier.
        carrier: String,
    },
    /// The host has no such peer.
    #[error(
        "the host has not admitted peer {peer} to region {region}: its entry is {state}; \
         ask it to, or take another number"
    )]
    NotAdmitted {
        /// Number.
        peer: PeerId,
        /// Name of the region.
        region: String,
        /// State of the entry.
        state: String,
    },
    /// Doorbells cannot be heard in the way that was asked for.
    #[error("{device}: no interrupts through {driver}: {why}")]
    NoInterrupts {
        /// The device.
        device: String,
        /// The driver.
        driver: &'static str,
        /// Why not, and what to do.
        why: String,
    },
    /// The peer to talk to is not known by that name or number.
    #[error("region {region} has no peer {wanted}: {seen}")]
    NoSuchPeer {
        /// Name of the region.
        region: String,
        /// What was looked for.
        wanted: String,
        /// Who is there.
        seen: String,
    },
    /// The other peer is not there any more.
    #[error("peer {peer} {how}")]
    PeerLost {
        /// Number.
        peer: PeerId,
        /// What became of it.
        how: Loss,
    },
    /// The host took the region over or ended this peer's life in it.
    #[error("this peer ({peer}) is no part of the region any more: {how}")]
    Evicted {
        /// The own number.
        peer: PeerId,
        /// What happened.
        how: &'static str,
    },
    /// The other peer offers something else.
    #[error("peer {peer} runs service {found}; {expected} was expected")]
    OtherService {
        /// Number.
        peer: PeerId,
        /// Service found.
        found: u32,
        /// Service expected.
        expected: u32,
    },
    /// The other peer sent what no honest one sends.
    #[error("peer {peer} broke the protocol: {what}")]
    Misbehaved {
        /// Number.
        peer: PeerId,
        /// What it did.
        what: String,
    },
    /// Nothing happened for too long.
    #[error("waited for {what}: nothing within {} s", limit.as_secs_f32())]
    TooSlow {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The switchboard.
    #[error(transparent)]
    Switchboard(#[from] ClientError),
    /// The memory.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A ring's shape.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A doorbell.
    #[error(transparent)]
    Doorbell(#[from] DoorbellError),
    /// Nothing can be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Nothing can be received.
    #[error(transparent)]
    Receive(#[from] RecvError),
    /// Waiting failed.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

impl From<PeerError> for GuestError {
    fn from(e: PeerError) -> Self {
        Self::Region(e.into())
    }
}

impl GuestError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Os { .. } | Self::NotShared { .. } | Self::NoInterrupts { .. } => Fault::Machine,
            Self::Doorbell(_) | Self::Wait(WaitError::Bell(_)) => Fault::Machine,
            Self::Backing(BackingError::Io { .. } | BackingError::Granule { .. }) => Fault::Machine,
            Self::Switchboard(e) if !matches!(e, ClientError::Refused(_)) => Fault::Machine,
            Self::PeerLost { .. } | Self::Evicted { .. } => Fault::PeerLost,
            Self::Region(RegionError::NotLive { .. } | RegionError::StaleEpoch { .. }) => {
                Fault::PeerLost
            }
            Self::Ring(e) if e.is_misbehaviour() => Fault::Misbehaviour,
            Self::Misbehaved { .. } | Self::OtherService { .. } => Fault::Misbehaviour,
            Self::Send(_) | Self::Receive(_) | Self::Wait(_) => Fault::Misbehaviour,
            Self::TooSlow { .. } => Fault::Deadline,
            _ => Fault::Region,
        }
    }

    pub(crate) fn os(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Os { what, path, source }
    }
}
