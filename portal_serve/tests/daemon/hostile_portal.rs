//! T15 and T16 at the Portal socket: clients that mean harm, and a host without file
//! descriptors. After each, an honest client is served as before and the daemon
//! holds what it held.

use crate::daemon::Daemon;
use crate::daemon::patience;
use crate::daemon::until;
use crate::harness::FDS_MAX;
use crate::harness::Harness;
use crate::harness::Random;
use crate::harness::cases;
use crate::harness::seed;
use crate::portal::join;
use crate::portal::options;
use crate::portal::wait_until;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::Peer;
use portal_client::RefusalCode;
use portal_protocol::Join;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Reattach;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::Token;
use portal_protocol::VERSION;
use portal_protocol::packet;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Signal;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

fn connect(daemon: &Daemon) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.expect("a socket");
    let address = SocketAddrUnix::new(daemon.portal()).expect("a path");
    rustix::net::connect(&socket, &address).expect("listens");
    let patience = Some(patience());
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        patience,
    )
    .expect("a time");
    socket
}

/// Sends whatever it is; the place may be lost before it is out.
fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
}

fn hello() -> Vec<u8> {
    let (oldest, newest) = (VERSION, VERSION);
    Request::Hello { oldest, newest }.encode()
}

/// A request as an honest client would make it, more or less.
fn request(random: &mut Random) -> Request {
    let lake = Name::new("lake").expect("a name");
    let vectors = random.below(5) as u16;
    match random.below(10) {
        0 => Request::Hello {
            oldest: random.next() as u16,
            newest: random.next() as u16,
        },
        1 => Request::List,
        2 | 3 => Request::Join(Join {
            region: lake,
            name: Name::new(&format!("evil-{}", random.below(4))).expect("a name"),
            kind: PeerKind::Partition,
            rights: Rights::from_bits(random.next() as u32 & 0xf).expect("four bits"),
            id: (random.below(2) == 0).then(|| PeerId(random.below(12) as u16)),
            vectors,
            own: random.below(2) == 0,
        }),
        4 => Request::Reattach(Reattach {
            region: lake,
            uuid: uuid::Uuid::from_u128(random.next().into()),
            peer: PeerId(random.below(9) as u16),
            epoch: random.below(3) as u32,
            token: Token([random.next() as u8; 16]),
            vectors,
            passed_on: random.below(3) as u16,
        }),
        5 => Request::Ready,
        6 => Request::Quiesce,
        7 => Request::Leave,
        8 => Request::Publish {
            state: random.next() as u32,
        },
        _ => Request::Inspect,
    }
}

/// Bytes that are a message, nearly one, or none.
fn bytes(random: &mut Random) -> Vec<u8> {
    let mut bytes = request(random).encode();
    match random.below(4) {
        0 => (0..1 + random.below(MESSAGE_MAX + 100))
            .map(|_| random.next() as u8)
            .collect(),
        1 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            bytes
        }
        2 => {
            bytes.resize(random.below(bytes.len() + 20) + 1, 0);
            if let (true, Ok(len)) = (bytes.len() >= 8, u32::try_from(bytes.len())) {
                bytes[4..8].copy_from_slice(&len.to_le_bytes());
            }
            bytes
        }
        _ => bytes,
    }
}

fn served_as_before(daemon: &Daemon, honest: &mut Peer, files: usize) {
    wait_until(honest, "nobody else is left", |h| h.neighbours().is_empty());
    let late = join(daemon, "late");
    wait_until(honest, "late is announced", |h| h.neighbours().len() == 1);
    assert!(late.ring(honest.id(), 0) && honest.bells()[0].take().expect("a bell"));
    drop(late);
    wait_until(honest, "late is missed", |h| h.neighbours().is_empty());
    until("all fds came back", || daemon.files() == files);
}

const BYTES: Harness = Harness {
    threat: "T16",
    what: "Portal socket: clients that send bytes, requests and 0 to 253 fds",
};

fn random_bytes(clients: u64) {
    let mut random = Random(seed());
    let daemon = Daemon::lake("size=1048576,peers=8,sections=enforced");
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let null = std::fs::File::open("/dev/null").expect("an fd");
    let event = EventFd::new().expect("an event");
    for _ in 0..clients {
        let socket = connect(&daemon);
        if random.below(4) > 0 {
            send(&socket, &hello(), &[]);
            let mut buffer = [0; MESSAGE_MAX + 1];
            let welcome = packet::receive(socket.as_fd(), &mut buffer, RecvFlags::empty());
            assert!(
                welcome.is_ok_and(|w| w.len > 0),
                "an honest hello is answered"
            );
        }
        for _ in 0..1 + random.below(3) {
            let count = match random.below(3) {
                0 => random.below(FDS_MAX + 1),
                _ => random.below(4),
            };
            let fd = if random.below(2) == 0 {
                null.as_fd()
            } else {
                event.as_fd()
            };
            send(&socket, &bytes(&mut random), &vec![fd; count]);
        }
        // Something that breaks the protocol: it loses its place.
        send(&socket, &[0xff; 3], &[]);
        let mut buffer = [0; MESSAGE_MAX + 1];
        let end = Instant::now() + patience();
        loop {
            assert!(Instant::now() < end, "the daemon hangs up");
            match packet::receive(socket.as_fd(), &mut buffer, RecvFlags::empty()) {
                Ok(packet::Received { len: 0, .. }) | Err(rustix::io::Errno::CONNRESET) => break,
                Ok(_) => {}
                Err(errno) => panic!("the daemon hangs up: {errno}"),
            }
        }
        while honest
            .wait(Some(Duration::ZERO))
            .expect("served on")
            .is_some()
        {}
    }
    served_as_before(&daemon, &mut honest, files);
}

const SILENT: Harness = Harness {
    threat: "T16",
    what: "Portal socket: clients that connect and say nothing",
};

fn half_open(clients: u64) {
    let daemon = Daemon::lake("size=1048576,peers=8,sections=enforced");
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let before = daemon.resident();
    let mut most = 0;
    let mut open = Vec::new();
    for number in 0..clients {
        open.push(connect(&daemon));
        if number % 64 == 0 {
            most = most.max(daemon.files());
        }
        if number % 512 == 511 {
            drop(join(&daemon, "between"));
        }
    }
    // Visitors' places, the honest ones, and what is being accepted.
    let limit = files + portal_serve::ClientLimits::default().visitors + 4;
    assert!(most <= limit, "{most} fds, {files} before");
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more than before");
    drop(open);
    until("their places are free", || daemon.files() == files);
    served_as_before(&daemon, &mut honest, files);
    println!("{clients} half-open clients, {most} fds at most, {grown} KiB more");
}

const DEAF: Harness = Harness {
    threat: "T16",
    what: "Portal socket: a peer that never reads",
};

fn stops_reading(_: u64) {
    let stall = Duration::from_millis(400);
    let daemon = Daemon::with_times(
        "size=1048576,peers=4,sections=enforced",
        Duration::from_secs(10),
        stall,
    );
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let deaf = join(&daemon, "deaf");
    wait_until(&mut honest, "deaf is there", |h| h.neighbours().len() == 1);
    let before = daemon.resident();
    let end = Instant::now() + patience();
    let mut rounds = 0;
    while honest.neighbours().contains_key(&deaf.id()) {
        assert!(Instant::now() < end, "the deaf client keeps its place");
        let other = join(&daemon, "other");
        wait_until(&mut honest, "other is announced", |h| {
            h.neighbours().contains_key(&other.id())
        });
        let id = other.id();
        drop(other);
        wait_until(&mut honest, "other is missed", |h| {
            !h.neighbours().contains_key(&id)
        });
        rounds += 1;
    }
    assert!(rounds > 4, "it had its buffer: {rounds}");
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more than before");
    drop(deaf);
    served_as_before(&daemon, &mut honest, files);
}

fn set_limit(daemon: &Daemon, files: usize) {
    let limit = Rlimit {
        current: Some(files as u64),
        maximum: Some(512),
    };
    rustix::process::prlimit(Some(daemon.pid()), Resource::Nofile, limit).expect("its parent may");
}

const FILES: Harness = Harness {
    threat: "T15",
    what: "Portal socket: fd limit of the daemon moved one by one",
};

/// Clients at each limit: they bring their own events, or get those of the daemon.
const CLIENTS: usize = 3;

/// Limits that a daemon is put through, from below what is in use (numbers have
/// holes): what three clients take and the memory of a joining one, and to spare.
const LIMITS_EACH: usize = 4 + CLIENTS * 3 + 10 + 2;

/// One piece of memory, and one a section.
const REGIONS: [&str; 2] = ["vectors=2,leaves=announced", "sections=enforced"];

/// Limits of one round.
const LIMITS: u64 = (REGIONS.len() * LIMITS_EACH) as u64;

fn without_file_descriptors(limits: u64) {
    for _ in 0..limits.div_ceil(LIMITS) {
        for keys in REGIONS {
            every_limit(keys);
        }
    }
}

fn try_join(daemon: &Daemon, number: usize) -> Result<Peer, ClientError> {
    let options = options(&format!("client-{number}"));
    let event = || Arc::new(EventFd::new().expect("an event"));
    let options = match number % 2 {
        0 => options,
        _ => options.own_bells(vec![event(), event()]),
    };
    Connection::open(daemon.portal())?.join(&options)
}

fn every_limit(keys: &str) {
    let daemon = Daemon::lake(&format!("size=1048576,peers=8,{keys}"));
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let (mut joined, mut refused) = (0, 0);
    for limit in (files - 4..).take(LIMITS_EACH) {
        set_limit(&daemon, limit);
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            match try_join(&daemon, number) {
                Ok(client) => clients.push(client),
                Err(ClientError::Lost) => refused += 1,
                Err(ClientError::Refused(r)) if r.code == RefusalCode::Resources => refused += 1,
                Err(other) => panic!("{keys}, limit {limit}, {files} fds: {other}"),
            }
        }
        let all = limit < files + LIMITS_EACH - 5 || clients.len() == CLIENTS;
        assert!(all, "{keys}, limit {limit}: {} joined", clients.len());
        joined += clients.len();
        for client in clients {
            let id = client.id();
            wait_until(&mut honest, "it is announced", |h| {
                let found = h.neighbours().get(&id);
                found.is_some_and(|n| n.epoch == client.epoch())
            });
            assert!(client.ring(honest.id(), 1) && honest.bells()[1].take().expect("a bell"));
            assert!(honest.ring(id, 1) && client.bells()[1].take().expect("a bell"));
            client.leave().expect("may");
        }
        wait_until(&mut honest, "nobody else is left", |h| {
            h.neighbours().is_empty()
        });
        until("the clients' fds came back", || daemon.files() == files);
    }
    assert!(
        joined > 0 && refused > 0,
        "{joined} joined, {refused} refused"
    );
    let log = daemon.log();
    assert!(log.contains("no file descriptor is left"), "{log}");
    set_limit(&daemon, 512);
    served_as_before(&daemon, &mut honest, files);
}

fn hear(socket: &OwnedFd) -> Option<Reply> {
    let mut buffer = [0; MESSAGE_MAX + 1];
    let heard = packet::receive(socket.as_fd(), &mut buffer, RecvFlags::empty());
    match heard.expect("an answer") {
        packet::Received { len: 0, .. } => None,
        heard => Some(Reply::decode(&buffer[..heard.len], heard.fds.len()).expect("a message")),
    }
}

/// A client joins, and before its memory goes out another one takes the fd for it.
/// Whether it was let in and then refused.
fn loses_the_race(daemon: &Daemon) -> bool {
    let socket = connect(daemon);
    send(&socket, &hello(), &[]);
    if !matches!(hear(&socket), Some(Reply::Welcome { .. })) {
        return false;
    }
    let join = Request::Join(Join {
        region: Name::new("lake").expect("a name"),
        name: Name::new("late").expect("a name"),
        kind: PeerKind::HostProcess,
        rights: Rights::READ.and(Rights::RING),
        id: None,
        vectors: 2,
        own: false,
    });
    // It finds both at once: the request first, then the newcomer.
    daemon.freeze();
    send(&socket, &join.encode(), &[]);
    let _newcomer = connect(daemon);
    rustix::process::kill_process(daemon.pid(), Signal::CONT).expect("lives");
    let Some(Reply::Admitted(_)) = hear(&socket) else {
        return false;
    };
    match hear(&socket) {
        Some(Reply::Memory(_)) => false,
        Some(Reply::Refused(refusal)) => {
            assert_eq!(refusal.code, RefusalCode::Resources, "{refusal}");
            // It is no peer, and may ask again.
            send(&socket, &Request::Ready.encode(), &[]);
            let answer = hear(&socket);
            let no_peer = |r: &Reply| matches!(r, Reply::Refused(r) if r.code == RefusalCode::Step);
            assert!(answer.as_ref().is_some_and(no_peer), "{answer:?}");
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn t16_portal_bytes_and_fds_lose_the_place_and_nothing_else() {
    BYTES.holds(cases(500), random_bytes);
}

#[test]
fn t16_portal_half_open_clients_are_bounded_and_keep_nobody_out() {
    SILENT.holds(cases(2000).clamp(128, 10_000), half_open);
}

#[test]
fn t16_portal_a_peer_that_never_reads_is_dropped() {
    DEAF.holds(1, stops_reading);
}

#[test]
fn t15_portal_without_file_descriptors_clients_are_refused_and_the_daemon_goes_on() {
    let limits = cases(LIMITS).next_multiple_of(LIMITS);
    FILES.holds(limits, without_file_descriptors);
}

#[test]
fn a_client_of_another_version_is_told_both_and_nobody_else_notices() {
    let daemon = Daemon::lake("size=1048576,peers=8,sections=enforced");
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let stranger = connect(&daemon);
    let (oldest, newest) = (VERSION + 1, VERSION + 2);
    send(&stranger, &Request::Hello { oldest, newest }.encode(), &[]);
    let mut buffer = [0; MESSAGE_MAX + 1];
    let answer = packet::receive(stranger.as_fd(), &mut buffer, RecvFlags::empty());
    let answer = Reply::decode(&buffer[..answer.expect("an answer").len], 0);
    let Ok(Reply::Refused(refusal)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, RefusalCode::Version);
    let told = format!("versions {oldest} to {newest}, this switchboard speaks {VERSION}");
    assert!(refusal.text.contains(&told), "{}", refusal.text);
    drop(stranger);
    served_as_before(&daemon, &mut honest, files);
}

#[test]
fn a_client_whose_memory_cannot_be_opened_any_more_is_refused() {
    let daemon = Daemon::lake("size=1048576,peers=8,sections=enforced");
    let mut honest = join(&daemon, "honest");
    let files = daemon.files();
    let mut lost = 0;
    for limit in files..files + LIMITS_EACH {
        set_limit(&daemon, limit);
        lost += u32::from(loses_the_race(&daemon));
        until("the clients' fds came back", || daemon.files() == files);
    }
    assert!(lost > 0, "the newcomer never took what the other needed");
    set_limit(&daemon, 512);
    served_as_before(&daemon, &mut honest, files);
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_serve::guard::Guard;

    #[test]
    fn control_t15_portal_spare() {
        let guard = "one fd is kept to turn clients away with";
        FILES.fails(Guard::Spare, guard, LIMITS, without_file_descriptors);
    }

    #[test]
    fn control_t16_portal_broke() {
        let guard = "what is no message ends a client";
        BYTES.fails(Guard::Broke, guard, 20, random_bytes);
    }

    #[test]
    fn control_t16_portal_displaced() {
        let guard = "the oldest visitor makes way";
        SILENT.fails(Guard::Displaced, guard, 200, half_open);
    }

    #[test]
    fn control_t16_portal_stall() {
        let guard = "a message waits for limited time";
        DEAF.fails(Guard::Stall, guard, 1, stops_reading);
    }
}
