//! What device and thread share, and how they say and learn it.

use super::Identity;
use super::changes::Standing;
use super::changes::Told;
use super::memory::Memory;
use crate::ClientError;
use crate::JoinOptions;
use crate::Neighbour;
use crate::Peer;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use portal_device::Counter;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;

pub(super) type Bell = Arc<EventFd>;
pub(super) type Listener = Arc<dyn Fn() + Send + Sync>;

/// How to get to the switchboard, the first time and again.
pub(super) struct Way {
    pub(super) switchboard: PathBuf,
    pub(super) options: JoinOptions,
}

/// What is known, for whoever asks.
pub(super) struct Tables {
    pub(super) epoch: u32,
    pub(super) lives: Counter,
    pub(super) standing: Standing,
    pub(super) left: bool,
    pub(super) error: Option<String>,
    /// A new life is to begin as soon as the switchboard is there.
    pub(super) anew: bool,
    /// A life has begun, and who is there has to be looked at.
    pub(super) sat_down: bool,
    /// What was said in this life.
    pub(super) ready: bool,
    pub(super) published: Option<u32>,
    pub(super) own: Vec<Bell>,
    pub(super) passed_on: Vec<Bell>,
    pub(super) rung_by_hop: Counter,
    pub(super) others: BTreeMap<PeerId, Neighbour<Bell>>,
    /// Counts how often `standing` or `others` may have become another.
    pub(super) version: u64,
}

/// What device and thread share.
pub(super) struct Shared {
    pub(super) region: String,
    pub(super) identity: Identity,
    pub(super) memory: Memory,
    /// `None`: nobody serves the region, and there is no thread.
    pub(super) way: Option<Way>,
    pub(super) peer: Mutex<Option<Peer>>,
    pub(super) tables: RwLock<Tables>,
    pub(super) told: Mutex<Told>,
    pub(super) listener: Mutex<Option<Listener>>,
    pub(super) wake: EventFd,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn event() -> Result<EventFd, ClientError> {
    EventFd::new().map_err(|error| ClientError::NoEvent(error.to_string()))
}

impl Shared {
    pub(super) fn new(
        region: String,
        identity: Identity,
        memory: Memory,
        way: Option<Way>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            region,
            identity,
            memory,
            way,
            peer: Mutex::default(),
            tables: RwLock::new(Tables {
                epoch: 0,
                lives: Counter::default(),
                standing: Standing::Attached,
                left: false,
                error: None,
                anew: false,
                sat_down: false,
                ready: false,
                published: None,
                own: Vec::new(),
                passed_on: Vec::new(),
                rung_by_hop: Counter::default(),
                others: BTreeMap::new(),
                version: 0,
            }),
            told: Mutex::default(),
            listener: Mutex::default(),
            wake: event()?,
        })
    }

    pub(super) fn tables<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn tell(&self) {
        let listener = locked(&self.listener).clone();
        if let Some(listener) = listener {
            listener();
        }
    }

    /// Says something of this life. What a switchboard that is away does not hear, the
    /// peer says when it is back, or the next life begins with it.
    pub(super) fn say(
        &self,
        word: impl FnOnce(&mut Peer) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut place = locked(&self.peer);
        let Some(peer) = place.as_mut() else {
            let later = self.way.is_none() || self.tables(|tables| tables.anew);
            return if later {
                Ok(())
            } else {
                Err(ClientError::Lost)
            };
        };
        let done = word(peer);
        drop(place);
        // Others may have been heard of before the answer.
        let _ = self.wake.ring();
        match done {
            Err(error) if error.is_passing() => Ok(()),
            done => done,
        }
    }

    pub(super) fn sit_down(&self, place: &mut Option<Peer>, peer: Peer) {
        self.change(|tables| {
            tables.epoch = peer.epoch();
            tables.sat_down = true;
            tables.own = peer.bells().to_vec();
            tables.passed_on = peer.passed_on().to_vec();
        });
        *place = Some(peer);
    }

    pub(super) fn lose(&self, error: &ClientError) {
        self.change(|tables| {
            tables.standing = Standing::Lost;
            tables.error = Some(error.to_string());
            tables.others.clear();
            tables.version += 1;
        });
    }
}
