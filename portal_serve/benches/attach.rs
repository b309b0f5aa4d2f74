//! What one peer more costs a switchboard: the time to attach among N others, and the
//! daemon's memory a peer. The figures of the Guide's page "Switchboard".
//!
//!     cargo bench --package portal_serve --bench attach
//!
//! The others do not ring, and so hold no events of each other: 512 peers in one
//! process would need half a million descriptors. The one that is measured gets all
//! of theirs. Ends with an error when a bar is missed: 5 ms at N = 64, 64 KiB a peer.

use hv_shmem::peers::Rights;
use portal_client::Connection;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_serve::Daemon;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

const DAEMON: &str = "PORTAL_BENCH_DAEMON";
const VECTORS: u16 = 2;
const ROUNDS: usize = 31;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    if let Some(folder) = std::env::var_os(DAEMON) {
        return serve(Path::new(&folder));
    }
    // `cargo test` runs benches too, with other words.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(DAEMON, folder.path())
        .spawn()
        .expect("starts");
    let held = measure(folder.path(), &child);
    child.kill().expect("a child");
    child.wait().expect("a child");
    if !held {
        std::process::exit(1);
    }
}

/// In the child: one flat region, its records kept as a daemon's are.
fn serve(folder: &Path) {
    let socket = folder.join("lake.sock");
    let region = format!(
        "lake,size=16777216,peers=600,vectors={VECTORS},leaves=announced,socket={}",
        socket.display()
    );
    let region = RegionConfig::parse(&region, |t| t.parse().ok()).expect("is good");
    let options = Options {
        portal: PortalSocket::At(folder.join("portal.sock")),
        state: Some(folder.join("state")),
        ..Options::default()
    };
    let stop = portal_serve::stop::on_signals().expect("signals");
    let daemon = Daemon::new(&[region], &options).expect("starts");
    daemon.run(stop.as_fd(), &mut |_| ()).expect("runs");
}

fn join(folder: &Path, name: &str, rights: Rights) -> Peer {
    let options = JoinOptions::host_process("lake", name).expect("names");
    let end = Instant::now() + PATIENCE;
    loop {
        match Connection::open(folder.join("portal.sock")) {
            Ok(connection) => {
                let options = options.vectors(VECTORS).rights(rights);
                return connection.join(&options).expect("room");
            }
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("lives");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.expect("a number")
}

fn measure(folder: &Path, child: &Child) -> bool {
    let quiet = Rights::READ.and(Rights::WRITE_OWN);
    let mut others = vec![join(folder, "other-0", quiet)];
    let before = resident(child);
    let mut held = true;
    for count in [1, 8, 64, 256, 512] {
        while others.len() < count {
            others.push(join(folder, &format!("other-{}", others.len()), quiet));
        }
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                let peer = join(folder, "measured", Rights::ALL);
                let took = begin.elapsed();
                assert_eq!(peer.neighbours().len(), count);
                peer.leave().expect("is there");
                took
            })
            .collect();
        times.sort();
        let median = times[ROUNDS / 2];
        println!(
            "attach among {count}: min {:?}, median {median:?}, max {:?}",
            times[0],
            times[ROUNDS - 1]
        );
        held &= count != 64 || median < Duration::from_millis(5);
    }
    let grown = resident(child).saturating_sub(before);
    let each = grown as f64 / (others.len() - 1) as f64;
    println!("memory: {each:.1} KiB a peer");
    held && each < 64.0
}
