//! Who can be rung, and with what.
//!
//! Distrusted: nobody here; ids and vector counts come from the switchboard and
//! are checked for range only. Left out: how a ring reaches the peer.

use portal_device::Counter;
use portal_device::inspect::Node;
use std::collections::BTreeMap;

/// Doorbells that one device asks its binding to route in the kernel. Each is
/// an entry on the hypervisor's I/O bus (KVM has 1000 a partition, for all
/// devices together). Peers that come when the budget is used up are rung
/// through the trapped register.
pub(crate) const MAX_ROUTES: u32 = 512;

/// Where a peer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerPhase {
    Joined,
    Ready,
    Quiescing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) vectors: u16,
    pub(crate) phase: PeerPhase,
    /// Whether its doorbells are within [`MAX_ROUTES`].
    pub(crate) routed: bool,
    /// Doorbells to it that came through the trapped register.
    pub(crate) trapped: Counter,
}

/// All peers that are there, this one among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    by_id: BTreeMap<u16, Peer>,
    routes: u32,
}

impl Peers {
    /// Adds a peer that is not there.
    pub(crate) fn add(&mut self, id: u16, vectors: u16) -> &Peer {
        let routed = u32::from(vectors) <= MAX_ROUTES.saturating_sub(self.routes);
        if routed {
            self.routes = self.routes.saturating_add(vectors.into());
        }
        let peer = Peer {
            vectors,
            phase: PeerPhase::Joined,
            routed,
            trapped: Counter::default(),
        };
        self.by_id.entry(id).or_insert(peer)
    }

    pub(crate) fn remove(&mut self, id: u16) -> Option<Peer> {
        let peer = self.by_id.remove(&id)?;
        if peer.routed {
            self.routes = self.routes.saturating_sub(peer.vectors.into());
        }
        Some(peer)
    }

    pub(crate) fn get_mut(&mut self, id: u16) -> Option<&mut Peer> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Peer)> {
        self.by_id.iter().map(|(id, peer)| (*id, peer))
    }

    /// Every (peer, vector) that is to be routed while decoding is on.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (u16, u16)> {
        self.iter()
            .filter(|(_, peer)| peer.routed)
            .flat_map(|(id, peer)| (0..peer.vectors).map(move |vector| (id, vector)))
    }

    pub(crate) fn inspect(&self) -> Node {
        let mut node = Node::new();
        for (id, peer) in self.iter() {
            let phase = match peer.phase {
                PeerPhase::Joined => "joined",
                PeerPhase::Ready => "ready",
                PeerPhase::Quiescing => "quiescing",
            };
            node.push(
                id.to_string(),
                Node::new()
                    .with("state", phase)
                    .with("vectors", peer.vectors)
                    .with("route", if peer.routed { "kernel" } else { "trapped" })
                    .with("doorbells_trapped", peer.trapped.get()),
            );
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_budget_is_kept_and_given_back() {
        let mut peers = Peers::default();
        for id in 0..8 {
            assert!(peers.add(id, 64).routed);
        }
        assert!(!peers.add(8, 1).routed);
        assert_eq!(peers.routes().count(), 512);
        assert!(peers.remove(8).is_some());
        assert!(peers.remove(3).is_some());
        assert!(peers.remove(3).is_none());
        assert!(peers.add(9, 64).routed);
        assert_eq!(peers.routes().count(), 512);
    }
}
