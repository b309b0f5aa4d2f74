//! What an operator sees of an ivshmem v1 device.

use super::IvshmemV1;
use crate::function::Delivery;
use portal_device::Access;
use portal_device::Device;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;

pub(super) fn inspect(device: &IvshmemV1) -> Node {
    let config = &device.config;
    let function = &device.function;
    let mut bars = Node::new();
    for info in &device.bars {
        bars.push(
            info.bar.to_string(),
            Node::new()
                .with("len", Hex(info.len))
                .with("gpa", function.config.decoded(info.bar).map(Hex)),
        );
    }
    let mut vectors = Node::new();
    for vector in 0..config.vectors {
        let delivery = match function.delivery(vector) {
            Delivery::Off => "off".to_owned(),
            Delivery::Listening => "intx".to_owned(),
            Delivery::Connected(msi) => format!("msi {:#x} data {:#x}", msi.address, msi.data),
        };
        let pending = function
            .msix
            .as_ref()
            .is_some_and(|(msix, _)| msix.pending(vector));
        vectors.push(
            vector.to_string(),
            Node::new()
                .with("delivery", delivery)
                .with("pending", pending),
        );
    }
    let mut windows = Node::new();
    for window in function.windows() {
        let access = if window.access == Access::ReadOnly {
            "read-only"
        } else {
            "read-write"
        };
        windows.push(
            format!("{:#x}", window.offset),
            Node::new()
                .with("len", Hex(window.len))
                .with("access", access),
        );
    }
    let mut counters = Node::new();
    device.counters(&mut |name, count| counters.push(name, count));
    Node::new()
        .with(
            "device",
            if config.vectors > 0 {
                "ivshmem-doorbell"
            } else {
                "ivshmem-plain"
            },
        )
        .with("peer", config.peer)
        .with(
            "region",
            Node::new()
                .with("len", Hex(config.region_len))
                .with("windows", windows),
        )
        .with("bars", bars)
        .with(
            "interrupts",
            Node::new()
                .with("mask", Hex(device.registers.mask.into()))
                .with("status", Hex(device.registers.status.into()))
                .with("intx", config.intx)
                .with("line", function.line())
                .with("msix_control", Hex(function.msix_control().into())),
        )
        .with("vectors", vectors)
        .with("peers", function.peers.inspect())
        .with("counters", counters)
}
