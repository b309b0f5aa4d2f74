//! How the daemon starts and stops, and what it says when it cannot.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::command;
use crate::daemon::refusal;
use crate::daemon::until;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn sigterm_ends_it_cleanly_and_takes_the_socket_away() {
    let mut daemon = Daemon::lake("size=65536,peers=2");
    let mut client = Client::join(&daemon.socket(), 1).expect("room");
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(daemon.log().contains("stopped"));
    assert!(!daemon.socket().exists());
    assert!(client.hear().is_err(), "the daemon is gone");
}

#[test]
fn a_path_in_use_is_left_alone_and_a_dead_servers_is_used_again() {
    let daemon = Daemon::lake("size=65536,peers=2");
    let text = refusal(&daemon.socket());
    assert!(text.contains("another server listens there"), "{text}");
    Client::join(&daemon.socket(), 1).expect("the first one still serves");
    rustix::process::kill_process(daemon.pid(), rustix::process::Signal::KILL).expect("a child");
    let socket = daemon.socket();
    until("it is dead", || Client::join(&socket, 1).is_err());
    assert!(socket.exists(), "killed servers leave their socket behind");

    let regions = format!("lake,size=65536,peers=2,socket={}", socket.display());
    let second = Duration::from_secs(1);
    let mut next = command(&regions, second, second)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    until("the next one serves", || Client::join(&socket, 1).is_ok());
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_child(&next),
        rustix::process::Signal::TERM,
    );
    assert!(next.wait().expect("a child").success());
}

#[test]
fn bad_paths_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = folder.path().join("x".repeat(120));
    let text = refusal(&long);
    assert!(text.contains("at most 107"), "{text}");

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").expect("a file");
    let text = refusal(&file);
    assert!(text.contains("is no socket"), "{text}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");

    let text = refusal(&folder.path().join("nowhere/lake.sock"));
    assert!(text.contains("make the folder first"), "{text}");

    // Nobody makes files there, root neither.
    let text = refusal(Path::new("/proc/lake.sock"));
    assert!(text.contains("/proc/lake.sock: cannot"), "{text}");
}

#[test]
fn a_service_managers_socket_is_taken_over_and_left_in_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("activated.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let second = Duration::from_secs(5);
    let inner = command("lake,size=65536,peers=2", second, second);
    // The shell puts the socket at 3 and names its own process, which the
    // daemon then is.
    let mut outer = Command::new("sh");
    outer
        .args([
            "-c",
            "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=lake exec \"$0\" \"$@\" 3<&0",
        ])
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null());
    let mut child = outer.spawn().expect("starts");
    let client = Client::join(&path, 1).expect("served on the passed socket");
    assert_eq!(client.id, 0);
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    assert!(child.wait().expect("a child").success());
    assert!(path.exists(), "the service manager's path stays");
}
