//! Partitions of `portal run` in a region of `portal serve`, beside this process and
//! a stock QEMU; the daemon is killed in between.

mod binary;

use binary::portal_in;
use hv_shmem::layout::PeerId;
use portal_agent_abi::Command as Task;
use portal_agent_abi::RING_VECTOR;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Listen;
use portal_client::Connection;
use portal_client::Event;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_host::Controller;
use portal_host::Seat;
use portal_host::StreamOptions;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const LIMIT: Duration = Duration::from_secs(30);
const QEMU: &str = "qemu-system-x86_64";

/// Both partitions run the built-in guest as an image of their own, so that this
/// process, and not `portal run`, drives its agents as peer 0.
const PAIR: &str = "\
[[region]]
name = \"lake\"
switchboard = \"portal.sock\"

[[partition]]
name = \"a\"
image = \"warp.img\"
[[partition.device]]
kind = \"ivshmem\"
region = \"lake\"

[[partition]]
name = \"b\"
image = \"warp.img\"
[[partition.device]]
kind = \"ivshmem\"
region = \"lake\"
";

/// A child that does not outlive its test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn portal(folder: &Path, args: &[&str]) -> Kept {
    let child = Command::new(env!("CARGO_BIN_EXE_portal"))
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn();
    Kept(child.expect("starts"))
}

fn serve(folder: &Path) -> Kept {
    serve_region(folder, "lake,size=64MiB,peers=6,vectors=2,socket=lake.sock")
}

fn serve_region(folder: &Path, region: &str) -> Kept {
    let args = [
        "serve",
        "--region",
        region,
        "--portal-socket",
        "portal.sock",
    ];
    portal(folder, &[&args[..], &["--state", "state"]].concat())
}

/// Takes events until this holds.
fn until(peer: &mut Peer, what: &str, holds: impl Fn(&Peer) -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds(peer) {
        assert!(Instant::now() < end, "{what}");
        peer.wait(Some(Duration::from_millis(100)))
            .expect("one life");
    }
}

fn named(peer: &Peer, name: &str) -> Option<PeerId> {
    let mut all = peer.neighbours().iter();
    let found = all.find(|(_, n)| n.name.as_str() == name && n.bells.len() == 2);
    found.map(|(id, _)| *id)
}

fn join(folder: &Path, name: &str) -> Peer {
    let options = JoinOptions::host_process("lake", name).expect("names");
    let end = Instant::now() + LIMIT;
    loop {
        match Connection::open(folder.join("portal.sock")) {
            Ok(connection) => return connection.join(&options.vectors(2)).expect("room"),
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes from this process to `b`, hashed at both ends; doorbells between the two.
fn exchange(controller: &mut Controller, [a, b]: [PeerId; 2]) {
    let sink = Task::Sink {
        from: portal_agent_abi::HOST,
        drain: Drain::Hash,
    };
    controller.send(b, &sink, LIMIT).expect("it listens");
    let bytes: Vec<u8> = (0..8u32 << 20).map(|n| (n % 251) as u8).collect();
    let options = StreamOptions {
        limit: LIMIT,
        ..StreamOptions::default()
    };
    let mut from = &bytes[..];
    controller
        .stream(b, &mut from, options, |_| ())
        .expect("arrives");
    let answer = controller.answer(b, LIMIT).expect("an answer");
    assert_eq!(answer.report.digest, *blake3::hash(&bytes).as_bytes());
    let (rounds, listen) = (50, Listen::Halt);
    let ping = Task::DoorbellPing {
        peer: b,
        rounds,
        listen,
    };
    let echo = Task::DoorbellEcho {
        peer: a,
        rounds,
        listen,
    };
    controller.pair((a, ping), (b, echo), LIMIT).expect("rings");
}

#[test]
fn partitions_host_process_and_qemu_share_a_served_region_across_a_kill() {
    let doctor = portal_in(Path::new("."), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
    if report["usable"] != true {
        eprintln!("skipped: {}", doctor.err.trim());
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("warp.img"), portal_guest::warp::image()).expect("writes");
    std::fs::write(folder.join("pair.toml"), PAIR).expect("writes");
    let mut daemon = serve(folder);
    let mut me = join(folder, "host");
    assert_eq!(me.id(), portal_agent_abi::HOST);
    let region = me.region().expect("a region");
    let bell = me.bells()[usize::from(RING_VECTOR)].clone();
    let mut controller = Controller::join(&region, me.epoch(), Some(bell)).expect("room");
    me.ready().expect("may");

    let mut run = portal(folder, &["run", "pair.toml"]);
    until(&mut me, "both partitions have joined", |me| {
        named(me, "a").is_some() && named(me, "b").is_some()
    });
    let agents = ["a", "b"].map(|name| named(&me, name).expect("is there"));
    for agent in agents {
        let end = Instant::now() + 3 * LIMIT;
        let seat = Seat {
            bell: me.bell(agent, RING_VECTOR),
            alive: Box::new(move || Instant::now() < end),
        };
        controller.expect(agent, seat).expect("room");
    }
    for agent in agents {
        controller.await_agent(agent, LIMIT).expect("boots");
    }
    exchange(&mut controller, agents);

    let qemu = Command::new(QEMU)
        .args(["-machine", "pc,accel=tcg", "-S", "-m", "32", "-nodefaults"])
        .args(["-display", "none", "-chardev"])
        .arg(format!(
            "socket,path={},id=lake",
            folder.join("lake.sock").display()
        ))
        .args(["-device", "ivshmem-doorbell,chardev=lake,vectors=2"])
        .spawn();
    let mut qemu = qemu.ok().map(Kept);
    match &qemu {
        Some(_) => until(&mut me, "QEMU is a peer", |me| {
            named(me, "client-3").is_some()
        }),
        None => eprintln!("skipped: no {QEMU}; apt-get install qemu-system-x86"),
    }

    daemon.0.kill().expect("a child");
    daemon.0.wait().expect("a child");
    exchange(&mut controller, agents);
    let gone = me.wait(Some(LIMIT)).expect("one life");
    assert_eq!(gone, Some(Event::Detached));
    let _daemon = serve(folder);
    until(&mut me, "it is back", Peer::is_attached);
    let mut late = join(folder, "late");
    until(
        &mut late,
        "the partitions are back, with their bells",
        |late| named(late, "a") == Some(agents[0]) && named(late, "b") == Some(agents[1]),
    );
    for agent in agents {
        assert_eq!(region.live_epoch(agent), Some(1), "the same life");
    }
    exchange(&mut controller, agents);
    if let Some(qemu) = qemu.take() {
        assert_eq!(region.live_epoch(PeerId(3)), Some(1), "its process lives");
        drop(qemu);
        let end = Instant::now() + LIMIT;
        while region.live_epoch(PeerId(3)).is_some() {
            assert!(Instant::now() < end, "its process is gone");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    for agent in agents {
        let exit = Task::Exit { code: 0 };
        controller.send(agent, &exit, LIMIT).expect("it listens");
    }
    until(&mut me, "the partitions are gone", |me| {
        !agents
            .iter()
            .any(|agent| me.neighbours().contains_key(agent))
    });
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = run.0.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < end, "portal run ends with its partitions");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn a_region_that_is_not_served_is_named_with_those_that_are() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("warp.img"), [0x90]).expect("writes");
    std::fs::write(folder.join("pair.toml"), PAIR).expect("writes");
    let ran = portal_in(folder, &["run", "pair.toml"]);
    assert!(
        ran.code != 0 && ran.err.contains("is portal serve running?"),
        "{ran:?}"
    );
    let _daemon = serve(folder);
    let _me = join(folder, "me");
    std::fs::write(
        folder.join("pair.toml"),
        PAIR.replace("\"lake\"", "\"sea\""),
    )
    .expect("writes");
    let ran = portal_in(folder, &["run", "pair.toml"]);
    assert!(
        ran.err.contains("there is no region sea; there are: lake"),
        "{ran:?}"
    );
}

/// What a switchboard refuses ends the run that asked for it, with the thing, the value
/// and the limit; who was there before stays and can be rung.
#[test]
fn what_a_switchboard_refuses_is_told_and_harms_nobody() {
    let vectors = PAIR.replacen("\"ivshmem\"", "\"ivshmem\"\nvectors = 3", 1);
    for (keys, file, told) in [
        ("peers=2", PAIR, "region lake is full: ids 0 to 1 are all"),
        (
            "peers=6,partitions=none",
            PAIR,
            "region lake does not admit a Partition",
        ),
        (
            "peers=6,partitions=read",
            PAIR,
            "region lake gives a Partition rights",
        ),
        (
            "peers=6",
            &vectors,
            "3 vectors; in region lake, which QEMU may join, a peer has 2",
        ),
    ] {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let folder = folder.path();
        std::fs::write(folder.join("warp.img"), [0x90]).expect("writes");
        std::fs::write(folder.join("pair.toml"), file).expect("writes");
        let region = format!("lake,size=1MiB,vectors=2,{keys},socket=lake.sock");
        let _daemon = serve_region(folder, &region);
        let mut me = join(folder, "me");
        let ran = portal_in(folder, &["run", "pair.toml"]);
        assert!(ran.code == 3 && ran.err.contains(told), "{keys}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        until(&mut me, "whoever came is gone", |me| {
            me.neighbours().is_empty()
        });
        let other = join(folder, "other");
        until(&mut me, "another one comes", |me| {
            named(me, "other").is_some()
        });
        assert!(me.ring(other.id(), 0), "{keys}");
    }
}
