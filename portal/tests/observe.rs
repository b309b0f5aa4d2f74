//! `portal ls`, `inspect`, `top` and `--metrics` with the real binary, against a
//! running `portal serve`, a running `portal run`, region files, and servers that
//! lie.

mod binary;

use binary::Ran;
use binary::portal_in;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use portal_client::Connection;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Reply;
use portal_protocol::packet;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Lines;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// A `portal` that goes on until it is dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portal"))
            .args(args)
            .current_dir(folder)
            .env("XDG_RUNTIME_DIR", folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Reads on until a line holds `words`.
    fn until(&mut self, words: &str) -> String {
        let begin = Instant::now();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            if line.contains(words) {
                return line;
            }
            assert!(begin.elapsed() < PATIENCE, "no {words:?}; last: {line}");
        }
        panic!("it ended without {words:?}");
    }

    fn end(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        let asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        asked.expect("a child");
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not stop");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As [`portal_in`], with `folder` as the runtime folder.
fn portal(folder: &Path, args: &[&str]) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_portal"))
        .args(args)
        .current_dir(folder)
        .env("XDG_RUNTIME_DIR", folder)
        .output()
        .expect("the binary starts")
        .into()
}

fn scrape(line: &str) -> String {
    let at = line
        .rsplit_once("http://")
        .and_then(|(_, rest)| rest.split_once('/'));
    let (at, _) = at.expect("an address");
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    asked.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer
}

fn join(socket: &Path, name: &str) -> Peer {
    let options = JoinOptions::host_process("lake", name).expect("names");
    let connection = Connection::open(socket).expect("listens");
    connection.join(&options).expect("room")
}

const SECTION: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 32 << 10,
};

#[test]
fn a_switchboard_its_peers_and_a_ring_that_stalls() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let args = [
        "serve",
        "--region",
        "lake,size=1MiB",
        "--metrics",
        "127.0.0.1:0",
    ];
    let mut serve = Running::start(here, &args);
    let metrics = serve.until("metrics http://");
    let socket = here.join("portal/portal.sock");
    let (mut a, mut b) = (join(&socket, "alpha"), join(&socket, "beta"));
    let mut a_own = a.section(SECTION).expect("a section");
    let mut b_own = b.section(SECTION).expect("a section");
    let spec = RingSpec {
        id: 7,
        to: b.id(),
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 64,
    };
    let mut sender = InlineSender::new(a_own.create_ring(spec).expect("a ring")).expect("sends");
    let place = b_own.accept_ring(PeerId(0), 7).expect("a ring");
    let _receiver = InlineReceiver::new(place).expect("receives");
    for _ in 0..20 {
        sender.try_send(b"waits").expect("room");
    }

    // The compatibility socket beside it is found and left alone.
    let listed = portal(here, &["ls"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    for words in [
        "portal.sock",
        "lake",
        "alpha",
        "beta",
        "host process",
        "ready",
    ] {
        assert!(listed.out.contains(words), "{words}: {listed:?}");
    }
    assert!(!listed.out.contains("lake.sock"), "{listed:?}");
    let listed = portal(here, &["ls", "--json"]);
    let places: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    assert_eq!(places[0]["regions"][0]["peers"][1]["name"], "beta");

    let whole = portal(here, &["inspect"]);
    assert!(
        whole.out.contains("portal_clients") && whole.out.contains("rings"),
        "{whole:?}"
    );
    let name = portal(here, &["inspect", "regions/lake/peers/1/name"]);
    assert_eq!((name.out.as_str(), name.code), ("beta\n", 0));
    let ring = portal(here, &["inspect", "regions/lake/rings/0-1-7", "--json"]);
    let ring: serde_json::Value = serde_json::from_str(&ring.out).expect("JSON");
    assert_eq!(
        (ring["sent"].as_u64(), ring["taken"].as_u64()),
        (Some(20), Some(0))
    );
    let wrong = portal(here, &["inspect", "regions/sea"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.err.contains("there are: lake"), "{wrong:?}");

    let once = portal(here, &["top", "--once", "--interval", "0.2"]);
    assert!(
        once.out.contains("held 0 s") && once.out.contains("alpha"),
        "{once:?}"
    );

    let mut top = Running::start(here, &["top", "--interval", "0.7"]);
    top.until("lake: peers 2 ready");
    let begin = Instant::now();
    let stall = loop {
        // The sender goes on while the receiver stands still.
        let _ = sender.try_send(b"more");
        let line = top.lines.next().expect("it goes on").expect("text");
        if line.contains("STALL") {
            break line;
        }
        assert!(begin.elapsed() < PATIENCE, "{line}");
    };
    assert!(stall.contains("lake ring 7 from 0 to 1"), "{stall}");

    let text = scrape(&metrics);
    assert!(
        text.contains(r#"portal_region_peers{region="lake",state="ready"} 2.0"#),
        "{text}"
    );
    assert!(text.contains(r#"portal_ring_messages_taken_total{region="lake",from="0""#));
    assert_eq!(serve.end(), 0);
    // Without the switchboard, the view goes on and says so.
    top.until("is portal serve running?");
}

#[test]
fn nothing_that_runs_is_no_error_of_ls() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let listed = portal(here, &["ls"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    assert!(listed.out.contains("nothing runs"), "{listed:?}");
    assert_eq!(portal(here, &["ls", "--json"]).out, "[]\n");
    for command in ["inspect", "top"] {
        let ran = portal(here, &[command]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.err.contains("portal serve"), "{ran:?}");
    }
    let ran = portal(here, &["top", "--socket", "nowhere.sock"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("nowhere.sock"), "{ran:?}");
}

#[test]
fn region_files_are_looked_at_without_anybody() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let made = portal_in(here, &["region", "create", "lake.region", "--size", "1MiB"]);
    assert_eq!(made.code, 0, "{made:?}");
    let listed = portal(here, &["ls", "--file", "lake.region"]);
    assert!(
        listed.out.contains("lake") && listed.code == 0,
        "{listed:?}"
    );
    let size = portal(
        here,
        &["inspect", "--file", "lake.region", "regions/lake/size"],
    );
    assert_eq!(size.out, "0x100000\n");
    let once = portal(
        here,
        &[
            "top",
            "--file",
            "lake.region",
            "--once",
            "--interval",
            "0.1",
        ],
    );
    assert!(once.out.contains("lake") && once.code == 0, "{once:?}");

    std::fs::write(here.join("other"), vec![b'x'; 1 << 16]).expect("written");
    for (path, code) in [("none", 3), ("other", 6), (".", 3)] {
        for command in ["ls", "inspect", "top"] {
            let ran = portal(here, &[command, "--file", path]);
            assert_eq!(ran.code, code, "{command} {path}: {ran:?}");
        }
    }
}

#[test]
fn a_running_vmm_shows_partitions_devices_and_regions() {
    let doctor = portal_in(Path::new("."), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
    if report["usable"] != true {
        eprintln!("skipped: {}", doctor.err.trim());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let pair = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pair.toml");
    std::fs::create_dir(here.join("portal")).expect("a folder");
    let args = [
        "run",
        pair,
        "--control",
        "portal/pair.sock",
        "--metrics",
        "0",
    ];
    let mut run = Running::start(here, &args);
    run.until("control socket portal/pair.sock");
    let metrics = run.until("metrics http://");
    run.until("running; Ctrl-C stops");

    let listed = portal(here, &["ls", "--json"]);
    let places: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    let place = &places[0];
    assert_eq!(place["partitions"][0]["state"], "running", "{place}");
    let peers = place["regions"][0]["peers"].as_array().expect("a list");
    assert_eq!(peers.len(), 3, "the host and two partitions: {place}");

    let device = portal(here, &["inspect", "partitions/a/devices", "--json"]);
    let devices: serde_json::Value = serde_json::from_str(&device.out).expect("JSON");
    let (_, device) = devices
        .as_object()
        .and_then(|d| d.iter().next())
        .expect("one");
    assert_eq!(device["binding"]["region"], "shared", "{device}");
    let ways = ["doorbells_routed", "doorbells_seen"].map(|name| &device["binding"][name]);
    assert!(
        ways.iter().any(|n| n.as_u64() > Some(0)),
        "it rang: {device}"
    );
    let vcpu = portal(here, &["inspect", "partitions/a/vcpus/0"]);
    assert!(vcpu.out.contains("user_exits: "), "{vcpu:?}");
    let once = portal(here, &["top", "--once", "--interval", "0.2"]);
    for words in ["partition  state", "running", "shared", "from  to"] {
        assert!(once.out.contains(words), "{words}: {once:?}");
    }
    let text = scrape(&metrics);
    assert!(text.contains(r#"portal_partition_state{partition="a",state="running"} 1.0"#));
    assert!(
        text.contains(r#"portal_ring_messages_sent_total{region="shared""#),
        "{text}"
    );

    // Nobody joins through a socket that is for looking.
    let options = JoinOptions::host_process("shared", "guest").expect("names");
    let connection = Connection::open(here.join("portal/pair.sock")).expect("listens");
    let refused = connection.join(&options).expect_err("only to look");
    assert!(refused.to_string().contains("can only look"), "{refused}");
    assert_eq!(run.end(), 0);
    assert!(!here.join("portal/pair.sock").exists(), "its path is gone");
}

/// Listens as a switchboard would and answers as `lie` says.
fn liar(folder: &Path, lie: impl Fn(&OwnedFd, &[u8]) + Send + 'static) -> PathBuf {
    let path = folder.join("liar.sock");
    let address = SocketAddrUnix::new(&path).expect("an address");
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &address).expect("a path");
    rustix::net::listen(&socket, 8).expect("listens");
    std::thread::spawn(move || {
        while let Ok(client) = rustix::net::accept(&socket) {
            let mut buffer = [0; MESSAGE_MAX + 1];
            while let Ok(heard) = packet::receive(client.as_fd(), &mut buffer, RecvFlags::empty()) {
                if heard.len == 0 {
                    break;
                }
                lie(&client, &buffer[..heard.len]);
            }
        }
    });
    path
}

fn say(client: &OwnedFd, reply: &Reply) {
    let _ = packet::send(client.as_fd(), &reply.encode(), &[], SendFlags::empty());
}

fn is(message: &[u8], kind: u8) -> bool {
    message.first() == Some(&kind)
}

/// What each kind of request's message begins with.
const HELLO: u8 = 0x01;
const LIST: u8 = 0x02;
const INSPECT: u8 = 0x08;

#[test]
fn servers_that_lie_get_an_error_and_reach_no_terminal() {
    let hostile = "x\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    let tree = serde_json::json!({
        hostile: hostile,
        "partitions": {
            hostile: { "state": hostile, "vcpus": { "0": { "user_exits": -1 } } },
            "b": { "state": { "deeper": 1 }, "vcpus": 7, "devices": [1, 2] },
        },
        "regions": { "lake": { "peers": { "99999999": { "doorbell_hops": 1e300 } } } },
    });
    let tree = tree.to_string();
    type Lie = Box<dyn Fn(&OwnedFd, &[u8]) + Send>;
    let welcome = |client: &OwnedFd, message: &[u8]| {
        if is(message, HELLO) {
            say(client, &Reply::Welcome { version: 1 });
        }
    };
    let telling = move |text: Vec<u8>| -> Lie {
        Box::new(move |client, message| {
            welcome(client, message);
            if is(message, LIST) {
                say(client, &Reply::EndOfList);
            }
            if is(message, INSPECT) {
                let text = text.clone();
                say(client, &Reply::Tree { last: true, text });
            }
        })
    };
    let bytes: Lie = Box::new(move |client, message| {
        welcome(client, message);
        let _ = packet::send(client.as_fd(), &[0xff; 40], &[], SendFlags::empty());
    });
    let endless: Lie = Box::new(move |client, message| {
        welcome(client, message);
        if is(message, LIST) || is(message, INSPECT) {
            let text = Vec::new();
            // More than any client waits for.
            while packet::send(
                client.as_fd(),
                &Reply::Tree {
                    last: false,
                    text: text.clone(),
                }
                .encode(),
                &[],
                SendFlags::empty(),
            )
            .is_ok()
            {}
        }
    });
    for (what, lie, code) in [
        (
            "a tree with everything in it",
            telling(tree.into_bytes()),
            0,
        ),
        ("no tree", telling(b"[[[[".to_vec()), 4),
        ("a tree of one number", telling(b"7".to_vec()), 4),
        ("a deep tree", telling("[".repeat(4000).into_bytes()), 4),
        ("no message", bytes, 4),
        ("messages without end", endless, 4),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = liar(folder.path(), lie);
        let socket = socket.to_str().expect("text");
        for args in [
            vec!["ls"],
            vec!["ls", "--json"],
            vec!["inspect"],
            vec!["inspect", "--json"],
            vec!["top", "--once", "--interval", "0.1"],
        ] {
            let args = [args, vec!["--socket", socket]].concat();
            let begin = Instant::now();
            let ran = portal(folder.path(), &args);
            assert_eq!(ran.code, code, "{what}, {args:?}: {ran:?}");
            assert!(begin.elapsed() < PATIENCE / 2, "{what}, {args:?}");
            for text in [&ran.out, &ran.err] {
                let lines = text.replace('\n', "");
                let obeyed = lines
                    .chars()
                    .find(|c| !portal_device::inspect::is_plain(*c));
                assert_eq!(obeyed, None, "{what}, {args:?}: {text}");
            }
        }
    }
}

/// A terminal of 24 lines of 100 characters: whoever watches and types, and the program's
/// end. Neither is inherited.
fn terminal() -> (File, File) {
    use rustix::pty::OpenptFlags;

    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let control = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&control).expect("a terminal");
    rustix::pty::unlockpt(&control).expect("a terminal");
    let name = rustix::pty::ptsname(&control, Vec::new()).expect("a name");
    let name = name.to_str().expect("text");
    let options = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program = rustix::fs::open(name, options, Mode::empty()).expect("its other end");
    let size = rustix::termios::Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&program, size).expect("a size");
    (control.into(), program.into())
}

/// The view on a real terminal: its frame, its keys, and the terminal as it was
/// when it ends, by a key and by SIGTERM.
#[test]
fn the_view_gives_the_terminal_back() {
    use rustix::termios::LocalModes;

    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let made = portal_in(here, &["region", "create", "lake.region", "--size", "1MiB"]);
    assert_eq!(made.code, 0, "{made:?}");
    for by_key in [true, false] {
        let (mut control, terminal) = terminal();
        let cooked = || {
            let modes = rustix::termios::tcgetattr(&terminal).expect("modes");
            modes
                .local_modes
                .contains(LocalModes::ICANON | LocalModes::ECHO)
        };
        assert!(cooked());
        let mut child = Command::new(env!("CARGO_BIN_EXE_portal"))
            .args(["top", "--file", "lake.region", "--interval", "0.1"])
            .current_dir(here)
            .env("TERM", "xterm-256color")
            .stdin(terminal.try_clone().expect("a descriptor"))
            .stdout(terminal.try_clone().expect("a descriptor"))
            .spawn()
            .expect("the binary starts");
        let mut seen = String::new();
        let begin = Instant::now();
        while !(seen.contains("lake.region") && seen.contains("q quit")) {
            assert!(begin.elapsed() < PATIENCE, "{seen:?}");
            let mut bytes = [0; 4096];
            let got = control.read(&mut bytes).expect("a frame");
            seen.push_str(&String::from_utf8_lossy(&bytes[..got]));
        }
        assert!(!cooked(), "the view has the terminal");
        if by_key {
            control.write_all(b"q").expect("a key");
        } else {
            let pid = rustix::process::Pid::from_child(&child);
            let asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            asked.expect("a child");
        }
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}");
        assert!(cooked(), "the terminal is as it was");
    }
}

#[test]
fn the_view_ends_with_its_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let mut serve = Running::start(here, &["serve", "--region", "lake,size=1MiB"]);
    serve.until("lake");
    let (mut screen, keyboard) = terminal();
    let stdio = || Stdio::from(keyboard.try_clone().expect("a descriptor"));
    let top = Command::new(env!("CARGO_BIN_EXE_portal"))
        .arg("top")
        .env("XDG_RUNTIME_DIR", here)
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .expect("the binary starts");
    let mut top = Unwatched(top);
    drop(keyboard);
    let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
    while !seen.windows(4).any(|word| word == b"lake") {
        let read = screen.read(&mut bytes).expect("it draws");
        seen.extend_from_slice(&bytes[..read]);
    }
    drop(screen);
    let end = Instant::now() + PATIENCE;
    while top.0.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < end, "it goes on without a terminal");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process whose output is read elsewhere.
struct Unwatched(Child);

impl Drop for Unwatched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
