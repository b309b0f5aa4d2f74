//! Rings between two agents: made, accepted, given their cursors, and closed by
//! their sender when the job ends, so that the next job starts from fresh ones.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;

/// Pause between two looks into another peer's directory, in microseconds: the
/// other side gets its command at about the same time.
const LOOK_US: u64 = 20;
/// Looks before the agent sleeps between them.
const EAGER_LOOKS: u32 = 500;
/// First and longest sleep between two looks, in microseconds; it doubles. Many
/// agents may wait for one host at the same time.
const SLEEP_US: core::ops::RangeInclusive<u64> = 200..=25_600;

impl Agent<'_> {
    /// Makes a ring to `to`. The peer accepts it in its own time.
    pub(crate) fn open(
        &mut self,
        to: PeerId,
        id: u32,
        kind: RingKind,
        layout: RingLayout,
        (slot_size, slots): (u32, u32),
    ) -> Result<RingPlace<RawMem>, Failure> {
        Ok(self.own.create_ring(RingSpec {
            id,
            to,
            kind,
            layout,
            slot_size,
            slots,
        })?)
    }

    /// Accepts a ring of `from`, once it is there.
    pub(crate) fn accept(
        &mut self,
        from: PeerId,
        id: u32,
        idle: &Idle,
    ) -> Result<RingPlace<RawMem>, Failure> {
        self.accept_with(from, idle, |own, from| own.accept_ring(from, id))
    }

    /// Accepts what `accept` accepts from `from`, once it is there.
    pub(crate) fn accept_with<T>(
        &mut self,
        from: PeerId,
        idle: &Idle,
        accept: impl Fn(&mut OwnSection<RawMem>, PeerId) -> Result<T, RingError>,
    ) -> Result<T, Failure> {
        self.poll(idle, |agent| match accept(&mut agent.own, from) {
            Ok(place) => Ok(Some(place)),
            Err(error) if comes_later(&error) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// The cursor line of a ring that was opened, once the peer has accepted it.
    pub(crate) fn cursor(&mut self, to: PeerId, id: u32, idle: &Idle) -> Result<RawMem, Failure> {
        self.poll(idle, |agent| match agent.own.cursor(to, id) {
            Ok(found) => Ok(found),
            Err(error) if comes_later(&error) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// Takes ring `id` to `peer` out of the directory. Rings that were accepted
    /// stay there, so that this instance is never accepted twice and its sender
    /// finds the cursor however late it looks; the next instance takes the place.
    pub(crate) fn close(&mut self, peer: PeerId, id: u32) {
        self.own.close_ring(peer, id);
    }

    /// Looks, now and then, until there is something or the limit is reached.
    fn poll<T>(
        &mut self,
        idle: &Idle,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let clock = self.machine.clock();
        let mut looks = 0;
        let mut sleep = *SLEEP_US.start();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            idle.check()?;
            let next = clock.after(LOOK_US);
            if looks < EAGER_LOOKS {
                looks += 1;
                while !next.passed() {
                    core::hint::spin_loop();
                }
            } else {
                self.machine.sleep(clock.after(sleep));
                sleep = (2 * sleep).min(*SLEEP_US.end());
            }
        }
    }
}

/// Whether the peer is just not that far yet.
fn comes_later(error: &RingError) -> bool {
    matches!(
        error,
        RingError::NotThere { .. }
            | RingError::Accepted { .. }
            | RingError::Region(
                RegionError::NotReady { .. }
                    | RegionError::StaleEpoch { .. }
                    | RegionError::NotLive { .. }
            )
    )
}
