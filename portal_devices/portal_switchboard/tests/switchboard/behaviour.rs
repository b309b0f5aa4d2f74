//! What the switchboard does for peers that behave, and what it says to those
//! that cannot have what they ask for.

use crate::board::admission;
use crate::board::bells;
use crate::board::board;
use crate::board::lake;
use crate::board::name;
use crate::board::pages;
use crate::board::state_in_table;
use hv_shmem::layout::PeerId;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_device::Input;
use portal_switchboard::Admission;
use portal_switchboard::AdmissionError;
use portal_switchboard::Event;
use portal_switchboard::Limits;
use portal_switchboard::PeerKey;
use portal_switchboard::Policy;
use portal_switchboard::RegionError;
use portal_switchboard::StepError;
use portal_switchboard::Switchboard;
use std::sync::Arc;

fn events(board: &mut crate::board::Board, key: &PeerKey) -> Vec<Event<crate::board::Bell>> {
    std::iter::from_fn(|| board.next_event(key).expect("a live peer")).collect()
}

fn inputs(board: &mut crate::board::Board, key: &PeerKey) -> Vec<Input> {
    events(board, key).iter().map(Event::input).collect()
}

#[test]
fn peers_hear_of_each_other_in_order() {
    let (mut board, mem) = board(4);
    let a = board
        .admit(&lake(), admission("a", &bells(2)))
        .expect("room");
    assert_eq!((a.peer, a.epoch), (PeerId(0), 1));
    board.ready(&a).expect("joined");
    assert_eq!(state_in_table(&mem, a.peer), 0, "published nothing yet");
    board.publish(&a, 0x77).expect("live");
    assert_eq!(state_in_table(&mem, a.peer), 0x77);
    let b = board
        .admit(&lake(), admission("b", &bells(3)))
        .expect("room");
    assert_eq!(
        inputs(&mut board, &b),
        [
            Input::PeerJoined {
                peer: 0,
                vectors: 2
            },
            Input::PeerReady { peer: 0 }
        ]
    );
    assert_eq!(
        inputs(&mut board, &a),
        [Input::PeerJoined {
            peer: 1,
            vectors: 3
        }]
    );
    board.ready(&b).expect("joined");
    board.quiesce(&b).expect("ready");
    assert_eq!(
        inputs(&mut board, &a),
        [Input::PeerQuiescing { peer: 1 }],
        "ready is over"
    );
    board.publish(&b, 9).expect("live");
    board.gone(&b).expect("live");
    assert_eq!(state_in_table(&mem, b.peer), 0);
    assert!(matches!(board.publish(&b, 9), Err(StepError::Stale(_))));
    assert_eq!(state_in_table(&mem, b.peer), 0, "a life that is over");
    assert_eq!(inputs(&mut board, &a), [Input::PeerGone { peer: 1 }]);
    assert_eq!(events(&mut board, &a), []);
}

#[test]
fn a_successor_has_the_id_and_another_epoch() {
    let (mut board, _) = board(2);
    let a = board
        .admit(&lake(), admission("a", &bells(1)))
        .expect("room");
    let old = board
        .admit(&lake(), admission("b", &bells(1)))
        .expect("room");
    events(&mut board, &a);
    board.gone(&old).expect("live");
    let new = board
        .admit(&lake(), admission("b", &bells(1)))
        .expect("room again");
    assert_eq!((new.peer, new.epoch), (old.peer, old.epoch + 1));
    let heard = events(&mut board, &a);
    assert!(
        matches!(
            heard[..],
            [Event::Gone { epoch: 1, .. }, Event::Joined { epoch: 2, .. }]
        ),
        "{heard:?}"
    );
    assert_eq!(
        board.ready(&old),
        Err(StepError::Stale(portal_switchboard::StalePeer { key: old }))
    );
    assert!(board.next_event(&old).is_err());
    assert!(board.bell(&old, a.peer, 0).is_err());
    assert!(board.ready(&new).is_ok());
}

#[test]
fn bells_are_found_by_peer_and_vector() {
    let (mut board, _) = board(4);
    let own = bells(2);
    let a = board.admit(&lake(), admission("a", &own)).expect("room");
    let b = board.admit(&lake(), admission("b", &[])).expect("room");
    let found = board
        .bell(&b, a.peer, 1)
        .expect("live")
        .expect("two vectors");
    assert!(Arc::ptr_eq(found, &own[1]));
    assert_eq!(board.bell(&b, a.peer, 2), Ok(None));
    assert_eq!(board.bell(&b, PeerId(3), 0), Ok(None));
    assert_eq!(board.bell(&b, PeerId(9), 0), Ok(None));
    board.gone(&a).expect("live");
    assert_eq!(board.bell(&b, a.peer, 1), Ok(None));
    drop(events(&mut board, &b));
    assert_eq!(Arc::strong_count(&own[0]), 1, "no bell is kept");
}

#[test]
fn an_observer_gets_no_bells() {
    let (mut board, _) = board(4);
    let a = board
        .admit(&lake(), admission("a", &bells(2)))
        .expect("room");
    let watch = Admission {
        rights: Rights::OBSERVER,
        ..admission("watch", &bells(1))
    };
    let watch = board.admit(&lake(), watch).expect("room");
    assert_eq!(
        inputs(&mut board, &watch),
        [Input::PeerJoined {
            peer: 0,
            vectors: 0
        }]
    );
    assert_eq!(board.bell(&watch, a.peer, 0), Ok(None));
    assert_eq!(
        inputs(&mut board, &a),
        [Input::PeerJoined {
            peer: 1,
            vectors: 1
        }]
    );
}

#[test]
fn steps_that_a_life_does_not_have_are_errors() {
    let (mut board, _) = board(4);
    let a = board.admit(&lake(), admission("a", &[])).expect("room");
    board.ready(&a).expect("joined");
    let error = board.ready(&a).expect_err("is ready already");
    assert_eq!(error.to_string(), "peer 0 is Ready and cannot become Ready");
    board.gone(&a).expect("live");
    assert_eq!(
        board.gone(&a).expect_err("gone already").to_string(),
        "peer 0 of region lake does not live under epoch 1"
    );
}

#[test]
fn each_refusal_names_the_thing_and_the_limit() {
    let (mut board, _) = board(2);
    let refused = |board: &mut crate::board::Board, admission| {
        board.admit(&lake(), admission).expect_err("is refused")
    };
    let nowhere = board
        .admit(&name("pond"), admission("a", &[]))
        .expect_err("no such region");
    assert_eq!(nowhere.to_string(), "there is no region pond");
    let many = refused(&mut board, admission("a", &bells(65)));
    assert_eq!(
        many.to_string(),
        "65 vectors were asked for in region lake, the limit of a peer is 64"
    );
    let id = |id| Admission {
        id: Some(PeerId(id)),
        ..admission("a", &[])
    };
    assert_eq!(
        refused(&mut board, id(2)).to_string(),
        "region lake has no peer id 2: its ids end at 1"
    );
    board.admit(&lake(), id(1)).expect("id 1 is free");
    let taken = Admission {
        name: name("z"),
        ..id(1)
    };
    assert_eq!(
        refused(&mut board, taken).to_string(),
        "peer id 1 of region lake is in use by a"
    );
    assert_eq!(
        refused(&mut board, admission("a", &[])).to_string(),
        "peer 1 of region lake is already called a"
    );
    board
        .admit(&lake(), admission("b", &[]))
        .expect("id 0 is free");
    assert_eq!(
        refused(&mut board, admission("c", &[])).to_string(),
        "region lake is full: ids 0 to 1 are all in use"
    );
}

#[test]
fn policy_bounds_rights_and_kinds_and_ids() {
    let mut board = Switchboard::new(Limits {
        vectors_per_region: 5,
        ..Limits::default()
    });
    let policy = Policy {
        partitions: Some(Rights::READ.and(Rights::RING)),
        host_processes: None,
        first_id: PeerId(1),
    };
    let lake = board
        .add_region(pages("lake", 4).0, policy)
        .expect("the first region");
    let ask = |rights| Admission {
        rights,
        ..admission("a", &bells(3))
    };
    let error = board.admit(&lake, ask(Rights::ALL)).expect_err("too much");
    assert!(
        matches!(
            error,
            AdmissionError::Rights {
                asked: Rights::ALL,
                ..
            }
        ),
        "{error}"
    );
    let error = board
        .admit(&lake, ask(Rights::RING))
        .expect_err("has to read");
    assert!(matches!(error, AdmissionError::Rights { .. }), "{error}");
    let host = Admission {
        kind: PeerKind::HostProcess,
        ..ask(Rights::READ)
    };
    let error = board.admit(&lake, host).expect_err("kept out");
    assert_eq!(
        error.to_string(),
        "region lake does not admit a HostProcess"
    );
    let a = board
        .admit(&lake, ask(Rights::READ))
        .expect("within the policy");
    assert_eq!(a.peer, PeerId(1));
    let b = Admission {
        name: name("b"),
        ..ask(Rights::READ)
    };
    let error = board.admit(&lake, b.clone()).expect_err("six vectors");
    assert!(
        matches!(
            error,
            AdmissionError::VectorQuota {
                asked: 3,
                used: 3,
                limit: 5,
                ..
            }
        ),
        "{error}"
    );
    board.gone(&a).expect("live");
    assert!(board.admit(&lake, b).is_ok());
}

#[test]
fn regions_come_and_go() {
    let (mut board, _) = board(4);
    let again = board.add_region(pages("lake", 4).0, Policy::default());
    assert_eq!(again, Err(RegionError::NameTaken { region: lake() }));
    for region in ["b", "c"] {
        board
            .add_region(pages(region, 4).0, Policy::default())
            .expect("room for three");
    }
    let full = board.add_region(pages("d", 4).0, Policy::default());
    assert_eq!(
        full,
        Err(RegionError::Full {
            region: name("d"),
            limit: 3
        })
    );
    assert_eq!(
        board.regions().collect::<Vec<_>>(),
        [name("b"), name("c"), lake()]
    );
    let a = board.admit(&lake(), admission("a", &[])).expect("room");
    let busy = board.remove_region(&lake()).expect_err("in use");
    assert_eq!(busy.to_string(), "region lake has 1 live peers");
    board.gone(&a).expect("live");
    let pages = board.remove_region(&lake()).expect("empty");
    assert!(board.next_event(&a).is_err());
    assert!(board.layout(&lake()).is_none());
    board
        .add_region(pages, Policy::default())
        .expect("back again");
    let a = board.admit(&lake(), admission("a", &[])).expect("room");
    assert_eq!(a.epoch, 2, "the pages remember");
}

#[test]
fn inspect_shows_regions_peers_and_counters() {
    let (mut board, _) = board(4);
    let a = board
        .admit(&lake(), admission("a", &bells(2)))
        .expect("room");
    let b = board
        .admit(&lake(), admission("b", &bells(1)))
        .expect("room");
    let _ = board.bell(&b, a.peer, 0);
    let text = board.inspect().to_string();
    for line in [
        "lake:",
        "name: a",
        "state: joining",
        "vectors: 3",
        "doorbell_hops: 1",
        "admitted: 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_full_region_of_64_tells_everybody_once() {
    let (mut board, _) = board(64);
    for peer in 0..64 {
        let key = board
            .admit(&lake(), admission(&format!("p{peer}"), &bells(2)))
            .expect("room");
        board.ready(&key).expect("joined");
    }
    let mut joined = 0;
    let mut ready = 0;
    board.tell_all(&lake(), |_, event| match event {
        Event::Joined { bells, .. } => {
            assert_eq!(bells.len(), 2);
            joined += 1;
        }
        Event::Ready { .. } => ready += 1,
        other => panic!("{other:?}"),
    });
    assert_eq!((joined, ready), (64 * 63, 64 * 63));
    board.tell_all(&lake(), |peer, event| panic!("{peer} is told {event:?}"));
}
