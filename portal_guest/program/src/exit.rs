//! How the program ends: exit codes by kind of failure.

use portal_guest_linux::Fault;
use portal_guest_linux::GuestError;
use std::fmt;

/// The end of `portal-guest --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0   ok
  1   it ran and the result is bad (hashes differ)
  2   the command line is wrong
  3   an input or output file is wrong
  4   this machine lacks something: a device, a driver, a right
  5   the other peer died, left or started again; or this one was put out
  6   the region is not there, not whole, or not open to this peer
  7   nothing happened for longer than --patience or --stall
  8   the other peer broke the rules";

/// What kind of thing went wrong: the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It ran and the result is bad.
    Failed = 1,
    /// The command line is wrong in a way that its parser cannot see.
    Usage = 2,
    /// A file to send or to write.
    File = 3,
    /// This machine lacks something.
    Machine = 4,
    /// The other peer is gone.
    PeerLost = 5,
    /// The region.
    Region = 6,
    /// Nothing happened for too long.
    Deadline = 7,
    /// The other peer broke the rules.
    Misbehaviour = 8,
}

impl Kind {
    /// One word, for `--json`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::File => "file",
            Self::Machine => "machine",
            Self::PeerLost => "peer-lost",
            Self::Region => "region",
            Self::Deadline => "deadline",
            Self::Misbehaviour => "misbehaviour",
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Decides the exit code.
    pub(crate) kind: Kind,
    /// What is wrong, and what to do about it.
    pub(crate) what: String,
}

impl Failure {
    /// A failure of `kind`.
    pub(crate) fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self {
            kind,
            what: what.to_string(),
        }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let kind = match error.fault() {
            Fault::Machine => Kind::Machine,
            Fault::Region => Kind::Region,
            Fault::PeerLost => Kind::PeerLost,
            Fault::Misbehaviour => Kind::Misbehaviour,
            Fault::Deadline => Kind::Deadline,
        };
        Self::new(kind, error)
    }
}
