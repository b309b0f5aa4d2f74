//! A VMM's seat ([`portal_client::seat`]) at a daemon that lives, dies and comes back.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::PATIENCE;
use crate::daemon::until;
use crate::portal::join;
use crate::portal::wait_until;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem as _;
use portal_client::ClientError;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_client::Phase;
use portal_client::RefusalCode;
use portal_client::seat::Change;
use portal_client::seat::Identity;
use portal_client::seat::Seat;
use portal_client::seat::Standing;
use portal_client::seat::new_bells;
use std::sync::Arc;
use std::sync::Mutex;

const KEYS: &str = "size=1048576,peers=4,sections=enforced";
const VMM: PeerId = PeerId(0);
const HOST: PeerId = PeerId(1);

type Told = Arc<Mutex<Vec<Change>>>;

/// A seat with two bells of its own, and what it is told.
fn sit(daemon: &Daemon) -> (Arc<Seat>, Told) {
    let options = JoinOptions::partition("lake", "vmm").expect("names");
    let options = options.own_bells(new_bells(2).expect("events"));
    let seat = Arc::new(Seat::join(&daemon.portal(), &options).expect("room"));
    let told = Told::default();
    let (weak, to) = (Arc::downgrade(&seat), told.clone());
    seat.listen(move || {
        let mut told = to.lock().expect("no panic");
        told.extend(
            weak.upgrade()
                .map(|seat| seat.changes())
                .into_iter()
                .flatten(),
        );
    });
    (seat, told)
}

fn joined(peer: PeerId) -> Change {
    Change::Joined { peer, vectors: 2 }
}

fn until_told(told: &Told, what: &[Change]) {
    println!("{what:?} is to be told");
    let mut last = Vec::new();
    until("it is told", || {
        let told = told.lock().expect("no panic");
        if *told != last {
            last.clone_from(&told);
            println!("told: {last:?}");
        }
        told.ends_with(what)
    });
}

fn is_ready(peer: &Peer) -> bool {
    let vmm = peer.neighbours().get(&VMM);
    vmm.is_some_and(|vmm| vmm.phase == Phase::Ready)
}

/// The epoch of the seat, as another peer sees it.
fn epoch(peer: &Peer) -> Option<u32> {
    Some(peer.neighbours().get(&VMM)?.epoch)
}

fn until_rung(bell: &EventFd) {
    until("it rings", || bell.take().expect("an event"));
}

fn until_away(seat: &Seat) {
    until("it is missed", || seat.standing() == Standing::Away);
}

#[test]
fn lives_of_others_are_told_one_by_one_and_in_order() {
    let daemon = Daemon::lake(KEYS);
    let (seat, told) = sit(&daemon);
    for _ in 0..3 {
        let mut host = join(&daemon, "host");
        let peer = host.id();
        assert_eq!(peer, HOST);
        until_told(&told, &[joined(peer)]);
        assert!(seat.bell(HOST, 1).is_some() && seat.bell(HOST, 2).is_none());
        host.ready().expect("joining");
        until_told(&told, &[joined(peer), Change::Ready { peer }]);
        host.quiesce().expect("ready");
        until_told(&told, &[Change::Ready { peer }, Change::Quiescing { peer }]);
        drop(host);
        until_told(&told, &[Change::Quiescing { peer }, Change::Gone { peer }]);
        assert!(seat.bell(HOST, 0).is_none());
    }
    assert_eq!(told.lock().expect("no panic").len(), 12);

    // Who does not ask is told of what is, not of what was.
    let options = JoinOptions::partition("lake", "late").expect("names");
    let late = Seat::join(&daemon.portal(), &options).expect("room");
    assert_eq!(late.id(), HOST);
    assert_eq!(late.changes(), [joined(VMM)]);
    for _ in 0..3 {
        let passing = join(&daemon, "passing");
        let id = passing.id();
        until("it came", || late.neighbours().contains_key(&id));
        drop(passing);
        until("it went", || !late.neighbours().contains_key(&id));
    }
    seat.ready().expect("joining");
    let mut changes = Vec::new();
    until("it is told", || {
        changes.extend(late.changes());
        changes.contains(&Change::Ready { peer: VMM })
    });
    assert!(changes.len() <= 7, "{changes:?}");
    assert_eq!(late.changes(), []);
}

#[test]
fn other_bells_are_told_and_rung() {
    let daemon = Daemon::lake(KEYS);
    let (seat, _told) = sit(&daemon);
    let (other, told) = {
        let options = JoinOptions::partition("lake", "other").expect("names");
        let other = Arc::new(Seat::join(&daemon.portal(), &options).expect("room"));
        let told = other.changes();
        (other, told)
    };
    assert_eq!(told, [joined(VMM)]);
    let before = other.bell(VMM, 0).expect("a bell");
    let bells = new_bells(2).expect("events");
    seat.hear_on(bells.clone()).expect("as many");
    let mut told = Vec::new();
    until("it is told", || {
        told.extend(other.changes());
        !told.is_empty()
    });
    assert_eq!(told, [Change::Bells { peer: VMM }]);

    before.ring().expect("an event");
    assert!(!bells[0].take().expect("an event"));
    other
        .bell(VMM, 0)
        .expect("a bell")
        .ring()
        .expect("an event");
    until_rung(&bells[0]);
    let error = seat.hear_on(new_bells(3).expect("events"));
    assert!(matches!(error, Err(ClientError::Refused(_))), "{error:?}");
}

#[test]
fn what_is_said_while_it_is_away_is_heard_when_it_is_back() {
    let mut daemon = Daemon::kept(KEYS, PATIENCE);
    let (seat, told) = sit(&daemon);
    let mut host = join(&daemon, "host");
    until_told(&told, &[joined(HOST)]);
    daemon.kill();
    until_away(&seat);
    let bells = new_bells(2).expect("events");
    seat.ready().expect("is remembered");
    seat.hear_on(bells.clone()).expect("is remembered");
    daemon.start_again();
    wait_until(&mut host, "the seat is ready", is_ready);
    assert_eq!(epoch(&host), Some(1), "the same life");
    wait_until(&mut host, "it can be rung", |host| host.ring(VMM, 1));
    until_rung(&bells[1]);
    let (away, back) = (Standing::Away, Standing::Attached);
    until_told(&told, &[Change::Standing(away), Change::Standing(back)]);
    seat.ready().expect("once is enough");
}

#[test]
fn a_new_life_is_another_one_for_everybody_else_only() {
    let daemon = Daemon::lake(KEYS);
    let (seat, told) = sit(&daemon);
    let mut host = join(&daemon, "host");
    host.ready().expect("joining");
    seat.ready().expect("joining");
    wait_until(&mut host, "the seat is ready", is_ready);
    until_told(&told, &[Change::Ready { peer: HOST }]);
    let before = told.lock().expect("no panic").len();
    seat.resume(&seat.identity()).expect("its own state");
    assert_eq!((seat.id(), seat.epoch()), (VMM, 2));
    wait_until(&mut host, "it is seen", |host| epoch(host) == Some(2));
    assert!(!is_ready(&host), "it has said nothing yet");
    seat.ready().expect("joining");
    wait_until(&mut host, "the seat is ready again", is_ready);
    host.quiesce().expect("ready");
    until_told(&told, &[Change::Quiescing { peer: HOST }]);
    let told = told.lock().expect("no panic").len();
    assert_eq!(told, before + 1, "the host's life was one");
    drop(seat);
    wait_until(&mut host, "it has left", |host| epoch(host).is_none());
}

#[test]
fn a_state_of_somebody_else_is_refused() {
    let daemon = Daemon::lake(KEYS);
    let (seat, _told) = sit(&daemon);
    let own = seat.identity();
    let other = Identity {
        peer: PeerId(3),
        ..own
    };
    match seat.resume(&other) {
        Err(ClientError::OtherPeer { before, now, .. }) => {
            assert_eq!((before, now), (PeerId(3), VMM));
        }
        other => panic!("{other:?}"),
    }
    let other = Identity {
        region: uuid::Uuid::from_u128(1),
        ..own
    };
    match seat.resume(&other) {
        Err(ClientError::OtherRegion { now, .. }) => assert_eq!(now, own.region),
        other => panic!("{other:?}"),
    }
    assert_eq!(seat.epoch(), 1, "nothing has changed");
}

#[test]
fn without_a_switchboard_there_is_no_resuming_and_the_old_life_goes_on() {
    let mut daemon = Daemon::kept(KEYS, PATIENCE);
    let (seat, _told) = sit(&daemon);
    seat.ready().expect("joining");
    daemon.kill();
    match seat.resume(&seat.identity()) {
        Err(ClientError::Connect { .. }) => {}
        other => panic!("{other:?}"),
    }
    daemon.start_again();
    until("it is back", || seat.standing() == Standing::Attached);
    let mut host = join(&daemon, "host");
    wait_until(&mut host, "the seat is ready", is_ready);
    assert_eq!(epoch(&host), Some(1));
    seat.ready().expect("it was said");
}

#[test]
fn a_new_life_can_wait_for_the_switchboard() {
    let mut daemon = Daemon::kept(KEYS, PATIENCE);
    let (seat, _told) = sit(&daemon);
    let mut host = join(&daemon, "host");
    daemon.kill();
    seat.begin_anew().expect("is done later");
    seat.ready().expect("is said then");
    daemon.start_again();
    wait_until(&mut host, "the new life", |host| {
        epoch(host) == Some(2) && is_ready(host)
    });
    until("it is known", || seat.epoch() == 2);
}

#[test]
fn a_region_that_was_made_anew_is_another_one() {
    let mut daemon = Daemon::lake(KEYS);
    let (seat, told) = sit(&daemon);
    let mut host = join(&daemon, "host");
    until_told(&told, &[joined(HOST)]);
    daemon.kill();
    daemon.start_again();
    let (gone, lost) = (Change::Gone { peer: HOST }, Standing::Lost);
    until_told(&told, &[gone, Change::Standing(lost)]);
    assert!(matches!(seat.ready(), Err(ClientError::Lost)));
    let tree = seat.inspect();
    assert!(tree.get("error").is_some(), "{tree:?}");
    match seat.resume(&seat.identity()) {
        Err(ClientError::OtherRegion { before, now, .. }) => {
            assert!(before == seat.identity().region && now != before);
        }
        other => panic!("{other:?}"),
    }
    match host.reattach() {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Expired),
        other => panic!("{other:?}"),
    }
    let mut late = join(&daemon, "late");
    wait_until(&mut late, "it took no place there", |late| {
        late.neighbours().is_empty()
    });
}

#[test]
fn what_qemus_peers_ring_is_passed_on() {
    let daemon = Daemon::lake("size=1048576,peers=4,vectors=2");
    let (seat, _told) = sit(&daemon);
    let bells: Vec<_> = (0..2).map(|v| seat.bell(VMM, v).expect("own")).collect();
    let mut qemu = Client::join(&daemon.socket(), 2).expect("room");
    qemu.hear_until(|qemu| qemu.others.contains_key(&0));
    qemu.ring(0, 1);
    until_rung(&bells[1]);
    assert!(!bells[0].take().expect("an event"));
    let by_hop = seat.inspect().get("rung_by_hop").cloned();
    assert_eq!(by_hop, Some(1u64.into()));
}

#[test]
fn a_state_is_there_when_publishing_returns() {
    for keys in [KEYS, "size=1048576,peers=4,vectors=2"] {
        let daemon = Daemon::lake(keys);
        let (seat, _told) = sit(&daemon);
        let host = join(&daemon, "host");
        let table = host.map().expect("memory").mem();
        let word = |peer: PeerId| {
            let mut bytes = [0; 4];
            table.read(u64::from(peer.0) * 4, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        for state in [0, 1, 7] {
            seat.publish(state).expect("a member");
            assert_eq!(word(VMM), state);
        }
        seat.hear_on(new_bells(2).expect("events"))
            .expect("as many");
        seat.ready().expect("joining");
        seat.begin_anew().expect("is there");
        assert_eq!(word(VMM), 0, "another life");
    }
}
