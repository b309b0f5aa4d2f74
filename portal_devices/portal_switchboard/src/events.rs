//! What a peer is told about the others.
//!
//! Nothing is queued but ids: for each other peer, an inbox keeps what its owner
//! was told last, and the next event is the next step from there to what is true
//! now. A reader that is slow skips states that are over (a peer that came and
//! went in between is never heard of), but never learns of a successor before it
//! has learnt that the predecessor is gone, and its inbox never grows.

use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use portal_device::Input;
use std::collections::VecDeque;

/// Something about another peer of the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<B> {
    /// It was let in. Told once more for the same epoch when the peer has come
    /// back after a restart of the switchboard, with its bells, and when it hears
    /// on other bells.
    Joined {
        /// Its id.
        peer: PeerId,
        /// Its epoch.
        epoch: u32,
        /// Its name.
        name: Name,
        /// What it is.
        kind: PeerKind,
        /// Its receive bells, vector 0 first; empty when the one who is told may
        /// not ring.
        bells: Vec<B>,
    },
    /// It has formatted its section.
    Ready {
        /// Its id.
        peer: PeerId,
    },
    /// It takes no new work.
    Quiescing {
        /// Its id.
        peer: PeerId,
    },
    /// Its life under this epoch is over.
    Gone {
        /// Its id.
        peer: PeerId,
        /// The epoch that is over.
        epoch: u32,
    },
}

impl<B> Event<B> {
    /// The same as an input of a device.
    pub fn input(&self) -> Input {
        match self {
            Event::Joined { peer, bells, .. } => Input::PeerJoined {
                peer: peer.0,
                vectors: u16::try_from(bells.len()).unwrap_or(u16::MAX),
            },
            Event::Ready { peer } => Input::PeerReady { peer: peer.0 },
            Event::Quiescing { peer } => Input::PeerQuiescing { peer: peer.0 },
            Event::Gone { peer, .. } => Input::PeerGone { peer: peer.0 },
        }
    }
}

/// Where a peer is, for those who are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Absent,
    Joined,
    Ready,
    Quiescing,
}

/// One life of a peer, as far as it has come. `epoch` means nothing while
/// absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) epoch: u32,
    pub(crate) phase: Phase,
    /// Restored, and not back yet: it has no bells.
    pub(crate) away: bool,
    /// How often it has taken other bells.
    pub(crate) bells: u32,
}

/// One step that an inbox owner has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Joined,
    Ready,
    Quiescing,
    Gone { epoch: u32 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    told: Life,
    queued: bool,
}

/// What one peer was told of each other one.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    slots: Vec<Slot>,
    changed: VecDeque<u16>,
}

impl Inbox {
    /// Knows of nobody yet; room for ids below `peers`.
    pub(crate) fn new(peers: u16) -> Self {
        Inbox {
            slots: vec![Slot::default(); peers.into()],
            changed: VecDeque::with_capacity(peers.into()),
        }
    }

    /// Something happened to `peer`.
    pub(crate) fn mark(&mut self, peer: PeerId) {
        if let Some(slot) = self.slots.get_mut(usize::from(peer.0))
            && !slot.queued
        {
            slot.queued = true;
            self.changed.push_back(peer.0);
        }
    }

    /// Ids about which there is something to tell.
    pub(crate) fn waiting(&self) -> usize {
        self.changed.len()
    }

    /// The next step from what was told to what `now` says.
    pub(crate) fn next(&mut self, now: impl Fn(PeerId) -> Life) -> Option<(PeerId, Step)> {
        while let Some(&id) = self.changed.front() {
            let peer = PeerId(id);
            let slot = self.slots.get_mut(usize::from(id))?;
            if let Some((step, told)) = next_step(slot.told, now(peer)) {
                slot.told = told;
                return Some((peer, step));
            }
            slot.queued = false;
            self.changed.pop_front();
        }
        None
    }
}

/// The step from `told` towards `now`, and where it leads.
fn next_step(told: Life, now: Life) -> Option<(Step, Life)> {
    let same = told.epoch == now.epoch && now.phase != Phase::Absent;
    match (told.phase, now.phase) {
        (Phase::Absent, Phase::Absent) => None,
        (Phase::Absent, _) => Some((
            Step::Joined,
            Life {
                phase: Phase::Joined,
                ..now
            },
        )),
        _ if !same => Some((Step::Gone { epoch: told.epoch }, Life::default())),
        _ if (told.away && !now.away) || told.bells != now.bells => Some((
            Step::Joined,
            Life {
                away: now.away,
                bells: now.bells,
                ..told
            },
        )),
        (old, new) if old == new => None,
        (Phase::Quiescing, Phase::Ready) | (Phase::Joined, Phase::Ready) => Some((
            Step::Ready,
            Life {
                phase: Phase::Ready,
                ..told
            },
        )),
        (_, Phase::Quiescing) => Some((
            Step::Quiescing,
            Life {
                phase: Phase::Quiescing,
                ..told
            },
        )),
        // A life never goes back to joined under the same epoch.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);

    fn life(epoch: u32, phase: Phase) -> Life {
        Life {
            epoch,
            phase,
            away: false,
            bells: 0,
        }
    }

    fn all(inbox: &mut Inbox, now: Life) -> Vec<Step> {
        inbox.mark(A);
        std::iter::from_fn(|| inbox.next(|_| now))
            .map(|(_, step)| step)
            .collect()
    }

    #[test]
    fn a_slow_reader_is_told_the_shortest_truth() {
        let mut inbox = Inbox::new(4);
        assert_eq!(
            all(&mut inbox, life(1, Phase::Ready)),
            [Step::Joined, Step::Ready]
        );
        assert_eq!(
            all(&mut inbox, life(3, Phase::Joined)),
            [Step::Gone { epoch: 1 }, Step::Joined],
            "life 2 came and went"
        );
        assert_eq!(
            all(&mut inbox, life(3, Phase::Quiescing)),
            [Step::Quiescing]
        );
        assert_eq!(all(&mut inbox, life(3, Phase::Ready)), [Step::Ready]);
        assert_eq!(
            all(&mut inbox, life(4, Phase::Absent)),
            [Step::Gone { epoch: 3 }]
        );
        assert_eq!(all(&mut inbox, life(9, Phase::Absent)), []);
    }

    #[test]
    fn who_comes_back_is_told_again_with_the_same_epoch() {
        let mut inbox = Inbox::new(4);
        let away = Life {
            away: true,
            ..life(2, Phase::Ready)
        };
        assert_eq!(all(&mut inbox, away), [Step::Joined, Step::Ready]);
        assert_eq!(all(&mut inbox, away), []);
        assert_eq!(all(&mut inbox, life(2, Phase::Ready)), [Step::Joined]);
        assert_eq!(all(&mut inbox, life(2, Phase::Ready)), []);
        assert_eq!(
            all(&mut inbox, life(3, Phase::Absent)),
            [Step::Gone { epoch: 2 }]
        );
    }

    #[test]
    fn marks_do_not_add_up() {
        let mut inbox = Inbox::new(4);
        for _ in 0..1000 {
            inbox.mark(A);
            inbox.mark(PeerId(3));
            inbox.mark(PeerId(4));
        }
        assert_eq!(inbox.waiting(), 2, "id 4 does not exist here");
        assert_eq!(inbox.next(|_| Life::default()), None);
        assert_eq!(inbox.waiting(), 0);
    }
}
