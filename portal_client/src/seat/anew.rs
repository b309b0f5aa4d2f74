//! A new life on the same seat.

use super::shared::Shared;
use super::shared::Way;
use super::shared::locked;
use crate::ClientError;
use crate::Connection;
use crate::Peer;
use crate::peer::Bells;
use hv_shmem::doorbell::Doorbell as _;
use std::mem::take;
use uuid::Uuid;

impl Shared {
    /// Ends this life and begins the next; `later`: when the switchboard is there, if it
    /// is away now.
    pub(super) fn begin_anew(&self, later: bool) -> Result<(), ClientError> {
        let Some(way) = &self.way else {
            return Ok(());
        };
        let mut place = locked(&self.peer);
        let said = self.change(|tables| (take(&mut tables.ready), tables.published.take()));
        let done = self.next_life(&mut place, way, later);
        if done.is_err() && place.is_some() {
            // The old life goes on.
            self.change(|tables| (tables.ready, tables.published) = said);
        }
        drop(place);
        // It hears who is there.
        let _ = self.wake.ring();
        done
    }

    /// The thread's part: what [`Self::begin_anew`] had to leave for later.
    pub(super) fn begin_anew_now(&self) {
        if let Some(way) = &self.way {
            // A failure is in the tables.
            let _ = self.next_life(&mut locked(&self.peer), way, true);
        }
    }

    fn next_life(
        &self,
        place: &mut Option<Peer>,
        way: &Way,
        later: bool,
    ) -> Result<(), ClientError> {
        let done = self.try_next_life(place, way);
        let again = later && matches!(&done, Err(error) if error.is_passing());
        self.change(|tables| tables.anew = again);
        match done {
            Err(_) if again => Ok(()),
            Err(error) => {
                if place.is_none() {
                    self.lose(&error);
                }
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn try_next_life(&self, place: &mut Option<Peer>, way: &Way) -> Result<(), ClientError> {
        if self.tables(|tables| tables.left) {
            return Err(ClientError::Left);
        }
        if let Some(old) = place.as_mut() {
            match give_up(old) {
                // Refused: it had no place any more.
                Ok(()) | Err(ClientError::Refused(_)) => *place = None,
                Err(error) => return Err(error),
            }
        }
        let mut options = way.options.clone().id(Some(self.identity.peer));
        let (own, ready, published) =
            self.tables(|tables| (tables.own.clone(), tables.ready, tables.published));
        if let Bells::Own(_) = options.bells {
            options.bells = Bells::Own(own);
        }
        let mut peer = Connection::open(&way.switchboard)?.join(&options)?;
        self.same_region(self.identity.region, peer.region_uuid())?;
        // What the switchboard does not hear any more, the peer says when it is back.
        if let Some(state) = published {
            let _ = peer.publish(state);
        }
        if ready {
            let _ = peer.ready();
        }
        self.change(|tables| tables.lives.bump());
        self.sit_down(place, peer);
        Ok(())
    }

    pub(super) fn same_region(&self, before: Uuid, now: Uuid) -> Result<(), ClientError> {
        if before == now {
            return Ok(());
        }
        Err(ClientError::OtherRegion {
            region: self.region.clone(),
            before,
            now,
        })
    }
}

/// Leaves. A switchboard that was restarted keeps the id for who had it, and so has to
/// be told by the one who had it.
fn give_up(old: &mut Peer) -> Result<(), ClientError> {
    if old.is_attached() {
        match old.say_leave() {
            Err(ClientError::Lost) => {}
            done => return done,
        }
    }
    old.reattach()?;
    old.say_leave()
}
