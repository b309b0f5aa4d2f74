//! `portal serve` from the command line. What it serves is tested in
//! `portal_serve`.

mod binary;

use binary::portal_in;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn it_says_what_qemu_needs_serves_and_stops_at_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("lake.sock");
    let region = format!("lake,size=1MiB,vectors=2,socket={}", socket.display());
    let mut child = Command::new(env!("CARGO_BIN_EXE_portal"))
        .args(["serve", "--region", &region, "--portal-socket"])
        .arg(folder.path().join("portal.sock"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with("lake: 1048576 bytes, 8 peers, 2 vectors each"));
    let qemu = lines.next().expect("a line").expect("text");
    assert!(qemu.contains("-device ivshmem-doorbell,chardev=lake,vectors=2"));

    let portal = lines.next().expect("a line").expect("text");
    assert!(portal.starts_with("Portal socket /") && portal.ends_with("portal.sock"));

    let mut client = UnixStream::connect(&socket).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut bytes = [1; 16];
    client.read_exact(&mut bytes).expect("version and id");
    assert_eq!(bytes, [0; 16], "version 0, and the first client is 0");
    let joined = lines.next().expect("a line").expect("text");
    assert_eq!(joined, "lake: peer 0 joined");

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child");
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("it does not stop");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    assert!(!socket.exists(), "its socket is gone");
}

#[test]
fn mistakes_are_one_sentence_each() {
    let here = Path::new(".");
    for (region, code, words) in [
        ("lake", 2, "size=SIZE is missing"),
        ("lake,size=3MiB", 2, "power of two"),
        ("lake,size=1MiB,vectors=99", 2, "1 to 64"),
        (
            "lake,size=1MiB,socket=/nowhere/lake.sock",
            4,
            "/nowhere/lake.sock",
        ),
    ] {
        let ran = portal_in(here, &["serve", "--region", region]);
        assert_eq!(ran.code, code, "{region}: {ran:?}");
        assert!(ran.err.contains(words), "{region}: {ran:?}");
        assert_eq!(ran.out, "", "{region}");
    }
    let twice = [
        "serve",
        "--region",
        "a,size=1MiB",
        "--region",
        "a,size=2MiB",
    ];
    let ran = portal_in(here, &twice);
    assert!(
        ran.code == 2 && ran.err.contains("a is given twice"),
        "{ran:?}"
    );
    let state = [
        "serve",
        "--region",
        "a,size=1MiB",
        "--state",
        "/nowhere/at/all",
    ];
    let ran = portal_in(here, &state);
    assert!(
        ran.code == 4 && ran.err.contains("make the folder above it"),
        "{ran:?}"
    );
    let ran = portal_in(here, &["serve", "--region", "a,size=32TiB"]);
    assert!(
        ran.code == 4 && ran.err.contains("memory and swap"),
        "{ran:?}"
    );
    let none = portal_in(here, &["serve"]);
    assert_eq!(none.code, 2, "{none:?}");
}
