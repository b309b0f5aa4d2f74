//! T15 and T16: clients that mean harm, and a host without file descriptors.
//! After each, an honest client is served as before and the daemon holds what it
//! held.

use crate::client::Client;
use crate::client::receive;
use crate::daemon::Daemon;
use crate::daemon::patience;
use crate::daemon::until;
use crate::harness::FDS_MAX;
use crate::harness::Harness;
use crate::harness::Random;
use crate::harness::cases;
use crate::harness::seed;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

fn served_as_before(daemon: &Daemon, honest: &mut Client, files: usize) {
    let late = Client::join(&daemon.socket(), 1).expect("still served");
    honest.hear_until(|h| h.others.contains_key(&late.id));
    late.ring(honest.id, 0);
    assert!(honest.was_rung(0));
    drop(late);
    honest.hear_until(|h| h.others.is_empty());
    until("all fds came back", || daemon.files() == files);
}

const BYTES: Harness = Harness {
    threat: "T16",
    what: "clients that send random bytes and 0 to 253 fds",
};

fn random_bytes(clients: u64) {
    let mut random = Random(seed());
    let daemon = Daemon::lake("size=1048576,peers=8,leaves=announced");
    daemon.warm(8, 1);
    let mut honest = Client::join(&daemon.socket(), 1).expect("room");
    let files = daemon.files();
    let null = std::fs::File::open("/dev/null").expect("an fd");
    for number in 0..clients {
        let socket = UnixStream::connect(daemon.socket()).expect("listens");
        socket.set_read_timeout(Some(patience())).expect("a time");
        if random.next().is_multiple_of(2) {
            let _ = receive(&socket);
        }
        let len = 1 + (random.next() % 300) as usize;
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let count = (random.next() as usize) % (FDS_MAX + 1);
        let fds: Vec<BorrowedFd<'_>> = vec![null.as_fd(); count];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let flags = SendFlags::NOSIGNAL;
        // The place may be lost before the bytes are out: that is fine.
        let _ = rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags);
        if number % 3 == 0 {
            continue;
        }
        let end = std::iter::repeat_with(|| receive(&socket)).find_map(Result::err);
        let kind = end.expect("the daemon hangs up").kind();
        assert!(
            matches!(
                kind,
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
            ),
            "client {number}: {kind:?}"
        );
    }
    honest.hear_until(|h| h.others.is_empty());
    served_as_before(&daemon, &mut honest, files);
}

const SILENT: Harness = Harness {
    threat: "T16",
    what: "clients that connect and say nothing",
};
/// As many as TRUST asks for, and as one process may hold open.
const SILENT_MOST: u64 = 10_000;

fn half_open(clients: u64) {
    // Long enough for whoever reads, on a machine that is busy.
    let welcome = Duration::from_secs(2);
    let daemon = Daemon::with_times(
        "size=1048576,peers=8,leaves=announced",
        welcome,
        welcome * 30,
    );
    daemon.warm(8, 1);
    let mut honest = Client::join(&daemon.socket(), 1).expect("room");
    let files = daemon.files();
    // By then the daemon knows that the honest one has read its welcome.
    std::thread::sleep(welcome);
    let before = daemon.resident();
    let mut most = 0;
    let half_open: Vec<_> = (0..clients)
        .map(|_| {
            let socket = UnixStream::connect(daemon.socket()).expect("listens");
            most = most.max(daemon.files());
            socket
        })
        .collect();
    // Seven places are free, an fd each; and what is being refused.
    assert!(most <= files + 7 + 2, "{most} fds, {files} before");
    honest.hear_until(|h| h.others.is_empty());
    until("their places are free", || daemon.files() == files);
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more than before");
    drop(half_open);
    served_as_before(&daemon, &mut honest, files);
    println!("{clients} half-open clients, {most} fds at most, {grown} KiB more");
}

const DEAF: Harness = Harness {
    threat: "T16",
    what: "a client that stops reading",
};

fn stops_reading(_: u64) {
    let stall = Duration::from_millis(400);
    let daemon = Daemon::with_times(
        "size=1048576,peers=4,leaves=announced",
        Duration::from_secs(10),
        stall,
    );
    daemon.warm(4, 1);
    let mut honest = Client::join(&daemon.socket(), 1).expect("room");
    let files = daemon.files();
    let deaf = Client::join(&daemon.socket(), 1).expect("room");
    honest.hear_until(|h| h.others.contains_key(&deaf.id));
    // It has read its welcome; now others come and go until its buffer is full.
    std::thread::sleep(Duration::from_millis(600));
    let end = Instant::now() + patience();
    while honest.others.contains_key(&deaf.id) {
        assert!(Instant::now() < end, "the deaf client keeps its place");
        let other = Client::join(&daemon.socket(), 1).expect("room");
        honest.hear_until(|h| h.others.contains_key(&other.id) || h.others.is_empty());
        let id = other.id;
        drop(other);
        honest.hear_until(|h| !h.others.contains_key(&id));
    }
    drop(deaf);
    honest.hear_until(|h| h.others.is_empty());
    until("only one is left", || daemon.files() == files);
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
    what: "fd limit of the daemon moved one by one",
};
/// Limits that one daemon is put through.
const LIMITS: u64 = 19;

fn without_file_descriptors(limits: u64) {
    for _ in 0..limits.div_ceil(LIMITS) {
        every_limit();
    }
}

fn every_limit() {
    let daemon = Daemon::lake("size=1048576,peers=8,vectors=3,leaves=announced");
    let mut honest = Client::join(&daemon.socket(), 3).expect("room");
    let first = daemon.files();
    let (mut joined, mut refused) = (0, 0);
    // Three clients take twelve: from a limit below what is in use (numbers have
    // holes) to room for all.
    for limit in (daemon.files() - 4..).take(LIMITS as usize) {
        let kept = daemon.files().saturating_sub(first);
        let room = limit.saturating_sub(first);
        set_limit(&daemon, limit + kept);
        let mut clients = Vec::new();
        for _ in 0..3 {
            match Client::join(&daemon.socket(), 3) {
                Ok(client) => clients.push(client),
                Err(error) => {
                    let kind = error.kind();
                    assert_eq!(kind, std::io::ErrorKind::UnexpectedEof, "room {room}");
                    refused += 1;
                }
            }
        }
        assert!(room < 12 || clients.len() == 3, "{} of 3", clients.len());
        joined += clients.len();
        for client in &clients {
            client.ring(0, 2);
            assert!(honest.was_rung(2));
            honest.hear_until(|h| h.others.contains_key(&client.id));
        }
        drop(clients);
        honest.hear_until(|h| h.others.is_empty());
        // What was made for an id is kept for its next client. (A client can see
        // that it is refused before the daemon has its spare fd again.)
        until("the clients' fds came back", || {
            let kept = daemon.files().saturating_sub(first);
            kept <= 9 && kept.is_multiple_of(3)
        });
    }
    assert!(
        joined > 0 && refused > 0,
        "{joined} joined, {refused} refused"
    );
    let log = daemon.log();
    assert!(log.contains("no file descriptor is left"), "{log}");
    set_limit(&daemon, 512);
    let late = Client::join(&daemon.socket(), 3).expect("room");
    let all = |h: &Client| h.others.get(&late.id).is_some_and(|bells| bells.len() == 3);
    honest.hear_until(all);
    drop(late);
    honest.hear_until(|h| h.others.is_empty());
    until("all fds came back", || daemon.files() == first + 9);
}

#[test]
fn t16_random_bytes_and_fds_lose_the_place_and_nothing_else() {
    BYTES.holds(cases(400), random_bytes);
}

#[test]
fn t16_half_open_clients_are_bounded_and_go() {
    SILENT.holds(cases(1000).min(SILENT_MOST), half_open);
}

#[test]
fn t16_a_client_that_stops_reading_is_dropped() {
    DEAF.holds(1, stops_reading);
}

#[test]
fn t15_without_file_descriptors_clients_are_refused_and_the_daemon_goes_on() {
    let limits = cases(LIMITS).next_multiple_of(LIMITS);
    FILES.holds(limits, without_file_descriptors);
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_serve::guard::Guard;

    #[test]
    fn control_t16_spoke() {
        let guard = "a byte from a client ends it";
        BYTES.fails(Guard::Spoke, guard, 400, random_bytes);
    }

    #[test]
    fn control_t16_silent() {
        SILENT.fails(Guard::Overdue, "time to read is limited", 100, half_open);
    }

    #[test]
    fn control_t16_deaf() {
        DEAF.fails(Guard::Overdue, "time to read is limited", 1, stops_reading);
    }

    #[test]
    fn control_t15_spare() {
        let guard = "one fd is kept to turn clients away with";
        FILES.fails(Guard::Spare, guard, LIMITS, without_file_descriptors);
    }
}

#[test]
fn a_hundred_rounds_leak_nothing() {
    let daemon = Daemon::lake("size=1048576,peers=8,vectors=4");
    daemon.warm(8, 4);
    let files = daemon.files();
    for round in 0..100 {
        let clients: Vec<_> = (0..8)
            .map(|_| Client::join(&daemon.socket(), 4).expect("room"))
            .collect();
        assert_eq!(daemon.files(), files + 8, "round {round}");
        drop(clients);
        until("all fds came back", || daemon.files() == files);
    }
}
