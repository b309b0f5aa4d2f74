//! Whether the other side of a link is still the one that was met.
//!
//! Distrusted: the other side. A wait for it looks at the host's pages every
//! [`LOOK`], so that its death ends the wait whatever it wrote.

use super::LINK_RING;
use crate::Attachment;
use crate::GuestError;
use crate::Loss;
use hv_shmem::layout::PeerId;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::section::SectionState;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::Source;
use hv_shmem::wait::Waited;
use hv_shmem::wait::Waiter;
use std::time::Duration;

/// How often a side that waits looks whether the other one is still there.
const LOOK: Duration = Duration::from_millis(50);

/// The other side, as this one knew it when the link came up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    pub(super) peer: PeerId,
    pub(super) epoch: u32,
}

impl Watch {
    /// Whether the other side is still the one that was met.
    pub(super) fn check(&self, at: &Attachment) -> Result<(), GuestError> {
        at.check()?;
        let peer = self.peer;
        let lost = |how| Err(GuestError::PeerLost { peer, how });
        if at.region().live_epoch(peer) != Some(self.epoch) {
            return lost(Loss::Died);
        }
        match at.region().find_ring(peer, at.me(), LINK_RING) {
            Ok(Some(place)) if place.cursor.is_some() => Ok(()),
            Ok(_) => lost(Loss::StartedAgain),
            Err(RingError::Region(RegionError::NotReady { state, .. })) => match state {
                SectionState::Closed => lost(Loss::Left),
                _ => lost(Loss::StartedAgain),
            },
            Err(RingError::Region(
                RegionError::StaleEpoch { .. } | RegionError::NotLive { .. },
            )) => lost(Loss::Died),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn wait(
        &self,
        at: &Attachment,
        waiter: &mut Waiter<MonotonicClock>,
        source: &mut impl Source,
        what: &str,
        stall: Duration,
    ) -> Result<(), GuestError> {
        let mut left = stall;
        loop {
            let slice = left.min(LOOK);
            if waiter.wait(source, &at.bell, Some(slice))? == Waited::Ready {
                return Ok(());
            }
            if let Err(lost) = self.check(at) {
                // What it said before it went still counts.
                return if source.ready().is_ok_and(|ready| ready) {
                    Ok(())
                } else {
                    Err(lost)
                };
            }
            left = left.saturating_sub(slice);
            if left.is_zero() {
                return Err(GuestError::TooSlow {
                    what: format!("{what} (peer {})", self.peer),
                    limit: stall,
                });
            }
        }
    }
}
