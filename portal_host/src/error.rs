//! What can go wrong between the host and an agent.

use hv_shmem::arena::ArenaError;
use hv_shmem::arena::ReturnFault;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::layout::PeerId;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::PlaceError;
use hv_shmem::ring::RecvError;
use hv_shmem::ring::SendError;
use hv_shmem::span::SpanError;
use portal_agent_abi::Status;
use portal_vmm::Outcome;
use portal_vmm::VmmError;
use std::time::Duration;

/// A failure of the host's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A partition, or a region for partitions.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// A device could not be made.
    #[error("cannot make the partition's device: {0}")]
    Device(String),
    /// A partition ended early.
    #[error("partition {partition:?} {outcome}")]
    Stopped {
        /// Its name.
        partition: String,
        /// How it ended.
        outcome: Box<Outcome>,
    },
    /// The region, or a peer's part in it.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A ring could not be made or found.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A ring cannot be used.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The host's arena.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A doorbell could not be rung or heard.
    #[error(transparent)]
    Doorbell(#[from] DoorbellError),
    /// The host was never told of this agent.
    #[error("peer {0} is no agent of this controller")]
    NoSuchAgent(PeerId),
    /// Nothing came within the limit.
    #[error("agent {agent}: {what} took longer than {limit:?}")]
    TooSlow {
        /// The agent.
        agent: PeerId,
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The partition ended while something was expected of it.
    #[error("agent {agent}: its partition ended while {what} was expected")]
    Ended {
        /// The agent.
        agent: PeerId,
        /// What was waited for.
        what: &'static str,
    },
    /// The agent could not be reached: its command ring is full or broken.
    #[error("agent {agent}: {source}")]
    Send {
        /// The agent.
        agent: PeerId,
        /// Why.
        source: SendError,
    },
    /// The agent broke a ring's rules.
    #[error("agent {agent}: {source}")]
    Receive {
        /// The agent.
        agent: PeerId,
        /// How.
        source: RecvError,
    },
    /// The agent gave back what it did not hold.
    #[error("agent {agent}: {source}")]
    Returned {
        /// The agent.
        agent: PeerId,
        /// What it gave back.
        source: ReturnFault,
    },
    /// The agent answered something else than it was asked.
    #[error("agent {agent}: answer {found} instead of {expected}")]
    OutOfTurn {
        /// The agent.
        agent: PeerId,
        /// The number in its answer.
        found: u64,
        /// The number of the question.
        expected: u64,
    },
    /// The agent's results are not where it says.
    #[error("agent {agent}: its results do not resolve: {source}")]
    Results {
        /// The agent.
        agent: PeerId,
        /// Why.
        source: SpanError,
    },
    /// The command failed at the agent.
    #[error("agent {agent}: {}", status_text(*.status))]
    Command {
        /// The agent.
        agent: PeerId,
        /// What it said; a number that is no [`Status`] stands as it is.
        status: Result<Status, i32>,
    },
    /// The bytes to be streamed could not be read.
    #[error("cannot read what is to be sent: {0}")]
    Input(#[source] std::io::Error),
}

fn status_text(status: Result<Status, i32>) -> String {
    match status {
        Ok(status) => status.text().to_owned(),
        Err(number) => format!("unknown status {number}"),
    }
}
