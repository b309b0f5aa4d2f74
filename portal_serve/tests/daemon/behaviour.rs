//! Clients that play along.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::until;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;

#[test]
fn peers_are_announced_ring_each_other_and_are_missed() {
    let daemon = Daemon::lake("size=1048576,peers=4,vectors=2,leaves=announced");
    let mut a = Client::join(&daemon.socket(), 2).expect("room");
    assert_eq!((a.id, a.own.len(), a.others.len()), (0, 2, 0));
    let b = Client::join(&daemon.socket(), 2).expect("room");
    assert_eq!((b.id, b.others[&0].len()), (1, 2));
    a.hear_until(|a| a.others.get(&1).is_some_and(|bells| bells.len() == 2));

    b.ring(0, 1);
    assert!(a.was_rung(1), "vector 1 of peer 0");
    assert!(!a.was_rung(0) && !a.was_rung(1), "and no other");
    a.ring(1, 0);
    assert!(b.was_rung(0) && !b.was_rung(1));

    let c = Client::join(&daemon.socket(), 2).expect("room");
    assert_eq!(c.id, 2);
    a.hear_until(|a| a.others.get(&2).is_some_and(|bells| bells.len() == 2));
    drop(b);
    a.hear_until(|a| !a.others.contains_key(&1));
    let mut again = Client::join(&daemon.socket(), 2).expect("room");
    assert_eq!(again.id, 1, "the lowest free id");
    again.ring(2, 0);
    assert!(c.was_rung(0));
    a.hear_until(|a| a.others.get(&1).is_some_and(|bells| bells.len() == 2));
    a.ring(1, 1);
    assert!(again.was_rung(1), "the successor's bell");
    drop((a, c));
    again.hear_until(|client| client.others.is_empty());
}

#[test]
fn unsaid_departures_leave_the_bells_to_the_successor() {
    let daemon = Daemon::lake("size=65536,peers=3");
    let mut a = Client::join(&daemon.socket(), 1).expect("room");
    let region = PortalRegion::attach(a.map(), AttachOptions::default()).expect("a region");
    let b = Client::join(&daemon.socket(), 1).expect("room");
    a.hear_until(|a| a.others.contains_key(&1));
    drop(b);
    until("b is dead in the peer table", || {
        region.live_epoch(PeerId(1)).is_none()
    });
    let again = Client::join(&daemon.socket(), 1).expect("room");
    assert_eq!(again.id, 1);
    a.ring(1, 0);
    assert!(again.was_rung(0), "by the bell that a had from b's life");
    let c = Client::join(&daemon.socket(), 1).expect("room");
    assert_eq!(
        a.hear().expect("a message"),
        c.id,
        "nothing of 1 in between"
    );
}

#[test]
fn host_programs_find_a_portal_region_and_talk_through_it() {
    let daemon = Daemon::lake("size=1048576,peers=4,vectors=1");
    let clients = [0, 1].map(|_| Client::join(&daemon.socket(), 1).expect("room"));
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 32 << 10,
    };
    let [mut a, mut b] = [&clients[0], &clients[1]].map(|client| {
        let me = PeerId(client.id as u16);
        let region = PortalRegion::attach(client.map(), AttachOptions::default());
        let region = region.expect("a Portal region");
        assert_eq!(region.header().name.as_str(), "lake");
        let epoch = region.peer(me).expect("it is in the peer table").epoch;
        region.join(me, epoch, config).expect("its own section")
    });
    let ring = RingSpec {
        id: 1,
        to: PeerId(1),
        kind: RingKind::Submit,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 16,
    };
    let mut send = SubmitSender::new(a.create_ring(ring).expect("room")).expect("a ring");
    let place = b.accept_ring(PeerId(0), 1).expect("its ring");
    let mut take = SubmitReceiver::new(place).expect("a ring");
    let cursor = a.cursor(PeerId(1), 1).expect("is well formed");
    send.set_cursor(cursor.expect("b reads the ring"))
        .expect("fits");
    for user_data in 0..100 {
        let entry = SubmitEntry {
            user_data,
            ..SubmitEntry::default()
        };
        send.try_send(&entry).expect("room in the ring");
        let got = take.try_recv().expect("is well formed");
        assert_eq!(got.map(|e| e.user_data), Some(user_data));
    }
}

#[test]
fn a_peer_that_died_is_dead_in_the_peer_table_and_its_epoch_moves() {
    let daemon = Daemon::lake("size=65536,peers=3,leaves=announced");
    let mut a = Client::join(&daemon.socket(), 1).expect("room");
    let region = PortalRegion::attach(a.map(), AttachOptions::default()).expect("a region");
    let epoch = |peer| region.live_epoch(PeerId(peer));
    assert!(epoch(0).is_some() && epoch(1).is_none());
    let b = Client::join(&daemon.socket(), 1).expect("room");
    let first = epoch(1).expect("b lives");
    drop(b);
    a.hear_until(|a| a.others.contains_key(&1));
    a.hear_until(|a| !a.others.contains_key(&1));
    assert_eq!(epoch(1), None);
    let _b = Client::join(&daemon.socket(), 1).expect("room");
    assert!(epoch(1).expect("b lives again") > first);
}

#[test]
fn a_full_region_turns_clients_away_until_somebody_leaves() {
    let daemon = Daemon::lake("size=65536,peers=2");
    let a = Client::join(&daemon.socket(), 1).expect("room");
    let _b = Client::join(&daemon.socket(), 1).expect("room");
    assert!(Client::join(&daemon.socket(), 1).is_err(), "no third");
    until("the refusal is told", || {
        daemon
            .log()
            .contains("lake: client refused: region lake is full: ids 0 to 1")
    });
    drop(a);
    until("there is room again", || {
        Client::join(&daemon.socket(), 1).is_ok_and(|c| c.id == 0)
    });
}

#[test]
fn memory_is_shared_and_keeps_its_size_and_seals() {
    use rustix::fs::SealFlags;
    use rustix::io::Errno;
    let daemon = Daemon::lake("size=1048576,peers=2,common=4096");
    let a = Client::join(&daemon.socket(), 1).expect("room");
    let b = Client::join(&daemon.socket(), 1).expect("room");
    let (at_a, at_b) = (a.map(), b.map());
    let region = PortalRegion::attach(at_a.clone(), AttachOptions::default()).expect("a region");
    let at = region.layout().common.start;
    at_a.write(at, b"shared");
    let mut got = [0; 6];
    at_b.read(at, &mut got);
    assert_eq!(&got, b"shared");

    let stat = rustix::fs::fstat(&b.memory).expect("a memfd");
    assert_eq!(stat.st_size, 1 << 20, "QEMU takes the size from here");
    for size in [0, 4096, 2 << 20] {
        let cut = rustix::fs::ftruncate(&b.memory, size);
        assert_eq!(cut, Err(Errno::PERM), "truncate to {size}");
    }
    for seal in [SealFlags::FUTURE_WRITE, SealFlags::WRITE, SealFlags::SEAL] {
        let sealed = rustix::fs::fcntl_add_seals(&b.memory, seal);
        assert_eq!(sealed, Err(Errno::PERM), "{seal:?} locks newcomers out");
    }
}
