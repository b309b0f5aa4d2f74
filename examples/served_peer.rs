//! A host process as a peer of a region that a switchboard serves.
//!
//! Who comes first says what happens until somebody has come and gone; who comes later
//! rings everybody who is there, and leaves. Without arguments the program serves a
//! region to itself and is both.
//!
//!     cargo run --release --package portal_examples --example served_peer
//!
//!     portal serve --region lake,size=1MiB &
//!     served_peer /run/portal/portal.sock lake first &
//!     served_peer /run/portal/portal.sock lake second

use anyhow::bail;
use hv_shmem::section::SectionConfig;
use portal_client::Connection;
use portal_client::Event;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_serve::Daemon;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
use std::env;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 4 << 10,
};

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.as_slice() {
        [] => serve_and_visit(),
        [socket, region, name] => visit(join(Path::new(socket), region, name)?),
        _ => bail!("give the Portal socket's path, a region and a name; or nothing"),
    }
}

fn join(socket: &Path, region: &str, name: &str) -> anyhow::Result<Peer> {
    let options = JoinOptions::host_process(region, name)?.vectors(1);
    Ok(Connection::open(socket)?.join(&options)?)
}

fn visit(mut peer: Peer) -> anyhow::Result<()> {
    let own = peer.section(CONFIG)?; // rings, spans and an arena from here on
    let me = peer.id();
    println!("peer {me} in epoch {}", peer.epoch());
    let mut met = !peer.neighbours().is_empty();
    if met {
        for (id, neighbour) in peer.neighbours() {
            let rung = peer.ring(*id, 0);
            println!("peer {me}: {id} is {}; rung: {rung}", neighbour.name);
        }
    } else {
        while !met || !peer.neighbours().is_empty() {
            if let Some(event) = peer.wait(None)? {
                println!("peer {me}: {event:?}");
                met |= matches!(event, Event::Peer(_));
            }
        }
    }
    drop(own);
    Ok(peer.leave()?)
}

/// What `portal serve` does, in a thread.
fn serve_and_visit() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("portal.sock");
    // Enforced sections: QEMU cannot join, so that there is one socket only.
    let lake = RegionConfig::parse("lake,size=1048576,sections=enforced", |n| n.parse().ok())
        .map_err(anyhow::Error::msg)?;
    let options = Options {
        portal: PortalSocket::At(socket.clone()),
        ..Options::default()
    };
    let daemon = Daemon::new(&[lake], &options)?;
    let (stop, stopped) = UnixStream::pair()?;
    let server = thread::spawn(move || daemon.run(stopped.as_fd(), &mut |_| ()));

    let first = join(&socket, "lake", "first")?;
    let first = thread::spawn(move || visit(first));
    let second = join(&socket, "lake", "second")?;
    visit(second)?;
    first.join().expect("no peer panics")?;
    drop(stop); // read as the end
    server.join().expect("no switchboard panics")?;
    Ok(())
}
