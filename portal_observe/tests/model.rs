//! Rates and stalls, from samples made by hand.

mod scene;

use hv_shmem::show::RingView;
use portal_observe::model::Model;
use portal_observe::model::Picture;
use portal_observe::model::RingRow;
use portal_observe::model::RingState;
use portal_observe::sample::Sample;
use scene::at;
use scene::partition;
use scene::peer;
use scene::region;
use scene::ring;
use std::time::Duration;

fn with(rings: Vec<RingView>) -> Vec<hv_shmem::show::RegionView> {
    let peers = vec![peer(0, "host", "ready"), peer(1, "a", "ready")];
    vec![region("lake", peers, rings)]
}

/// Takes one ring second by second; the last picture.
fn seconds(rings: &[RingView]) -> RingRow {
    let mut model = Model::new();
    let mut last = Picture::default();
    for (second, ring) in rings.iter().enumerate() {
        last = model.take(at(second as u64, with(vec![ring.clone()])));
    }
    last.rings.remove(0)
}

#[test]
fn rates_are_differences_by_time() {
    let mut model = Model::new();
    let first = model.take(at(10, with(vec![ring(0, 1, 7, 100, Some(90))])));
    assert_eq!(first.interval, None);
    assert_eq!(first.rings[0].sent, None, "one sample gives no rate");
    let second = model.take(at(12, with(vec![ring(0, 1, 7, 300, Some(290))])));
    assert_eq!(second.interval, Some(Duration::from_secs(2)));
    let row = &second.rings[0];
    assert_eq!((row.sent, row.taken), (Some(100.0), Some(100.0)));
    assert_eq!(row.bytes, Some(6400.0));
    assert_eq!((row.waiting, row.state), (10, RingState::Moving));
    let lake = &second.regions[0];
    assert_eq!((lake.sent, lake.rings, lake.stalls), (Some(100.0), 1, 0));
    assert_eq!(lake.states, [0, 2, 0, 0]);
    let receiver = &second.peers[1];
    assert_eq!((receiver.incoming, receiver.outgoing), (1, 0));
    assert_eq!((receiver.taken, receiver.waiting), (Some(100.0), 10));
}

#[test]
fn counts_that_go_back_and_samples_of_the_same_moment_give_no_rate() {
    let back = seconds(&[ring(0, 1, 7, 300, Some(290)), ring(0, 1, 7, 5, Some(5))]);
    assert_eq!((back.sent, back.taken), (None, None));
    let mut model = Model::new();
    model.take(at(1, with(vec![ring(0, 1, 7, 1, Some(1))])));
    let again = model.take(at(1, with(vec![ring(0, 1, 7, 9, Some(9))])));
    assert_eq!(again.rings[0].sent, None);
    let earlier = model.take(at(0, with(vec![ring(0, 1, 7, 19, Some(9))])));
    assert_eq!((earlier.interval, earlier.rings[0].sent), (None, None));
}

#[test]
fn a_renewed_ring_starts_anew() {
    let mut renewed = ring(0, 1, 7, 400, Some(20));
    renewed.instance = 2;
    let rings = [
        ring(0, 1, 7, 100, Some(20)),
        ring(0, 1, 7, 200, Some(20)),
        ring(0, 1, 7, 300, Some(20)),
        renewed,
    ];
    let row = seconds(&rings);
    assert_eq!(
        (row.sent, row.state),
        (None, RingState::Held(Duration::ZERO))
    );
}

#[test]
fn a_stall_is_a_cursor_that_stands_while_the_sender_goes_on() {
    let stands = |sent: u64| ring(0, 1, 7, sent, Some(20));
    // The sender sends: stalled once it lasts.
    let row = seconds(&[stands(40), stands(41), stands(42)]);
    assert_eq!(row.state, RingState::Moving, "not long enough");
    let row = seconds(&[stands(40), stands(41), stands(42), stands(43)]);
    assert_eq!(row.state, RingState::Stalled(Duration::from_secs(3)));
    // Nobody moves: held, however long.
    let row = seconds(&[stands(40), stands(40), stands(40), stands(40), stands(40)]);
    assert_eq!(row.state, RingState::Held(Duration::from_secs(4)));
    // The sender sleeps for want of space: stalled.
    let mut full = stands(84);
    full.sender_waits = true;
    let row = seconds(&[full.clone(), full.clone(), full.clone(), full.clone()]);
    assert_eq!(row.state, RingState::Stalled(Duration::from_secs(3)));
    // The receiver moves again.
    let rings = [
        full.clone(),
        full.clone(),
        full.clone(),
        full,
        ring(0, 1, 7, 84, Some(40)),
    ];
    assert_eq!(seconds(&rings).state, RingState::Moving);
}

#[test]
fn a_busy_receiver_that_publishes_in_batches_is_no_stall() {
    let rings: Vec<_> = (0..15).map(|n| ring(0, 1, 7, 20 + n, Some(20))).collect();
    assert_eq!(seconds(&rings).state, RingState::Moving);
}

#[test]
fn short_intervals_do_not_make_a_stall() {
    let mut model = Model::new();
    let mut last = Picture::default();
    for step in 0..10 {
        let mut sample = at(0, with(vec![ring(0, 1, 7, 40 + step, Some(20))]));
        sample.at = Duration::from_millis(100 * step);
        last = model.take(sample);
    }
    assert_eq!(last.rings[0].state, RingState::Moving);
}

#[test]
fn the_other_states() {
    assert_eq!(seconds(&[ring(0, 1, 7, 5, Some(5))]).state, RingState::Idle);
    let quiet = [ring(0, 1, 7, 5, Some(5)), ring(0, 1, 7, 5, Some(5))];
    assert_eq!(seconds(&quiet).state, RingState::Idle);
    let new = seconds(&[ring(0, 1, 7, 5, None)]);
    assert_eq!((new.state, new.waiting), (RingState::Unaccepted, 5));
    let mut old = ring(0, 1, 7, 5, Some(2));
    old.current = false;
    assert_eq!(seconds(&[old]).state, RingState::LeftOver);
    let mut broken = ring(0, 1, 7, 5, Some(2));
    broken.problem = Some("slot's sequence word".to_owned());
    assert_eq!(seconds(&[broken]).state, RingState::Broken);
}

/// Whatever a peer claims: no panic, no number that is not bounded by what the
/// region has.
#[test]
fn impossible_claims_are_contained() {
    let edges = [0, 1, 63, 64, 65, 1 << 32, u64::MAX - 1, u64::MAX];
    let mut model = Model::new();
    let mut second = 0;
    for sent in edges {
        for taken in edges {
            for slots in [0, 1, 64, u32::MAX] {
                let mut hostile = ring(9, 9, 7, sent, Some(taken));
                (hostile.slots, hostile.slot_size) = (slots, u32::MAX);
                // The same ring twice, from a peer that does not exist.
                let rings = vec![hostile.clone(), hostile];
                let picture = model.take(at(second, with(rings)));
                second += 1;
                for row in &picture.rings {
                    assert!(row.waiting <= slots.into(), "{row:?}");
                    let rates = [row.sent, row.taken, row.bytes];
                    assert!(
                        rates
                            .into_iter()
                            .flatten()
                            .all(|r| r.is_finite() && r >= 0.0)
                    );
                }
            }
        }
    }
}

#[test]
fn doorbells_and_partitions_have_rates_too() {
    let sample = |seconds, bells: u64, exits, interrupts| {
        let mut sample: Sample = at(seconds, with(vec![]));
        sample.doorbells.insert(("lake".to_owned(), 1), bells);
        sample.partitions.push(partition("a", exits, interrupts));
        sample
    };
    let mut model = Model::new();
    model.take(sample(0, 10, 100, 1000));
    let picture = model.take(sample(2, 30, 200, 5000));
    assert_eq!(picture.peers[1].doorbells, Some(10.0));
    assert_eq!(picture.peers[0].doorbells, None, "nobody counts it");
    assert_eq!(picture.regions[0].doorbells, Some(10.0));
    let a = &picture.partitions[0];
    assert_eq!((a.exits, a.interrupts), (Some(50.0), Some(2000.0)));
}
