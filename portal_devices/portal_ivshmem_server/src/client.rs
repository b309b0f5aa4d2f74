//! What one client has been sent, and what comes next.
//!
//! ```text
//!   version ─▶ id ─▶ memory ─▶ others ─▶ own ─▶ settled
//!                              (joined,  (own   (joined,
//!                               gone)    bells)  gone)
//! ```
//!
//! Where departures are silent, a client is told of each id once: its bells stay
//! the same whoever has it later. A peer without vectors is not told of: the
//! protocol has no word for it.
//!
//! Nothing is queued: what others did is in the switchboard's inbox of this peer
//! (bounded by the number of ids), and only the bells of the one peer that is
//! being announced are held here. So a client that reads slowly, or never, costs
//! the same as one that reads.

use crate::Departures;
use crate::Ids;
use crate::Message;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use portal_switchboard::Event;
use portal_switchboard::PeerKey;
use portal_switchboard::Switchboard;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Version,
    Id,
    Memory,
    /// `announced` peers so far.
    Others {
        announced: u16,
    },
    Own,
    Settled,
}

/// The bells of one peer on their way to one client.
#[derive(Debug)]
struct Train<B> {
    peer: PeerId,
    bells: std::vec::IntoIter<B>,
}

/// Whether a newcomer has read what it was welcomed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// Not known to be read; over at this time.
    Until(Duration),
    /// Read.
    Taken,
}

#[derive(Debug)]
pub(crate) struct Client<B> {
    pub(crate) key: PeerKey,
    pub(crate) welcome: Welcome,
    /// Since when a message could not be sent to it.
    pub(crate) blocked: Option<Duration>,
    stage: Stage,
    train: Option<Train<B>>,
    own: Vec<B>,
    departures: Departures,
    /// Ids whose bells it has.
    told: BTreeSet<PeerId>,
    next: Option<Message<B>>,
}

impl<B: Clone> Client<B> {
    pub(crate) fn new(key: PeerKey, own: Vec<B>, departures: Departures, until: Duration) -> Self {
        Self {
            key,
            welcome: Welcome::Until(until),
            blocked: None,
            stage: Stage::Version,
            train: None,
            own,
            departures,
            told: BTreeSet::new(),
            next: None,
        }
    }

    /// The message that is to be sent now; the same one until [`Self::sent`].
    pub(crate) fn next<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        ids: &Ids<B>,
    ) -> Option<&Message<B>> {
        if self.next.is_none() {
            self.next = self.compute(board, ids);
        }
        self.next.as_ref()
    }

    pub(crate) fn sent(&mut self) {
        self.next = None;
        self.blocked = None;
    }

    /// Whether everything up to its own bells has been sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.stage == Stage::Settled && self.next.is_none() && self.train.is_none()
    }

    fn compute<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        ids: &Ids<B>,
    ) -> Option<Message<B>> {
        loop {
            if let Some(train) = &mut self.train {
                if let Some(bell) = train.bells.next() {
                    return Some(Message::bell(train.peer, bell));
                }
                self.train = None;
            }
            match self.stage {
                Stage::Version => {
                    self.stage = Stage::Id;
                    return Some(Message::version());
                }
                Stage::Id => {
                    self.stage = Stage::Memory;
                    return Some(Message::id(self.key.peer));
                }
                Stage::Memory => {
                    self.stage = Stage::Others { announced: 0 };
                    return Some(Message::memory());
                }
                Stage::Others { announced } => {
                    // Others that come and go all the time cannot keep a
                    // newcomer waiting for its own bells.
                    let limit = board.layout(&self.key.region).map_or(0, |l| l.max_peers);
                    let event = if announced < limit {
                        board.next_event(&self.key).ok().flatten()
                    } else {
                        None
                    };
                    let Some(event) = event else {
                        self.stage = Stage::Own;
                        self.train = Some(Train {
                            peer: self.key.peer,
                            bells: std::mem::take(&mut self.own).into_iter(),
                        });
                        continue;
                    };
                    self.stage = Stage::Others {
                        announced: announced.saturating_add(1),
                    };
                    if let Some(message) = self.take(event, ids) {
                        return Some(message);
                    }
                }
                Stage::Own => self.stage = Stage::Settled,
                Stage::Settled => {
                    let event = board.next_event(&self.key).ok().flatten()?;
                    if let Some(message) = self.take(event, ids) {
                        return Some(message);
                    }
                }
            }
        }
    }

    /// Makes the train or the message of an event. The protocol has no words for
    /// readiness.
    fn take(&mut self, event: Event<B>, ids: &Ids<B>) -> Option<Message<B>> {
        match event {
            Event::Joined { peer, bells, .. } => {
                let bells = match (self.departures, ids.bells.get(&peer)) {
                    (Departures::Silent, Some(bells)) => bells.clone(),
                    _ => bells,
                };
                // A peer that is away is told when it is back, with its bells.
                if !bells.is_empty() && self.told.insert(peer) {
                    let bells = bells.into_iter();
                    self.train = Some(Train { peer, bells });
                }
                None
            }
            Event::Gone { peer, .. } => match self.departures {
                Departures::Silent => None,
                Departures::Announced => self.told.remove(&peer).then(|| Message::id(peer)),
            },
            Event::Ready { .. } | Event::Quiescing { .. } => None,
        }
    }
}
