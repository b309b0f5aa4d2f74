//! What can go wrong in a job, and the status that the host is told.

use core::fmt;
use hv_shmem::Violation;
use hv_shmem::arena::ArenaError;
use hv_shmem::arena::ReturnError;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::PlaceError;
use hv_shmem::ring::RecvError;
use hv_shmem::ring::SendError;
use hv_shmem::span::SpanError;
use hv_shmem::wait::WaitError;
use portal_agent_abi::Status;
use portal_agent_abi::command::BadCommand;
use portal_warp::pci::PciError;
use portal_warp::region::AttachError;

/// Why a job, or the start, failed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// No progress within the idle limit.
    TimedOut,
    /// The other peer broke a ring's rules.
    Violation(Violation),
    /// The other peer broke the rules above the rings.
    Protocol {
        /// What was wrong.
        what: &'static str,
        /// The value found.
        found: u64,
        /// The value expected, or the limit.
        expected: u64,
    },
    /// The host's command.
    Command(BadCommand),
    /// The region or a peer in it.
    Region(RegionError),
    /// A ring could not be made or accepted.
    Ring(RingError),
    /// A ring's shape.
    Place(PlaceError),
    /// The partition's regions.
    Attach(AttachError),
    /// The ivshmem function.
    Pci(PciError),
    /// The partition has no doorbells.
    NoDoorbell,
    /// A span that another peer named.
    Span(SpanError),
    /// The own arena.
    Arena(ArenaError),
    /// RAM of the partition is too small.
    NoRam,
    /// The other peer died or left.
    PeerGone,
}

impl Failure {
    /// What the host is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::TimedOut => Status::TimedOut,
            Self::Violation(_) | Self::Protocol { .. } => Status::Violation,
            Self::Ring(e) if e.is_misbehaviour() => Status::Violation,
            Self::Command(_) => Status::BadCommand,
            Self::Ring(
                RingError::DirectoryFull { .. }
                | RingError::StorageFull { .. }
                | RingError::CommonFull { .. },
            )
            | Self::Arena(_)
            | Self::NoRam => Status::NoRoom,
            Self::Region(RegionError::NotLive { .. } | RegionError::StaleEpoch { .. })
            | Self::PeerGone => Status::PeerGone,
            Self::Region(_) | Self::Ring(_) | Self::Place(_) | Self::Attach(_) => Status::Region,
            Self::Pci(_) | Self::NoDoorbell => Status::NoDoorbell,
            Self::Span(_) => Status::Span,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(e) => e.fmt(f),
            Self::Protocol {
                what,
                found,
                expected,
            } => write!(f, "{what} is {found:#x}, {expected:#x} was expected"),
            Self::Command(e) => e.fmt(f),
            Self::Region(e) => e.fmt(f),
            Self::Ring(e) => e.fmt(f),
            Self::Place(e) => e.fmt(f),
            Self::Attach(e) => e.fmt(f),
            Self::Pci(e) => e.fmt(f),
            Self::Span(e) => e.fmt(f),
            Self::Arena(e) => e.fmt(f),
            Self::TimedOut | Self::NoDoorbell | Self::NoRam | Self::PeerGone => {
                f.write_str(self.status().text())
            }
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    Violation => Violation,
    BadCommand => Command,
    RegionError => Region,
    RingError => Ring,
    PlaceError => Place,
    AttachError => Attach,
    PciError => Pci,
    SpanError => Span,
    ArenaError => Arena,
}

impl From<RecvError> for Failure {
    fn from(RecvError::Poisoned(violation): RecvError) -> Self {
        Self::Violation(violation)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Poisoned(violation) => Self::Violation(violation),
            // Senders here ask for space first and send what fits.
            SendError::Full => Self::Protocol {
                what: "space in the ring",
                found: 0,
                expected: 1,
            },
            SendError::TooLong { len, limit } => Self::Protocol {
                what: "message length",
                found: len as u64,
                expected: limit as u64,
            },
        }
    }
}

impl From<ReturnError> for Failure {
    fn from(error: ReturnError) -> Self {
        match error {
            ReturnError::Ring(error) => error.into(),
            ReturnError::OtherOwner { section, owner } => Self::Protocol {
                what: "the span's section",
                found: section.into(),
                expected: owner.0.into(),
            },
            ReturnError::NotABlock { offset } => Self::Span(SpanError::NotABlock { offset }),
        }
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Poisoned(violation) => Self::Violation(violation),
            WaitError::Bell(_) => Self::NoDoorbell,
        }
    }
}
