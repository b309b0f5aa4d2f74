//! What the daemon has to say while it runs, and how much of it.

use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use rustix::io::Errno;
use std::fmt;
use std::time::Duration;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A client is a peer now.
    Joined {
        /// Its region.
        region: Name,
        /// Its id.
        peer: PeerId,
    },
    /// A client is a peer no more.
    Left {
        /// Its region.
        region: Name,
        /// The id that it had.
        peer: PeerId,
        /// Why.
        why: String,
    },
    /// A peer lived when the last daemon ended, and may come back.
    Expected {
        /// Its region.
        region: Name,
        /// Its id.
        peer: PeerId,
    },
    /// What became of a peer could not be kept: after a restart it will be as it was.
    NotKept {
        /// Its region.
        region: Name,
        /// What the kernel said.
        errno: Errno,
    },
    /// A region's memory is in files, which have no seals.
    Unsealed {
        /// The region.
        region: Name,
    },
    /// A peer is back after a restart.
    Returned {
        /// Its region.
        region: Name,
        /// Its id.
        peer: PeerId,
    },
    /// The Portal socket could not be made in its default place.
    NoPortalSocket {
        /// Why.
        reason: String,
    },
    /// A client was not let in; the others go on.
    Refused {
        /// The region that it wanted, as far as that is known.
        region: Option<Name>,
        /// Why.
        reason: String,
    },
    /// Not every peer that the regions have room for can come at once.
    FewFiles {
        /// Fds that all peers take.
        need: u64,
        /// Fds that this process may have.
        limit: u64,
    },
    /// Some notices were not given, because there were too many.
    Omitted {
        /// How many.
        count: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { region, peer } => write!(f, "{region}: peer {peer} joined"),
            Self::Left { region, peer, why } => write!(f, "{region}: peer {peer} is gone: {why}"),
            Self::Expected { region, peer } => write!(f, "{region}: peer {peer} is expected back"),
            Self::NotKept { region, errno } => {
                write!(f, "{region}: the state cannot be written: {errno}")
            }
            Self::Unsealed { region } => write!(
                f,
                "{region}: its memory is in files, which have no seals: a peer that may write can \
                 truncate it under the others; a service manager that stores descriptors keeps \
                 sealed memory"
            ),
            Self::Returned { region, peer } => write!(f, "{region}: peer {peer} is back"),
            Self::NoPortalSocket { reason } => write!(
                f,
                "no Portal socket: {reason}; name another with --portal-socket PATH"
            ),
            Self::Refused {
                region: Some(region),
                reason,
            } => write!(f, "{region}: client refused: {reason}"),
            Self::Refused {
                region: None,
                reason,
            } => write!(f, "portal socket: client refused: {reason}"),
            Self::FewFiles { need, limit } => write!(
                f,
                "with every peer there, {need} file descriptors are needed and the limit is {limit}: \
                 late ones will be refused; raise it (ulimit -n, LimitNOFILE=)"
            ),
            Self::Omitted { count } => write!(f, "{count} more notices left out"),
        }
    }
}

/// Notices in one window: what a person can follow.
const BURST: u64 = 40;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// Lets [`BURST`] notices through in each [`WINDOW`]: clients cause them, and
/// must not fill a disk.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    window: Duration,
    given: u64,
    omitted: u64,
}

impl Budget {
    /// How many were left out before this one, or `None` when this one is too.
    pub(crate) fn admit(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.window) >= WINDOW {
            self.window = now;
            self.given = 0;
        }
        if self.given >= BURST {
            self.omitted = self.omitted.saturating_add(1);
            return None;
        }
        self.given += 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_notices_is_cut_and_counted() {
        let mut budget = Budget::default();
        let mut at = |seconds| budget.admit(Duration::from_secs(seconds));
        let given = (0..1000).filter(|_| at(1).is_some()).count();
        assert_eq!(given as u64, BURST);
        assert_eq!(at(11), Some(1000 - BURST));
        assert_eq!(at(12), Some(0));
    }
}
