//! For every sequence of requests, and whenever each peer reads: what a peer
//! has been told is one true history of the others, and when it has read
//! everything it knows exactly who is there.

use crate::board::Board;
use crate::board::admission;
use crate::board::bells;
use crate::board::board;
use crate::board::lake;
use portal_switchboard::Event;
use portal_switchboard::PeerKey;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PEERS: u16 = 5;

#[derive(Clone, Copy, Debug)]
enum Verb {
    Admit {
        vectors: usize,
    },
    Ready {
        which: usize,
    },
    Quiesce {
        which: usize,
    },
    Gone {
        which: usize,
    },
    Read {
        which: usize,
        events: usize,
    },
    /// The same with a key that is no longer good.
    Stale {
        which: usize,
    },
}

fn verb() -> impl Strategy<Value = Verb> {
    let which = 0..usize::from(PEERS);
    prop_oneof![
        (0..4usize).prop_map(|vectors| Verb::Admit { vectors }),
        (0..4usize).prop_map(|vectors| Verb::Admit { vectors }),
        which.clone().prop_map(|which| Verb::Ready { which }),
        which.clone().prop_map(|which| Verb::Quiesce { which }),
        which.clone().prop_map(|which| Verb::Gone { which }),
        (which.clone(), 1..6usize).prop_map(|(which, events)| Verb::Read { which, events }),
        which.prop_map(|which| Verb::Stale { which }),
    ]
}

/// What a peer knows of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    epoch: u32,
    phase: u8,
    vectors: usize,
}

struct Peer {
    key: PeerKey,
    phase: u8,
    vectors: usize,
    knows: BTreeMap<u16, Known>,
}

impl Peer {
    fn hear(&mut self, event: Event<crate::board::Bell>) {
        match event {
            Event::Joined {
                peer, epoch, bells, ..
            } => {
                let known = Known {
                    epoch,
                    phase: 0,
                    vectors: bells.len(),
                };
                assert_ne!(peer, self.key.peer, "told of itself");
                assert_eq!(self.knows.insert(peer.0, known), None, "joined twice");
            }
            Event::Ready { peer } => self.knows.get_mut(&peer.0).expect("known").phase = 1,
            Event::Quiescing { peer } => self.knows.get_mut(&peer.0).expect("known").phase = 2,
            Event::Gone { peer, epoch } => {
                let known = self
                    .knows
                    .remove(&peer.0)
                    .expect("gone, and was never there");
                assert_eq!(known.epoch, epoch);
            }
        }
    }

    fn read(&mut self, board: &mut Board, events: usize) {
        for _ in 0..events {
            match board.next_event(&self.key).expect("live") {
                Some(event) => self.hear(event),
                None => return,
            }
        }
    }
}

fn run(verbs: Vec<Verb>) {
    let (mut board, _) = board(PEERS);
    let mut peers: Vec<Peer> = Vec::new();
    let mut stale: Vec<PeerKey> = Vec::new();
    let mut number = 0;
    for verb in verbs {
        match verb {
            Verb::Admit { vectors } => {
                number += 1;
                let request = admission(&format!("p{number}"), &bells(vectors));
                match board.admit(&lake(), request) {
                    Ok(key) => {
                        assert!(peers.iter().all(|peer| peer.key.peer != key.peer));
                        peers.push(Peer {
                            key,
                            phase: 0,
                            vectors,
                            knows: BTreeMap::new(),
                        });
                    }
                    Err(_) => assert_eq!(peers.len(), usize::from(PEERS), "not full"),
                }
            }
            Verb::Ready { which } => {
                if let Some(peer) = peers.get_mut(which) {
                    assert_eq!(board.ready(&peer.key).is_ok(), peer.phase != 1);
                    peer.phase = 1;
                }
            }
            Verb::Quiesce { which } => {
                if let Some(peer) = peers.get_mut(which) {
                    assert_eq!(board.quiesce(&peer.key).is_ok(), peer.phase != 2);
                    peer.phase = 2;
                }
            }
            Verb::Gone { which } => {
                if which < peers.len() {
                    let peer = peers.remove(which);
                    board.gone(&peer.key).expect("live");
                    stale.push(peer.key);
                }
            }
            Verb::Read { which, events } => {
                if let Some(peer) = peers.get_mut(which) {
                    peer.read(&mut board, events);
                }
            }
            Verb::Stale { which } => {
                if let Some(key) = stale.get(which) {
                    assert!(board.ready(key).is_err() && board.gone(key).is_err());
                    assert!(board.quiesce(key).is_err() && board.next_event(key).is_err());
                }
            }
        }
    }
    let truth: Vec<_> = peers
        .iter()
        .map(|p| {
            (
                p.key.peer.0,
                Known {
                    epoch: p.key.epoch,
                    phase: p.phase,
                    vectors: p.vectors,
                },
            )
        })
        .collect();
    for peer in &mut peers {
        peer.read(&mut board, 1000);
        let want: BTreeMap<_, _> = truth
            .iter()
            .copied()
            .filter(|(id, _)| *id != peer.key.peer.0)
            .collect();
        assert_eq!(peer.knows, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_is_true(verbs in vec(verb(), 1..150)) {
        run(verbs);
    }
}
