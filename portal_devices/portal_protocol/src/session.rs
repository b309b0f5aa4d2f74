//! The client's end: what a client knows of the other peers, from the messages
//! that it gets, across restarts of the switchboard.
//!
//! After a restart the switchboard tells of everybody from the start. A session
//! compares that with what it knew: who is there under the same epoch goes on
//! unsaid, who is not is [`Event::Gone`]. So a restart in which nothing happened
//! is nothing to whoever uses the session.

use crate::Reply;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Something about another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there.
    Joined(PeerId),
    /// It has formatted its section.
    Ready(PeerId),
    /// It takes no new work.
    Quiescing(PeerId),
    /// The events to ring it by are there, or are others now.
    Bells(PeerId),
    /// Its life under this epoch is over.
    Gone(PeerId, u32),
}

/// Where another peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Let in.
    Joined,
    /// Its section may be used.
    Ready,
    /// It takes no new work.
    Quiescing,
}

impl Phase {
    /// Its name in inspect trees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Ready => "ready",
            Self::Quiescing => "quiescing",
        }
    }
}

/// Another peer of the region.
#[derive(Clone, Debug)]
pub struct Neighbour<B> {
    /// Its epoch.
    pub epoch: u32,
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: PeerKind,
    /// Where it is.
    pub phase: Phase,
    /// What it hears on, vector 0 first; empty while it is away, or when this
    /// peer may not ring.
    pub bells: Vec<B>,
    /// Whether the switchboard has told of it since the last (re)attach.
    confirmed: bool,
}

/// What a client knows.
#[derive(Debug)]
pub struct Session<B> {
    neighbours: BTreeMap<PeerId, Neighbour<B>>,
    events: VecDeque<Event>,
    current: bool,
}

impl<B> Default for Session<B> {
    fn default() -> Self {
        Self {
            neighbours: BTreeMap::new(),
            events: VecDeque::new(),
            current: false,
        }
    }
}

impl<B> Session<B> {
    /// The other peers.
    pub fn neighbours(&self) -> &BTreeMap<PeerId, Neighbour<B>> {
        &self.neighbours
    }

    /// Whether everybody who was there at the (re)attach has been told.
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// The connection is a new one: everybody will be told again.
    pub fn reconnected(&mut self) {
        self.current = false;
        for neighbour in self.neighbours.values_mut() {
            neighbour.confirmed = false;
        }
    }

    /// Takes in a message about others, with its bells. `false`: the message is
    /// about something else.
    pub fn hear(&mut self, reply: &Reply, bells: Vec<B>) -> bool {
        match *reply {
            Reply::Joined {
                peer,
                epoch,
                name,
                kind,
                ..
            } => self.joined(peer, epoch, name, kind, bells),
            Reply::Ready { peer } => self.enter(peer, Phase::Ready),
            Reply::Quiescing { peer } => self.enter(peer, Phase::Quiescing),
            Reply::Gone { peer, epoch } => self.gone(peer, epoch),
            Reply::Current => {
                let missing = |(peer, n): (&PeerId, &Neighbour<B>)| {
                    (!n.confirmed).then_some((*peer, n.epoch))
                };
                let missing: Vec<_> = self.neighbours.iter().filter_map(missing).collect();
                for (peer, epoch) in missing {
                    self.gone(peer, epoch);
                }
                self.current = true;
            }
            _ => return false,
        }
        true
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn joined(&mut self, peer: PeerId, epoch: u32, name: Name, kind: PeerKind, bells: Vec<B>) {
        match self.neighbours.get_mut(&peer) {
            Some(known) if known.epoch == epoch => {
                known.confirmed = true;
                // Who is away has no bells for the switchboard to pass on; those
                // that are known are still its own.
                if !bells.is_empty() {
                    known.bells = bells;
                    self.events.push_back(Event::Bells(peer));
                }
                return;
            }
            Some(known) => {
                let over = known.epoch;
                self.gone(peer, over);
            }
            None => {}
        }
        let neighbour = Neighbour {
            epoch,
            name,
            kind,
            phase: Phase::Joined,
            bells,
            confirmed: true,
        };
        self.neighbours.insert(peer, neighbour);
        self.events.push_back(Event::Joined(peer));
    }

    fn enter(&mut self, peer: PeerId, phase: Phase) {
        if let Some(known) = self.neighbours.get_mut(&peer)
            && known.phase != phase
        {
            known.phase = phase;
            self.events.push_back(match phase {
                Phase::Quiescing => Event::Quiescing(peer),
                Phase::Ready | Phase::Joined => Event::Ready(peer),
            });
        }
    }

    fn gone(&mut self, peer: PeerId, epoch: u32) {
        if self.neighbours.get(&peer).is_some_and(|n| n.epoch == epoch) {
            self.neighbours.remove(&peer);
            self.events.push_back(Event::Gone(peer, epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(peer: u16, epoch: u32) -> Reply {
        Reply::Joined {
            peer: PeerId(peer),
            epoch,
            name: Name::new("n").expect("a name"),
            kind: PeerKind::HostProcess,
            bells: 1,
        }
    }

    fn events(session: &mut Session<u32>) -> Vec<Event> {
        std::iter::from_fn(|| session.next_event()).collect()
    }

    #[test]
    fn a_restart_in_which_nothing_happened_is_nothing() {
        let mut session = Session::default();
        for reply in [
            joined(1, 1),
            Reply::Ready { peer: PeerId(1) },
            Reply::Current,
        ] {
            assert!(session.hear(&reply, vec![7]));
        }
        let one = PeerId(1);
        assert_eq!(
            events(&mut session),
            [Event::Joined(one), Event::Ready(one)]
        );
        session.reconnected();
        assert!(!session.is_current());
        session.hear(&joined(1, 1), vec![]);
        session.hear(&Reply::Ready { peer: one }, vec![]);
        session.hear(&Reply::Current, vec![]);
        assert_eq!(events(&mut session), []);
        assert_eq!(session.neighbours()[&one].bells, [7], "still its own");
    }

    #[test]
    fn who_is_missing_after_a_restart_is_gone_and_who_is_new_has_joined() {
        let mut session = Session::default();
        for peer in 1..4 {
            session.hear(&joined(peer, 1), vec![1]);
        }
        session.hear(&Reply::Current, vec![]);
        events(&mut session);
        session.reconnected();
        session.hear(&joined(2, 2), vec![2]);
        session.hear(&joined(3, 1), vec![3]);
        session.hear(&joined(4, 1), vec![4]);
        let ids = [1, 2, 3, 4].map(PeerId);
        assert_eq!(
            events(&mut session),
            [
                Event::Gone(ids[1], 1),
                Event::Joined(ids[1]),
                Event::Bells(ids[2]),
                Event::Joined(ids[3])
            ]
        );
        session.hear(&Reply::Current, vec![]);
        assert_eq!(events(&mut session), [Event::Gone(ids[0], 1)]);
        assert!(!session.hear(&Reply::Done, vec![]));
    }
}
