//! A system at one moment, as plain values.

use hv_shmem::show::RegionView;
use portal_device::inspect::Node;
use portal_device::inspect::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most partitions of one sample; a process runs no more than some dozens.
pub const PARTITIONS_MAX: usize = 256;

/// A system at one moment. The figures are of one moment each, close to each
/// other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When, since the observer began.
    pub at: Duration,
    /// Regions, each once.
    pub regions: Vec<RegionView>,
    /// Doorbells that user space saw, since the peer came: by region and peer.
    pub doorbells: BTreeMap<(String, u16), u64>,
    /// Partitions of VMMs.
    pub partitions: Vec<PartitionSample>,
    /// What could not be looked at, and why.
    pub problems: Vec<String>,
}

/// A partition at one moment. Counts are of events since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSample {
    /// Its name.
    pub name: String,
    /// What it does: `running`, `paused` or how it ended.
    pub state: String,
    /// vCPUs.
    pub vcpus: u64,
    /// Exits to user space.
    pub exits: u64,
    /// Interrupts that the kernel injected; `None` where it keeps no count.
    pub interrupts: Option<u64>,
    /// Doorbells that left the guest by an exit.
    pub doorbells: u64,
    /// Stores to someone else's section that were dropped.
    pub dropped_stores: u64,
}

/// The number at a path of a tree; 0 when there is none.
fn number(tree: &Node, path: &str) -> u64 {
    optional(tree, path).unwrap_or(0)
}

fn optional(tree: &Node, path: &str) -> Option<u64> {
    match tree.get(path)? {
        Value::Number(n) | Value::Hex(n) => Some(*n),
        _ => None,
    }
}

fn text(tree: &Node, path: &str) -> String {
    match tree.get(path) {
        Some(Value::Text(text)) => text.clone().into_owned(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

/// The named subtrees at a path.
fn nodes<'a>(tree: &'a Node, path: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
    let found = match tree.get(path) {
        Some(Value::Node(node)) => Some(node),
        _ => None,
    };
    let entries = found.into_iter().flat_map(Node::entries);
    entries.filter_map(|(name, value)| match value {
        Value::Node(node) => Some((name, node)),
        _ => None,
    })
}

impl Sample {
    /// Takes from the tree of a switchboard or a VMM what a region's memory does
    /// not say: partitions, and doorbells that user space saw.
    pub fn learn(&mut self, tree: &Node) {
        for (region, node) in nodes(tree, "regions") {
            for (peer, node) in nodes(node, "peers") {
                if let Ok(peer) = peer.parse() {
                    self.rung(region, peer, number(node, "doorbell_hops"));
                }
            }
        }
        let room = PARTITIONS_MAX.saturating_sub(self.partitions.len());
        for (name, node) in nodes(tree, "partitions").take(room) {
            let mut partition = PartitionSample {
                name: name.to_owned(),
                state: text(node, "state"),
                ..PartitionSample::default()
            };
            for (_, vcpu) in nodes(node, "vcpus") {
                partition.vcpus = partition.vcpus.saturating_add(1);
                let add = |to: &mut u64, path| *to = to.saturating_add(number(vcpu, path));
                add(&mut partition.exits, "user_exits");
                add(&mut partition.dropped_stores, "dropped_stores");
                if let Some(count) = optional(vcpu, "kernel/irq_injections") {
                    let before = partition.interrupts.unwrap_or(0);
                    partition.interrupts = Some(before.saturating_add(count));
                }
            }
            for (_, device) in nodes(node, "devices") {
                let seen = number(device, "binding/doorbells_seen");
                partition.doorbells = partition.doorbells.saturating_add(seen);
                let peer = optional(device, "binding/peer").and_then(|id| u16::try_from(id).ok());
                if let Some(peer) = peer {
                    self.rung(&text(device, "binding/region"), peer, seen);
                }
            }
            self.partitions.push(partition);
        }
    }

    fn rung(&mut self, region: &str, peer: u16, count: u64) {
        let known = self.regions.iter().any(|r| r.name == region);
        // Only peers of regions that are shown, so that no tree makes this grow.
        if known {
            let sum = self.doorbells.entry((region.to_owned(), peer)).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Adds what another source says. A region that is there already (one that a
    /// VMM joined and its switchboard serves) stays as it is.
    pub fn merge(&mut self, other: Self) {
        for region in other.regions {
            if !self.regions.iter().any(|r| r.uuid == region.uuid) {
                self.regions.push(region);
            }
        }
        for (key, count) in other.doorbells {
            let sum = self.doorbells.entry(key).or_default();
            *sum = sum.saturating_add(count);
        }
        let room = PARTITIONS_MAX.saturating_sub(self.partitions.len());
        self.partitions
            .extend(other.partitions.into_iter().take(room));
        self.problems.extend(other.problems);
    }
}
