//! A partition as an operator sees it: the tree of `portal inspect`.
//!
//! An observer is a hold on a partition that other threads may keep. It neither
//! keeps the partition alive nor stops it: counters are read as they are, and a
//! device's lock is held for as long as its own part of the tree takes.
//!
//! Doorbells that go from guest to guest inside the kernel are seen by nobody
//! here. `doorbells_routed` says how many ways of that kind there are; what they
//! deliver is among the kernel's `irq_injections` of the vCPUs that hear them.

use crate::binding::Binding;
use crate::kvm::StatsReader;
use crate::partition::Shared;
use crate::stats::Counters;
use crate::stats::VcpuStats;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use portal_device::inspect::Value;
use std::sync::Arc;
use std::sync::Weak;

/// A look at one partition.
#[derive(Clone)]
pub struct PartitionObserver {
    shared: Weak<Shared>,
    counters: Vec<Arc<Counters>>,
    kernel: Arc<[Option<StatsReader>]>,
}

impl PartitionObserver {
    pub(crate) fn new(
        shared: Weak<Shared>,
        counters: Vec<Arc<Counters>>,
        kernel: Arc<[Option<StatsReader>]>,
    ) -> Self {
        Self {
            shared,
            counters,
            kernel,
        }
    }

    /// The partition's name and tree: `state`, `ram`, `vcpus/N`, `devices/NAME`.
    /// `None` once the partition was dropped.
    pub fn inspect(&self) -> Option<(String, Node)> {
        let shared = self.shared.upgrade()?;
        let mut vcpus = Node::new();
        for (index, own) in self.counters.iter().enumerate() {
            let mut stats = own.read();
            if let Some(Some(reader)) = self.kernel.get(index) {
                // A kernel that stops telling leaves an empty list.
                stats.kernel = reader.read().unwrap_or_default();
            }
            vcpus.push(index.to_string(), vcpu(stats));
        }
        let mut devices = Node::new();
        for binding in shared.platform.devices() {
            devices.push(binding.name().to_owned(), device(&binding));
        }
        let tree = Node::new()
            .with("state", shared.state())
            .with("ram", Hex(shared.platform.ram.bytes()))
            .with("console_lost", shared.platform.uart().lost())
            .with("vcpus", vcpus)
            .with("devices", devices);
        Some((shared.name.clone(), tree))
    }
}

impl std::fmt::Debug for PartitionObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionObserver")
            .field("vcpus", &self.counters.len())
            .finish_non_exhaustive()
    }
}

fn vcpu(stats: VcpuStats) -> Node {
    let mut kernel = Node::new();
    for (name, value) in stats.kernel {
        kernel.push(name, value);
    }
    Node::new()
        .with("user_exits", stats.user_exits)
        .with("interrupted", stats.interrupted)
        .with("port_reads", stats.port_reads)
        .with("port_writes", stats.port_writes)
        .with("mmio_reads", stats.mmio_reads)
        .with("mmio_writes", stats.mmio_writes)
        .with("dropped_stores", stats.dropped_stores)
        .with("unknown_ports", stats.unknown_ports)
        .with("kernel", kernel)
}

/// The device's own tree, and its binding's under `binding`.
fn device(binding: &Binding) -> Node {
    binding
        .device()
        .inspect()
        .with("binding", Value::Node(binding.inspect()))
}
