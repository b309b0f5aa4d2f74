//! A host process as a peer of a region that `portal serve` serves.
//!
//! Joins, says what it sees, rings everybody once, and tells what happens until nobody
//! else is left.
//!
//!     portal serve --region lake,size=1MiB &
//!     cargo run --release --package portal_examples --example served_peer -- PATH REGION NAME

use anyhow::Context;
use hv_shmem::section::SectionConfig;
use portal_client::Connection;
use portal_client::JoinOptions;
use std::env;

const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 4 << 10,
};

fn main() -> anyhow::Result<()> {
    let word = |n, what| env::args().nth(n).context(what);
    let path = word(1, "give the Portal socket's path")?;
    let (region, name) = (word(2, "give a region")?, word(3, "give a name")?);

    let options = JoinOptions::host_process(&region, &name)?.vectors(1);
    let mut peer = Connection::open(path)?.join(&options)?;
    let own = peer.section(CONFIG)?; // rings, spans and an arena from here on
    println!("peer {} in epoch {}", peer.id(), peer.epoch());
    for (id, neighbour) in peer.neighbours() {
        println!(
            "peer {id} is {}; rung: {}",
            neighbour.name,
            peer.ring(*id, 0)
        );
    }
    while !peer.neighbours().is_empty() {
        if let Some(event) = peer.wait(None)? {
            println!("{event:?}");
        }
    }
    drop(own);
    peer.leave()?;
    Ok(())
}
