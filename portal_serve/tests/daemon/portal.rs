//! Clients of the Portal socket: what they get, and how they and clients of the
//! compatibility socket see each other.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::PATIENCE;
use crate::daemon::until;
use hv_shmem::backing::View;
use hv_shmem::doorbell::Bell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::doorbell::Heard;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem as _;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::SectionConfig;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::Event;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_client::RefusalCode;
use portal_client::session;
use std::sync::Arc;
use std::time::Duration;

/// Room for a few rings.
pub(crate) const SECTION: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 32 << 10,
};

pub(crate) fn options(name: &str) -> JoinOptions {
    JoinOptions::host_process("lake", name)
        .expect("names")
        .vectors(2)
}

pub(crate) fn join(daemon: &Daemon, name: &str) -> Peer {
    let connection = Connection::open(daemon.portal()).expect("listens");
    connection.join(&options(name)).expect("room")
}

fn refused(daemon: &Daemon, options: &JoinOptions) -> (RefusalCode, String) {
    let connection = Connection::open(daemon.portal()).expect("listens");
    match connection.join(options) {
        Err(ClientError::Refused(refusal)) => (refusal.code, refusal.text),
        other => panic!("{other:?}"),
    }
}

/// Takes events until this holds.
pub(crate) fn wait_until(peer: &mut Peer, what: &str, holds: impl Fn(&Peer) -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds(peer) {
        let left = end.saturating_duration_since(std::time::Instant::now());
        assert!(!left.is_zero(), "{what}");
        peer.wait(Some(left)).expect(what);
    }
}

fn rang(bell: &EventFd) -> bool {
    bell.wait(Some(Duration::ZERO)).expect("a bell") == Heard::Rang
}

#[test]
fn peers_see_each_other_by_name_ring_and_part() {
    let daemon = Daemon::lake("size=1048576,peers=4,sections=enforced");
    let listed = Connection::open(daemon.portal())
        .expect("listens")
        .regions();
    let [region] = listed.expect("a list").try_into().expect("one region");
    assert_eq!(
        (region.name.as_str(), region.size, region.peers),
        ("lake", 1 << 20, 4)
    );
    assert!(region.sectioned && !region.compatible);

    let mut a = join(&daemon, "a");
    assert!(a.neighbours().is_empty(), "told before it returns");
    let mut b = join(&daemon, "b");
    assert_eq!((a.id(), b.id()), (PeerId(0), PeerId(1)));
    assert_eq!(b.neighbours()[&a.id()].name.as_str(), "a");
    wait_until(&mut a, "a hears of b", |a| {
        a.neighbours().contains_key(&PeerId(1))
    });

    assert!(a.ring(b.id(), 1) && b.ring(a.id(), 0));
    assert!(rang(&b.bells()[1]) && !rang(&b.bells()[0]));
    assert!(rang(&a.bells()[0]));
    assert!(
        !a.ring(b.id(), 2) && !a.ring(PeerId(3), 0),
        "nobody is there"
    );

    let _own = b.section(SECTION).expect("its section");
    let ready = std::iter::from_fn(|| a.wait(Some(PATIENCE)).expect("events")).find(|event| {
        matches!(
            event,
            Event::Peer(portal_protocol::session::Event::Ready(_))
        )
    });
    assert!(ready.is_some());
    let record = a
        .region()
        .expect("a region")
        .peer(b.id())
        .expect("an entry");
    assert_eq!(record.state, PeerState::Ready);
    b.quiesce().expect("may");
    b.leave().expect("may");
    wait_until(&mut a, "b is gone", |a| a.neighbours().is_empty());
    until("its end is in the log", || {
        daemon.log().contains("lake: peer 1 is gone: it left")
    });
}

#[test]
fn own_events_are_what_others_ring() {
    let daemon = Daemon::lake("size=1048576,peers=4,sections=enforced");
    let own = Arc::new(EventFd::new().expect("an event"));
    let connection = Connection::open(daemon.portal()).expect("listens");
    let a = connection.join(&options("a").own_bells(vec![own.clone()]));
    let a = a.expect("room");
    assert!(a.passed_on().is_empty(), "nobody there knows others");
    let b = join(&daemon, "b");
    assert!(b.ring(a.id(), 0) && rang(&own));

    let no_event: std::os::fd::OwnedFd = std::fs::File::open("/dev/null").expect("opens").into();
    let wrong = options("c").own_bells(vec![Arc::new(no_event.into())]);
    let (code, text) = refused(&daemon, &wrong);
    assert_eq!(code, RefusalCode::NotAnEvent, "{text}");
}

#[test]
fn a_peer_may_hear_on_other_events_later() {
    let daemon = Daemon::lake("size=1048576,peers=4,sections=enforced");
    let event = || Arc::new(EventFd::new().expect("an event"));
    let (old, new) = (event(), event());
    let connection = Connection::open(daemon.portal()).expect("listens");
    let a = connection.join(&options("a").own_bells(vec![old.clone()]));
    let mut a = a.expect("room");
    let mut b = join(&daemon, "b");
    assert!(b.ring(a.id(), 0) && rang(&old));

    a.hear_on(vec![new.clone()]).expect("as many as before");
    let told = Event::Peer(session::Event::Bells(a.id()));
    let mut heard = std::iter::from_fn(|| b.wait(Some(PATIENCE)).expect("events"));
    assert!(heard.any(|event| event == told));
    assert!(b.ring(a.id(), 0) && rang(&new) && !rang(&old));

    let refused = a.hear_on(vec![event(), event()]);
    let Err(ClientError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.code, RefusalCode::Vectors, "{refusal}");
    assert!(b.ring(a.id(), 0) && rang(&new), "nothing has changed");
    assert_eq!(b.neighbours()[&a.id()].bells.len(), 1);
}

#[test]
fn a_peer_publishes_its_word_of_the_state_table() {
    let daemon = Daemon::lake("size=1048576,peers=4,sections=enforced");
    let (mut a, b) = (join(&daemon, "a"), join(&daemon, "b"));
    let table = b.map().expect("memory");
    let at = u64::from(a.id().0) * 4;
    let load = || {
        table
            .mem()
            .load_u32(at, std::sync::atomic::Ordering::Acquire)
    };
    assert_ne!(load(), 0x1234_5678);
    a.publish(0x1234_5678).expect("may");
    assert_eq!(load(), 0x1234_5678);
    drop(a);
    until("the word of who is gone is 0", || load() == 0);
}

#[test]
fn rights_bind_the_descriptors() {
    for sections in ["enforced", "advisory"] {
        let daemon = Daemon::lake(&format!(
            "size=1048576,peers=4,vectors=2,common=65536,sections={sections},partitions=read"
        ));
        let read = Rights::READ.and(Rights::RING);
        let mut guest = JoinOptions::partition("lake", "guest").expect("names");
        let (code, text) = refused(&daemon, &guest);
        assert_eq!(code, RefusalCode::Rights, "{text}");
        guest = guest.rights(read);
        let connection = Connection::open(daemon.portal()).expect("listens");
        let observer = connection.join(&guest).expect("room");
        let shared = observer.backing().share(View::OWNER).expect("duplicates");
        for piece in shared {
            let fd = &piece.fd;
            let flags = rustix::fs::fcntl_getfl(fd).expect("flags");
            assert_eq!(
                flags & rustix::fs::OFlags::RWMODE,
                rustix::fs::OFlags::RDONLY
            );
            assert!(rustix::io::pwrite(fd, b"x", 0).is_err());
        }
        let mut writer = join(&daemon, "writer");
        let own = writer.section(SECTION).expect("its section");
        let seen = observer.region().expect("reads");
        assert_eq!(
            seen.section(writer.id()).expect("formatted").epoch,
            writer.epoch()
        );
        drop(own);
        let writable = writer.backing().held().filter(|piece| {
            let fd = writer
                .backing()
                .share_piece(*piece, true)
                .expect("duplicates");
            let flags = rustix::fs::fcntl_getfl(fd).expect("flags");
            flags & rustix::fs::OFlags::RWMODE != rustix::fs::OFlags::RDONLY
        });
        // Its section and the common one; or the one piece that there is.
        let expect = if sections == "enforced" { 2 } else { 1 };
        assert_eq!(writable.count(), expect, "{sections}");
    }
}

#[test]
fn who_only_looks_gets_memory_to_read_and_is_no_peer() {
    for sections in ["enforced", "advisory"] {
        let keys = format!("size=1048576,peers=2,vectors=2,sections={sections}");
        let daemon = Daemon::lake(&keys);
        let (a, _b) = (join(&daemon, "a"), join(&daemon, "b"));
        // Every id is taken, and a watcher needs none.
        let mut watcher = Connection::open(daemon.portal()).expect("listens");
        let lake = a.region_name();
        let backing = watcher.watch(&lake).expect("the memory");
        for piece in backing.share(View::OWNER).expect("duplicates") {
            let flags = rustix::fs::fcntl_getfl(&piece.fd).expect("flags");
            assert_eq!(
                flags & rustix::fs::OFlags::RWMODE,
                rustix::fs::OFlags::RDONLY
            );
            assert!(rustix::io::pwrite(&piece.fd, b"x", 0).is_err());
        }
        let mem = backing.map(View::OBSERVER).expect("maps").mem();
        let options = AttachOptions {
            read_only: true,
            expect: Some(a.region_uuid()),
        };
        let seen = PortalRegion::attach(mem, options).expect("a region");
        assert_eq!(seen.peer(a.id()).expect("an entry").epoch, a.epoch());
        assert!(a.neighbours().len() <= 1, "nobody hears of the watcher");

        let sea = Name::new("sea").expect("a name");
        let error = watcher.watch(&sea).expect_err("there is none");
        assert!(error.to_string().contains("there are: lake"), "{error}");
        watcher.watch(&lake).expect("again, on the same connection");
        assert_eq!(watcher.regions().expect("a list").len(), 1);
        let opened = daemon.files();
        for _ in 0..100 {
            watcher.watch(&lake).expect("again");
        }
        until("its descriptors are closed", || daemon.files() <= opened);
    }
    let daemon = Daemon::lake("size=1048576,peers=2,programs=none");
    let mut watcher = Connection::open(daemon.portal()).expect("listens");
    let lake = Name::new("lake").expect("a name");
    match watcher.watch(&lake) {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Kind),
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_name_the_thing_and_the_limit() {
    let daemon = Daemon::lake("size=1048576,peers=2,vectors=2,partitions=none");
    let a = join(&daemon, "a");
    for (options, code, word) in [
        (
            JoinOptions::host_process("sea", "b").expect("names"),
            RefusalCode::NoSuchRegion,
            "there are: lake",
        ),
        (options("a"), RefusalCode::NameTaken, "already called a"),
        (
            options("b").id(Some(PeerId(0))),
            RefusalCode::Id,
            "in use by a",
        ),
        (
            options("b").id(Some(PeerId(2))),
            RefusalCode::Id,
            "ids end at 1",
        ),
        (
            options("b").vectors(3),
            RefusalCode::Vectors,
            "a peer has 2",
        ),
        (
            JoinOptions::partition("lake", "b").expect("names"),
            RefusalCode::Kind,
            "Partition",
        ),
    ] {
        let (found, text) = refused(&daemon, &options);
        assert_eq!(found, code, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let b = join(&daemon, "b");
    let (code, text) = refused(&daemon, &options("c"));
    assert_eq!(
        (code, text.contains("ids 0 to 1")),
        (RefusalCode::Full, true),
        "{text}"
    );
    drop((a, b));
    until("there is room again", || {
        let connection = Connection::open(daemon.portal()).expect("listens");
        connection.join(&options("c")).is_ok()
    });
}

#[test]
fn the_two_kinds_of_clients_are_peers_of_each_other() {
    let daemon = Daemon::lake("size=1048576,peers=4,vectors=2,common=4096");
    let mut q = Client::join(&daemon.socket(), 2).expect("room");
    let mut p = join(&daemon, "p");
    assert_eq!((q.id, p.id()), (0, PeerId(1)), "one space of ids");
    assert_eq!(p.neighbours()[&PeerId(0)].name.as_str(), "client-0");
    q.hear_until(|q| q.others.get(&1).is_some_and(|bells| bells.len() == 2));
    q.ring(1, 1);
    assert!(rang(&p.bells()[1]));
    assert!(p.ring(PeerId(0), 0) && q.was_rung(0));

    // One that brings its own events is rung by QEMU through those of its id.
    let own = Arc::new(EventFd::new().expect("an event"));
    let connection = Connection::open(daemon.portal()).expect("listens");
    let o = connection.join(&options("o").own_bells(vec![own.clone()]));
    let o = o.expect("room");
    q.hear_until(|q| q.others.get(&2).is_some_and(|bells| bells.len() == 2));
    q.ring(2, 0);
    assert!(!rang(&own) && rang(&o.passed_on()[0]));
    wait_until(&mut p, "p hears of o", |p| {
        p.neighbours().contains_key(&PeerId(2))
    });
    assert!(p.ring(PeerId(2), 0) && rang(&own), "directly");

    // The same memory.
    let mem = p.map().expect("maps").mem();
    let at = p.region().expect("a region").layout().common.start;
    mem.write(at, b"both");
    let mut got = [0; 4];
    q.map().read(at, &mut got);
    assert_eq!(&got, b"both");
    drop(q);
    wait_until(&mut p, "q is gone", |p| {
        !p.neighbours().contains_key(&PeerId(0))
    });
}

#[test]
fn the_inspect_tree_says_who_is_there() {
    let daemon = Daemon::lake("size=16777216,peers=512,vectors=1,leaves=announced");
    let _q = Client::join(&daemon.socket(), 1).expect("room");
    let peers: Vec<_> = (0..100)
        .map(|n| {
            let options = options(&format!("peer-with-a-long-name-{n}")).vectors(0);
            let connection = Connection::open(daemon.portal()).expect("listens");
            connection.join(&options).expect("room")
        })
        .collect();
    let tree = Connection::open(daemon.portal())
        .expect("listens")
        .inspect();
    let tree = tree.expect("a tree");
    assert!(tree.len() > 3 * 4096, "in several pieces: {}", tree.len());
    let tree: serde_json::Value = serde_json::from_str(&tree).expect("JSON");
    let lake = &tree["regions"]["lake"];
    assert_eq!(lake["peers"]["0"]["by"], "compatibility socket");
    assert_eq!(lake["peers"]["1"]["by"], "portal socket");
    assert_eq!(lake["peers"]["100"]["name"], "peer-with-a-long-name-99");
    assert_eq!(lake["peers"]["1"]["pid"], std::process::id());
    assert_eq!(lake["memory"], "sealed memory, one descriptor");
    assert_eq!(tree["portal_clients"]["members"], 100);
    drop(peers);
}
