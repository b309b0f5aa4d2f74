//! The seat as an operator sees it.

use super::Seat;
use portal_device::inspect::Node;

impl Seat {
    /// Everything that an operator may want to see.
    pub fn inspect(&self) -> Node {
        let shared = &*self.shared;
        let node = Node::new()
            .with("region", shared.region.clone())
            .with("uuid", shared.identity.region.to_string())
            .with("peer", shared.identity.peer.0);
        shared.tables(|tables| {
            let mut peers = Node::new();
            for (id, other) in &tables.others {
                let peer = Node::new()
                    .with("name", other.name.to_string())
                    .with("kind", other.kind.name())
                    .with("state", other.phase.name())
                    .with("epoch", other.epoch)
                    .with("vectors", other.bells.len() as u64);
                peers.push(id.0.to_string(), peer);
            }
            node.with("epoch", tables.epoch)
                .with("lives_begun_anew", tables.lives.get())
                .with("switchboard", tables.standing.name())
                .with("ready", tables.ready)
                .with("error", tables.error.clone())
                .with("vectors", tables.own.len() as u64)
                .with("vectors_rung_by_hop", tables.passed_on.len() as u64)
                .with("rung_by_hop", tables.rung_by_hop.get())
                .with("peers", peers)
        })
    }
}
