//! `portal-guest` as two processes on one region in a file: everything but devices.
//! The test is the region's host.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;

use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RingError;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use portal_guest_linux::LINK_PAYLOAD;
use portal_guest_linux::LINK_RING;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
/// What `recv` runs.
const TRANSFER: u8 = 2;
/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Host {
    _folder: tempfile::TempDir,
    path: PathBuf,
    pages: HostPages<MappedMem>,
}

impl Host {
    fn new(size: u64, peers: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let spec = RegionSpec::new(Name::new("lake").unwrap(), size, peers);
        let config = BackingConfig {
            storage: Storage::File(path.clone()),
            ..BackingConfig::default()
        };
        let backing = Backing::create(&spec, &config).unwrap();
        let mem = backing.map(View::OWNER).unwrap().mem();
        let pages = HostPages::format(mem, &spec, uuid::Uuid::from_u128(9)).unwrap();
        let mut this = Self {
            _folder: folder,
            path,
            pages,
        };
        this.admit(A, "a");
        this.admit(B, "b");
        this
    }

    fn admit(&mut self, peer: PeerId, name: &str) {
        let name = Name::new(name).unwrap();
        let kind = PeerKind::Partition;
        self.pages.admit(peer, name, kind, Rights::ALL, 1).unwrap();
    }

    fn start(&self, peer: PeerId, arguments: &[&str]) -> Process {
        Process(Some(self.command(peer, arguments).spawn().unwrap()))
    }

    fn command(&self, peer: PeerId, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portal-guest"));
        command
            .args(["--region", "lake", "--json", "--at"])
            .arg(&self.path)
            .args(["--peer", &peer.to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

struct Process(Option<Child>);

impl Process {
    /// Waits until it ends: exit code, standard output, standard error.
    fn end(mut self) -> (i32, String, String) {
        let mut child = self.0.take().unwrap();
        let until = Instant::now() + DEADLINE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                let _ = child.kill();
                let out = child.wait_with_output().unwrap();
                panic!("does not end: {}", String::from_utf8_lossy(&out.stderr));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    fn ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn ok(process: Process) -> serde_json::Value {
    let (code, out, err) = process.end();
    assert_eq!(code, 0, "{out}{err}");
    json(&out)
}

#[test]
fn bytes_arrive_whole_whoever_comes_first() {
    for (size, bytes) in [(1 << 20, 10_000_003_u64), (64 << 10, 100_000), (1 << 20, 0)] {
        for receiver_first in [true, false] {
            let host = Host::new(size, 2);
            let length = bytes.to_string();
            let arguments = ["send", "--bytes", &length];
            let (recv, send) = if receiver_first {
                let recv = host.start(A, &["recv"]);
                std::thread::sleep(Duration::from_millis(100));
                (recv, host.start(B, &arguments))
            } else {
                let send = host.start(B, &arguments);
                std::thread::sleep(Duration::from_millis(100));
                (host.start(A, &["recv"]), send)
            };
            let (sent, received) = (ok(send), ok(recv));
            assert_eq!(sent["bytes"], bytes);
            assert_eq!(received["bytes"], bytes);
            assert_eq!(sent["blake3"], received["blake3"]);
        }
    }
}

#[test]
fn a_file_is_kept_as_it_was_sent() {
    let host = Host::new(1 << 20, 2);
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let bytes: Vec<u8> = (0..1_000_001_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    std::fs::write(&from, &bytes).unwrap();
    let recv = host.start(A, &["recv", "--out", to.to_str().unwrap()]);
    ok(host.start(B, &["send", from.to_str().unwrap()]));
    ok(recv);
    assert!(std::fs::read(to).unwrap() == bytes);
}

#[test]
fn a_peer_that_takes_no_more_says_so() {
    let host = Host::new(1 << 20, 2);
    let recv = host.start(A, &["recv", "--limit", "1000"]);
    let send = host.start(B, &["send", "--bytes", "1MiB"]);
    assert_eq!(recv.end().0, 1);
    let (code, out, err) = send.end();
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("takes 1000 bytes at most"), "{out}{err}");
}

#[test]
fn a_peer_that_cannot_write_says_so() {
    let host = Host::new(1 << 20, 2);
    let recv = host.start(A, &["recv", "--out", "/dev/full"]);
    let send = host.start(B, &["send", "--bytes", "1MiB"]);
    assert_eq!(recv.end().0, 3);
    let (code, out, err) = send.end();
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("cannot write"), "{out}{err}");
}

#[test]
fn round_trips_in_every_way_of_waiting() {
    let host = Host::new(1 << 20, 2);
    let pong = host.start(A, &["pong", "--forever", "--patience", "3"]);
    for wait in ["spin", "adaptive", "sleep"] {
        let ping = host.start(B, &["ping", "--to", "a", "--count", "300", "--wait", wait]);
        let report = ok(ping);
        assert_eq!(report["trips"]["count"], 300, "{wait}");
        assert!(report["trips"]["ns"]["p50"].as_u64().unwrap() > 0);
    }
    let bench = ok(host.start(B, &["bench", "--seconds", "0.2"]));
    assert!(bench["throughput"]["bytes"].as_u64().unwrap() > 0);
    let (code, out, err) = pong.end();
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(json(&out)["served"], 4, "{err}");
}

/// The host moves the epoch of a peer that dies: the survivor says so and ends; the
/// successor and a new program of the survivor's machine find each other.
#[test]
fn a_peer_that_dies_ends_the_transfer_and_its_successor_begins_anew() {
    let mut host = Host::new(1 << 20, 2);
    let recv = host.start(A, &["recv"]);
    let mut send = host.start(B, &["send", "--bytes", "1000GiB"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!send.ended());
    recv.kill();
    host.pages.retire(A).unwrap();
    let (code, out, _) = send.end();
    assert_eq!(code, 5, "{out}");
    assert_eq!(json(&out)["kind"], "peer-lost");

    let send = host.start(B, &["send", "--bytes", "3MiB", "--to", "a2"]);
    host.admit(A, "a2");
    let recv = host.start(A, &["recv"]);
    assert_eq!(ok(send)["blake3"], ok(recv)["blake3"]);
}

/// Several programs of one machine live in one epoch: nobody takes a dead program's
/// rings for those of the next one.
#[test]
fn a_program_that_is_killed_and_started_again_in_the_same_epoch() {
    let host = Host::new(1 << 20, 2);
    for round in 0..5 {
        let recv = host.start(A, &["recv"]);
        let send = host.start(B, &["send", "--bytes", "1000GiB"]);
        std::thread::sleep(Duration::from_millis(200));
        recv.kill();
        // Nobody tells the sender; the next program in that place does.
        let recv = host.start(A, &["recv"]);
        let (code, out, _) = send.end();
        assert_eq!(code, 5, "{out}");
        let told = json(&out)["error"].as_str().unwrap().to_owned();
        assert!(told.contains("started again"), "{round}: {told}");
        let send = host.start(B, &["send", "--bytes", "2MiB"]);
        assert_eq!(ok(send)["blake3"], ok(recv)["blake3"], "{round}");
    }
}

/// A peer that is slow to greet, as one whose CPU is busy, is not told that the other
/// side has started again as long as nobody else waits for it.
#[test]
fn a_slow_peer_is_waited_for() {
    let host = Host::new(1 << 20, 2);
    let recv = host.start(A, &["recv"]);
    let backing = Backing::open_file(&host.path, OpenAs::Peer).unwrap();
    let mem = backing.map(View::peer(B)).unwrap().mem();
    let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 32 << 10,
    };
    let mut own = region.join(B, 1, config).unwrap();
    let ring = own.create_ring(RingSpec {
        id: LINK_RING,
        to: A,
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 32,
    });
    let mut tx = InlineSender::new(ring.unwrap()).unwrap();
    let mut hello = [0; LINK_PAYLOAD];
    // A greeting (1) of version 1, and a session.
    hello[..2].copy_from_slice(&[1, 1]);
    hello[4] = TRANSFER;
    hello[8] = 7;
    tx.try_send(&hello).unwrap();
    let until = Instant::now() + DEADLINE;
    let theirs = loop {
        match own.accept_ring(A, LINK_RING) {
            Ok(theirs) => break theirs,
            Err(why) => assert!(Instant::now() < until, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let _rx = InlineReceiver::new(theirs).unwrap();
    // Several times what it would give a peer while others wait.
    std::thread::sleep(Duration::from_secs(3));
    let again = own.accept_ring(A, LINK_RING);
    assert!(
        matches!(again, Err(RingError::Accepted { .. })),
        "{again:?}"
    );
    recv.kill();
}

#[test]
fn what_cannot_work_says_why() {
    let mut host = Host::new(1 << 20, 3);
    let patience = ["--patience", "0.3"];
    let fails = |peer, arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().chain(&patience).copied().collect();
        let (code, out, err) = host.start(peer, &arguments).end();
        assert_ne!(code, 0, "{out}");
        assert!(json(&out)["exit"] == code, "{out}");
        (code, err)
    };
    let told = |(code, text): (i32, String), expected: i32, word: &str| {
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(word), "{text}");
    };
    told(fails(A, &["recv"]), 7, "nothing within");
    told(fails(A, &["ping", "--to", "7"]), 6, "the last one is 2");
    told(fails(A, &["ping", "--to", "0"]), 6, "itself");
    told(fails(PeerId(2), &["recv"]), 6, "has not admitted peer 2");
    told(fails(PeerId(9), &["recv"]), 6, "9");
    told(fails(A, &["send", "/nowhere"]), 3, "/nowhere");
    told(fails(A, &["recv", "--region", "sea"]), 6, "region sea");
    let pong = host.start(B, &["pong", "--patience", "5"]);
    told(
        fails(A, &["send", "--bytes", "1", "--patience", "5"]),
        8,
        "service",
    );
    pong.kill();
    host.admit(PeerId(2), "c");
    let fails = host.start(A, &["ping"]).end();
    told((fails.0, fails.2), 6, "choose one of 1 (b), 2 (c)");
}

#[test]
fn nobody_reads_the_report() {
    let host = Host::new(1 << 20, 2);
    let recv = ["recv", "--patience", "0.3"];
    let mut command = host.command(A, &recv);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
    let (code, _, err) = Process(Some(command.spawn().unwrap())).end();
    assert_eq!(code, 7, "{err}");
}
