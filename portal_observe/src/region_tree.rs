//! A region's view as the tree that `portal inspect` shows.

use hv_shmem::show::PeerView;
use hv_shmem::show::RegionView;
use hv_shmem::show::RingView;
use hv_shmem::show::SectionView;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use portal_device::inspect::Value;

/// The tree of one region: its own values, `peers/ID` and `rings/FROM-TO-ID`.
pub fn region(view: &RegionView) -> Node {
    let mut peers = Node::new();
    for one in &view.peers {
        peers.push(one.id.to_string(), peer(one));
    }
    let mut rings = Node::new();
    for one in &view.rings {
        let name = format!("{}-{}-{}", one.from, one.to, one.id);
        rings.push(name, ring(one));
    }
    if view.rings_left_out > 0 {
        rings.push("left_out", view.rings_left_out);
    }
    let [compat, ro_compat, incompat] = view.features;
    Node::new()
        .with("uuid", view.uuid.clone())
        .with("generation", view.generation)
        .with("size", Hex(view.size))
        .with("page", view.page)
        .with("host_bytes", Hex(view.host_bytes))
        .with("common_bytes", Hex(view.common_bytes))
        .with("section_bytes", Hex(view.section_bytes))
        .with("max_peers", view.max_peers)
        .with(
            "features",
            Node::new()
                .with("compatible", Hex(compat))
                .with("read_only_compatible", Hex(ro_compat))
                .with("incompatible", Hex(incompat)),
        )
        .with("storage", view.storage.clone())
        .with("enforced", view.enforced)
        .with("durable", view.durable)
        .with("peers", peers)
        .with("rings", rings)
}

fn peer(view: &PeerView) -> Node {
    let mut node = Node::new()
        .with("name", view.name.clone())
        .with("kind", view.kind.clone())
        .with("state", view.state.clone())
        .with("epoch", view.epoch)
        .with("rights", view.rights.join(" "))
        .with("vectors", view.vectors)
        .with("section", view.section.as_ref().map(section));
    if !view.problems.is_empty() {
        node.push("problems", list(&view.problems));
    }
    node
}

fn section(view: &SectionView) -> Node {
    let arena = view.arena.map(|arena| {
        Node::new()
            .with("bytes", arena.bytes)
            .with("live_bytes", arena.live_bytes)
            .with("live_spans", arena.live_spans)
            .with("lent_spans", arena.lent_spans)
            .with("free_pages", arena.free_pages)
            .with("pages", arena.pages)
            .with("faults", arena.faults)
    });
    Node::new()
        .with("state", view.state.clone())
        .with("epoch", view.epoch)
        .with("heartbeat", view.heartbeat)
        .with("entries_used", view.entries_used)
        .with("entries", view.entries)
        .with("ring_bytes_used", view.ring_bytes_used)
        .with("ring_bytes", view.ring_bytes)
        .with("arena", arena)
}

fn ring(view: &RingView) -> Node {
    Node::new()
        .with("kind", view.kind.clone())
        .with("layout", view.layout.clone())
        .with("slot_size", view.slot_size)
        .with("slots", view.slots)
        .with("instance", view.instance)
        .with("sent", view.sent)
        .with("taken", view.taken)
        .with("lost", view.lost)
        .with("sender_waits", view.sender_waits)
        .with("receiver_waits", view.receiver_waits)
        .with("current", view.current)
        .with("problem", view.problem.clone())
}

fn list(texts: &[String]) -> Node {
    let mut node = Node::new();
    for (index, text) in texts.iter().enumerate() {
        node.push(index.to_string(), Value::from(text.clone()));
    }
    node
}
