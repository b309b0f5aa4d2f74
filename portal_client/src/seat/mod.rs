//! A VMM's seat at a switchboard: a place in a region, and a thread that keeps it.
//!
//! A [`Peer`] has to be waited on by somebody. For a VMM that is this thread: it hears
//! of the other peers, and goes back to a switchboard that was restarted. A device asks
//! [`Seat::bell`] when it has a doorbell to ring, and [`Seat::changes`] what is new;
//! neither waits for anybody. Memory and doorbells do not pass the switchboard, so they
//! go on while it is away, and what is said meanwhile it hears when it is back.
//!
//! ```text
//!            begin_anew, resume
//!         ┌────────────────────────┐
//!         ▼                        │      refused
//!   join ─▶ attached ─ it is gone ─▶ away ────────▶ lost
//!         ▲   │                     │
//!         │   └ leave, drop ─▶ end  │ same id, same epoch
//!         └─────────────────────────┘
//! ```
//!
//! What is new is the difference between what is and what was told before. So nothing
//! queues up, however long a device does not ask.
//!
//! Trusted: the switchboard. The other peers are not, and nothing of what they write is
//! looked at here. Lock order: the peer, then the tables; none is held while the
//! listener is told.

mod anew;
mod changes;
mod inspect;
mod memory;
mod shared;
mod thread;

pub use changes::Change;
pub use changes::Standing;
pub use memory::Stretch;

use crate::ClientError;
use crate::Connection;
use crate::JoinOptions;
use crate::Neighbour;
use crate::Peer;
use hv_shmem::backing::Backing;
use hv_shmem::backing::View;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use memory::Memory;
use shared::Shared;
use shared::Tables;
use shared::Way;
use shared::event;
use shared::locked;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Whose seat it is, across a save and a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the region; nil for one that nobody serves.
    pub region: Uuid,
    /// The peer.
    pub peer: PeerId,
}

/// The seat. Dropping it is leaving.
pub struct Seat {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("region", &self.shared.region)
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

/// So many new events to hear on.
///
/// # Errors
/// [`ClientError::NoEvent`].
pub fn new_bells(count: u16) -> Result<Vec<Arc<EventFd>>, ClientError> {
    (0..count).map(|_| event().map(Arc::new)).collect()
}

impl Seat {
    /// Joins a region of the switchboard whose Portal socket is at `switchboard`, and
    /// starts the thread. Who is there already is known when this returns.
    ///
    /// # Errors
    /// As of [`Connection::join`]; [`ClientError::NoEvent`], [`ClientError::NoThread`].
    pub fn join(switchboard: &Path, options: &JoinOptions) -> Result<Self, ClientError> {
        let peer = Connection::open(switchboard)?.join(options)?;
        let identity = Identity {
            region: peer.region_uuid(),
            peer: peer.id(),
        };
        let memory = Memory::Served(peer.backing().clone(), peer.view());
        let way = Way {
            switchboard: switchboard.to_owned(),
            options: options.clone(),
        };
        let shared = Shared::new(options.region.to_string(), identity, memory, Some(way))?;
        shared.sit_down(&mut locked(&shared.peer), peer);
        shared.hear();
        let seat = Self {
            shared: Arc::new(shared),
        };
        thread::start(seat.shared.clone())?;
        Ok(seat)
    }

    /// A seat with nobody else: the region is `len` bytes of a file, and what is said
    /// is said to nobody. `name` is for people.
    ///
    /// # Errors
    /// [`ClientError::NoEvent`].
    pub fn of_file(name: &str, file: OwnedFd, len: u64) -> Result<Self, ClientError> {
        let identity = Identity {
            region: Uuid::nil(),
            peer: PeerId(0),
        };
        let shared = Shared::new(name.to_owned(), identity, Memory::File(file, len), None)?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Its peer id.
    pub fn id(&self) -> PeerId {
        self.shared.identity.peer
    }

    /// The epoch that it lives under; 0 where nobody counts them.
    pub fn epoch(&self) -> u32 {
        self.shared.tables(|tables| tables.epoch)
    }

    /// Whose seat it is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// How it stands with the switchboard; [`Standing::Attached`] where there is none.
    pub fn standing(&self) -> Standing {
        self.shared.tables(|tables| tables.standing)
    }

    /// Name of the region.
    pub fn region(&self) -> &str {
        &self.shared.region
    }

    /// Who writes what in the region; `None` for a file, which may hold anything.
    pub fn layout(&self) -> Option<&Layout> {
        self.backing().map(|backing| backing.layout())
    }

    /// Length of the region in bytes.
    pub fn region_len(&self) -> u64 {
        match &self.shared.memory {
            Memory::Served(backing, _) => backing.layout().size,
            Memory::File(_, len) => *len,
        }
    }

    /// The region's memory, as far as this peer may have it; `None` for a file.
    pub fn backing(&self) -> Option<&Arc<Backing>> {
        match &self.shared.memory {
            Memory::Served(backing, _) => Some(backing),
            Memory::File(..) => None,
        }
    }

    /// What this peer may write, as of [`Peer::view`].
    pub fn view(&self) -> View {
        match &self.shared.memory {
            Memory::Served(_, view) => *view,
            Memory::File(..) => View::OWNER,
        }
    }

    /// Descriptors for the bytes in `window` of the region, in order and without a gap.
    ///
    /// # Errors
    /// [`ClientError::Memory`], [`ClientError::Os`]: no descriptor is left.
    pub fn stretches(&self, window: std::ops::Range<u64>) -> Result<Vec<Stretch>, ClientError> {
        self.shared.memory.stretches(window)
    }

    /// The event on which `vector` of `peer` is heard, be it this peer itself.
    pub fn bell(&self, peer: PeerId, vector: u16) -> Option<Arc<EventFd>> {
        self.shared.tables(|tables| {
            let bells = match tables.others.get(&peer) {
                _ if peer == self.id() => &tables.own,
                known => &known?.bells,
            };
            bells.get(usize::from(vector)).cloned()
        })
    }

    /// The other peers.
    pub fn neighbours(&self) -> BTreeMap<PeerId, Neighbour<Arc<EventFd>>> {
        self.shared.tables(|tables| tables.others.clone())
    }

    /// What is new since the last call, in order: first who was there already. For one
    /// listener, which keeps the order of its calls.
    pub fn changes(&self) -> Vec<Change> {
        let mut told = locked(&self.shared.told);
        self.shared
            .tables(|tables| told.catch_up(tables.version, tables.standing, &tables.others))
    }

    /// From now on `listener` is called when [`Self::changes`] may have something, and
    /// once by this call. The seat's thread calls it and hears nothing meanwhile.
    pub fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        *locked(&self.shared.listener) = Some(Arc::new(listener));
        self.shared.tell();
    }

    /// Says that its section can be used, if it has not.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the reason; [`ClientError::Lost`] when the seat is.
    pub fn ready(&self) -> Result<(), ClientError> {
        let said = |tables: &mut Tables| std::mem::replace(&mut tables.ready, true);
        if self.shared.change(said) {
            return Ok(());
        }
        let done = self.shared.say(Peer::ready);
        self.shared.change(|tables| tables.ready = done.is_ok());
        done
    }

    /// Says that it takes no new work.
    ///
    /// # Errors
    /// As of [`Self::ready`].
    pub fn quiesce(&self) -> Result<(), ClientError> {
        self.shared.change(|tables| tables.ready = false);
        self.shared.say(Peer::quiesce)
    }

    /// It hears on these events from now on, as many as before: see [`Peer::hear_on`].
    ///
    /// # Errors
    /// As of [`Self::ready`].
    pub fn hear_on(&self, bells: Vec<Arc<EventFd>>) -> Result<(), ClientError> {
        self.shared.change(|tables| tables.own = bells.clone());
        self.shared.say(|peer| peer.hear_on(bells))
    }

    /// Its word in the state table of ivshmem v2 is there when this returns, so that a
    /// doorbell after it finds it.
    ///
    /// # Errors
    /// As of [`Self::ready`].
    pub fn publish(&self, state: u32) -> Result<(), ClientError> {
        self.shared.change(|tables| tables.published = Some(state));
        self.shared.say(|peer| peer.publish(state))
    }

    /// Whoever sits there begins a new life: the same region and id, a later epoch. The
    /// others are told that the old life is over. While the switchboard is away that is
    /// done when it is back.
    ///
    /// # Errors
    /// [`ClientError::OtherRegion`]; [`ClientError::Refused`]: the seat is lost.
    pub fn begin_anew(&self) -> Result<(), ClientError> {
        self.shared.begin_anew(true)
    }

    /// Goes on where a saved state left off: begins a new life in the region and as the
    /// peer that `saved` names.
    ///
    /// # Errors
    /// [`ClientError::OtherRegion`], [`ClientError::OtherPeer`]; [`ClientError::Connect`]
    /// or [`ClientError::Lost`] when the switchboard is away; [`ClientError::Refused`].
    pub fn resume(&self, saved: &Identity) -> Result<(), ClientError> {
        let shared = &*self.shared;
        shared.same_region(saved.region, shared.identity.region)?;
        if saved.peer != self.id() {
            return Err(ClientError::OtherPeer {
                region: shared.region.clone(),
                before: saved.peer,
                now: self.id(),
            });
        }
        shared.begin_anew(false)
    }

    /// Leaves, and knows that the switchboard knows.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub fn leave(&self) -> Result<(), ClientError> {
        let mut place = locked(&self.shared.peer);
        let peer = place.take();
        self.shared.change(|tables| tables.left = true);
        drop(place);
        let _ = self.shared.wake.ring();
        match peer.map_or(Ok(()), Peer::leave) {
            Err(error) if error.is_passing() => Ok(()),
            left => left,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Who cares why it could not leave calls `leave`.
        let _ = self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_stretch_of_any_window_and_has_nobody_to_tell() {
        let file = std::fs::File::open("/dev/null").expect("there is one");
        let seat = Seat::of_file("null", file.into(), 0x4000).expect("an event");
        let all = seat.stretches(0x1000..0x3000).expect("a descriptor");
        let [one] = &all[..] else { panic!("{all:?}") };
        assert_eq!((one.at, one.len, one.offset), (0, 0x2000, 0x1000));
        assert!(seat.stretches(0x4000..0x5000).expect("none").is_empty());
        assert!(seat.ready().is_ok() && seat.begin_anew().is_ok());
        assert!(seat.resume(&seat.identity()).is_ok());
        assert!(seat.bell(PeerId(0), 0).is_none() && seat.changes().is_empty());
    }
}
