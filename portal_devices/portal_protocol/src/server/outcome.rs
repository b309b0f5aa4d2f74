//! What becomes of messages and of clients.

use crate::Malformed;
use portal_switchboard::PeerKey;
use std::time::Duration;

/// Why a client, or a peer that was expected, lost its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// It closed its end, or died.
    #[error("its connection ended")]
    Closed,
    /// It left.
    #[error("it left")]
    Left,
    /// It sent what is no message.
    #[error("it broke the protocol: {0}")]
    Broke(Malformed),
    /// It sent a request before the answer to the last one, or one that has to
    /// come first.
    #[error("it spoke out of turn")]
    OutOfTurn,
    /// It did not say hello.
    #[error("it did not say hello within {} ms", limit.as_millis())]
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// It let a message wait.
    #[error("it let a message wait for {} ms", limit.as_millis())]
    Stalled {
        /// How long it had.
        limit: Duration,
    },
    /// It had no place, and others came.
    #[error("it was no peer, and others came")]
    Displaced,
    /// It did not come back after a restart.
    #[error("it did not come back within {} ms", limit.as_millis())]
    Away {
        /// How long it had.
        limit: Duration,
    },
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing that others can see.
    Quiet,
    /// A peer was let in.
    Joined(PeerKey),
    /// A peer came back.
    Returned(PeerKey),
    /// A peer took a step: the others have something to be told.
    Stepped(PeerKey),
    /// A peer left.
    Left(PeerKey),
}

/// A client that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The life that is over, if it was a peer.
    pub key: Option<PeerKey>,
    /// Why.
    pub why: Lost,
}
