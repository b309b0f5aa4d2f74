//! The daemon is killed with SIGKILL and started again: what its peers keep.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::PATIENCE;
use crate::daemon::until;
use crate::portal::SECTION;
use crate::portal::join;
use crate::portal::options;
use crate::portal::wait_until;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem as _;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::Event;
use portal_client::Peer;
use portal_client::RefusalCode;
use std::mem::MaybeUninit;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const SOCKET: &str = "PORTAL_SERVE_TEST_SENDER";
const MESSAGES: u64 = 300_000;
const RING: u32 = 7;

/// Waits until there is something to get, and never for ever.
fn get<T>(what: &str, mut try_get: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(got) = try_get() {
            return got;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Takes events until the peer is attached to another daemon than before.
fn comes_back(peer: &mut Peer) {
    get("it comes back", || {
        let event = peer.wait(Some(PATIENCE)).expect("one life");
        (event == Some(Event::Attached)).then_some(())
    });
}

fn sender(own: &mut OwnSection<MappedMem>, to: PeerId) -> SubmitSender<MappedMem> {
    let ring = RingSpec {
        id: RING,
        to,
        kind: RingKind::Submit,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 64,
    };
    let mut sender = SubmitSender::new(own.create_ring(ring).expect("room")).expect("a ring");
    let cursor = get("the receiver accepts the ring", || {
        own.cursor(to, RING).expect("is well formed")
    });
    sender.set_cursor(cursor).expect("fits");
    sender
}

/// In the child: sends numbers to peer 0, and looks at its events meanwhile.
pub(crate) fn send_as_told() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let connection = Connection::open(socket).expect("listens");
    let mut peer = connection.join(&options("sender")).expect("room");
    let (id, epoch) = (peer.id(), peer.epoch());
    let mut own = peer.section(SECTION).expect("its section");
    let mut sender = sender(&mut own, PeerId(0));
    let mut seen = (false, false);
    let note = |(lost, back), event| {
        (
            lost || event == Some(Event::Detached),
            back || event == Some(Event::Attached),
        )
    };
    for number in 0..MESSAGES {
        let entry = SubmitEntry {
            user_data: number,
            ..SubmitEntry::default()
        };
        get("the receiver reads", || sender.try_send(&entry).ok());
        if number % 1000 == 0 {
            seen = note(seen, peer.wait(Some(Duration::ZERO)).expect("one life"));
        }
    }
    get("it is back", || {
        if !seen.1 {
            seen = note(seen, peer.wait(Some(PATIENCE)).expect("one life"));
        }
        seen.1.then_some(())
    });
    assert!(seen.0 && (peer.id(), peer.epoch()) == (id, epoch));
    peer.leave().expect("is attached");
}

#[test]
fn a_killed_daemon_loses_no_message_and_serves_on() {
    let mut daemon = Daemon::kept("size=1048576,peers=4,sections=enforced", PATIENCE);
    until("it says what files lack", || {
        daemon.log().contains("no seals")
    });
    let mut me = join(&daemon, "receiver");
    let mut own = me.section(SECTION).expect("its section");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "sender_process", "--nocapture"])
        .env(SOCKET, daemon.portal())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let from = PeerId(1);
    wait_until(&mut me, "the sender is ready", |me| {
        let sender = me.neighbours().get(&from);
        sender.is_some_and(|n| n.phase == portal_client::Phase::Ready)
    });
    let place = get("the sender makes its ring", || {
        own.accept_ring(from, RING).ok()
    });
    let mut receiver = SubmitReceiver::new(place).expect("a ring");
    let mut take = |count: u64, next: &mut u64| {
        for _ in 0..count {
            let entry = get("the sender sends", || {
                receiver.try_recv().expect("is well formed")
            });
            assert_eq!(entry.user_data, *next, "in order, none missing");
            *next += 1;
        }
    };
    let mut next = 0;
    take(MESSAGES / 3, &mut next);
    let before = me.region().expect("a region").header().clone();
    daemon.kill();
    take(MESSAGES / 3, &mut next);
    assert_eq!(
        me.wait(Some(Duration::ZERO)).expect("one life"),
        Some(Event::Detached)
    );
    assert!(me.ring(from, 0), "doorbells need no daemon");
    daemon.start_again();
    take(MESSAGES - next, &mut next);
    wait_until(&mut me, "it is back", Peer::is_attached);
    assert_eq!((me.id(), me.epoch()), (PeerId(0), 1));
    assert_eq!(
        *me.region().expect("a region").header(),
        before,
        "the same region"
    );

    // The sender is done only when it is back; a newcomer finds the region alive.
    let ended = child.wait().expect("a child");
    assert!(ended.success(), "{ended}");
    let late = join(&daemon, "late");
    assert_eq!(late.neighbours()[&PeerId(0)].name.as_str(), "receiver");
    assert_eq!(late.neighbours()[&PeerId(0)].bells.len(), 2, "and can ring");
    assert!(late.ring(PeerId(0), 1) && me.bells()[1].take().expect("a bell"));
    println!("{MESSAGES} messages across SIGKILL of the daemon, 0 lost");
}

#[test]
fn who_does_not_come_back_in_time_is_gone() {
    // Long enough for whoever comes back, on a machine that is busy.
    let grace = Duration::from_secs(3);
    let mut daemon = Daemon::kept("size=1048576,peers=4,sections=enforced", grace);
    let mut a = join(&daemon, "a");
    let b = join(&daemon, "b");
    wait_until(&mut a, "a hears of b", |a| a.neighbours().len() == 1);
    daemon.kill();
    daemon.start_again();
    let region = a.region().expect("a region");
    assert_eq!(region.live_epoch(b.id()), Some(1), "it has its grace");
    wait_until(&mut a, "a is back, b is not", |a| a.neighbours().is_empty());
    assert_eq!(region.live_epoch(b.id()), None);
    let mut b = b;
    match b.reattach() {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Expired),
        other => panic!("{other:?}"),
    }
    let again = join(&daemon, "b");
    assert_eq!((again.id(), again.epoch()), (PeerId(1), 2), "a new life");
    daemon.kill();
    daemon.start_again();
    comes_back(&mut a);
    wait_until(&mut a, "b's second life is over", |a| {
        a.neighbours().is_empty()
    });
    assert_eq!(join(&daemon, "b").epoch(), 3, "epochs are kept");
}

#[test]
fn a_token_is_needed_and_works_once() {
    let mut daemon = Daemon::kept("size=1048576,peers=4,sections=enforced", PATIENCE);
    let mut a = join(&daemon, "a");
    let mut b = join(&daemon, "b");
    match a.reattach() {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Expired),
        other => panic!("nobody is away: {other:?}"),
    }
    daemon.kill();
    daemon.start_again();
    comes_back(&mut b);
    comes_back(&mut a);
    assert!(a.reattach().is_err(), "it is there already");
}

#[test]
fn flat_memory_its_common_section_and_qemus_peers_are_kept() {
    let keys = "size=1048576,peers=4,vectors=1,common=4096";
    let mut daemon = Daemon::kept(keys, PATIENCE);
    let mut q = Client::join(&daemon.socket(), 1).expect("room");
    let mut p = Connection::open(daemon.portal())
        .expect("listens")
        .join(&options("p").vectors(1))
        .expect("room");
    let region = p.region().expect("a region");
    let at = region.layout().common.start;
    q.hear_until(|q| q.others.contains_key(&1));
    q.map().write(at, b"kept");
    daemon.kill();
    daemon.start_again();
    comes_back(&mut p);
    // The test is the process at the other end, and lives: so does its peer.
    assert_eq!(region.live_epoch(PeerId(0)), Some(1));
    assert_eq!(p.neighbours().len(), 1);
    let late = Client::join(&daemon.socket(), 1).expect("room");
    assert_eq!(late.id, 2, "0 and 1 are in use");
    let mut got = [0; 4];
    late.map().read(at, &mut got);
    assert_eq!(&got, b"kept");
    // By the bells that its id had before the restart.
    q.ring(1, 0);
    assert!(p.bells()[0].take().expect("a bell"));
    late.ring(1, 0);
    assert!(p.bells()[0].take().expect("a bell"));
}

#[test]
fn one_state_has_one_master_and_is_not_taken_for_another() {
    let daemon = Daemon::kept("size=1048576,peers=4,sections=enforced", PATIENCE);
    let config =
        |text: &str| portal_serve::RegionConfig::parse(text, |t| t.parse().ok()).expect("is good");
    let options = portal_serve::Options {
        portal: portal_serve::PortalSocket::None,
        state: Some(daemon.state()),
        ..portal_serve::Options::default()
    };
    let lake = config("lake,size=1048576,peers=4,sections=enforced");
    let second = portal_serve::Daemon::new(&[lake], &options);
    let error = second.expect_err("one master").to_string();
    assert!(error.contains("one master"), "{error}");
    let state = daemon.state();
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(&state).expect("a folder") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
    }
    drop(daemon);
    until("it ended", || !state.exists());
    let options = portal_serve::Options {
        state: Some(copy.path().to_owned()),
        ..options
    };
    let larger = config("lake,size=2097152,peers=4,sections=enforced");
    let error = portal_serve::Daemon::new(&[larger], &options).expect_err("another shape");
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    let file = copy.path().join("lake.state");
    let mut bytes = std::fs::read(&file).expect("records");
    bytes[4096 + 9] ^= 1;
    std::fs::write(&file, bytes).expect("writes");
    // Nobody ever joined: an id of zeros was never used, one of other bytes is damaged.
    let lake = config("lake,size=1048576,peers=4,sections=enforced");
    let error = portal_serve::Daemon::new(&[lake], &options).expect_err("damaged");
    assert!(error.to_string().contains("id 0"), "{error}");
}

/// What a service manager does: takes a descriptor to keep.
fn stored(manager: &std::os::unix::net::UnixDatagram) -> (String, std::os::fd::OwnedFd) {
    let mut bytes = [0; 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        manager,
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &mut control,
        rustix::net::RecvFlags::CMSG_CLOEXEC,
    )
    .expect("a notification");
    let fd = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
    (text, fd.expect("a descriptor to store"))
}

#[test]
fn a_service_manager_keeps_sealed_memory() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let notify = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&notify).expect("binds");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut daemon = Daemon::stored("size=1048576,peers=4,vectors=1", &notify);
    let (text, fd) = stored(&manager);
    assert!(
        text.contains("FDSTORE=1") && text.contains("FDNAME=memory/lake/all"),
        "{text}"
    );
    let seals = rustix::fs::fcntl_get_seals(&fd).expect("a memfd");
    assert!(seals.contains(rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW));
    assert!(
        !daemon.state().join("lake.memory").exists(),
        "it is not in a file"
    );

    let connection = Connection::open(daemon.portal()).expect("listens");
    let mut a = connection.join(&options("a").vectors(1)).expect("room");
    let own = a.section(SECTION).expect("its section");
    // It says what it has to say of its memory before it serves anybody.
    assert!(!daemon.log().contains("no seals"), "{}", daemon.log());
    daemon.kill();
    daemon.start_with(fd, "memory/lake/all");
    comes_back(&mut a);
    let connection = Connection::open(daemon.portal()).expect("listens");
    let b = connection.join(&options("b").vectors(1)).expect("room");
    let seen = b
        .region()
        .expect("a region")
        .section(a.id())
        .expect("its section");
    assert_eq!(seen.epoch, a.epoch(), "the same memory");
    drop(own);
}
