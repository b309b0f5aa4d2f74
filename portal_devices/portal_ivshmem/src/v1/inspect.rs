//! What an operator sees of an ivshmem v1 device.

use super::IvshmemV1;
use crate::view::inspect_counters;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;

pub(super) fn inspect(device: &IvshmemV1) -> Node {
    let config = &device.config;
    let function = &device.function;
    let kind = match config.vectors {
        0 => "ivshmem-plain",
        _ => "ivshmem-doorbell",
    };
    Node::new()
        .with("device", kind)
        .with("peer", config.peer)
        .with(
            "region",
            Node::new()
                .with("len", Hex(config.region_len))
                .with("windows", function.inspect_windows()),
        )
        .with("bars", function.inspect_bars(&device.bars))
        .with(
            "interrupts",
            Node::new()
                .with("mask", Hex(device.registers.mask.into()))
                .with("status", Hex(device.registers.status.into()))
                .with("intx", config.intx)
                .with("line", function.line())
                .with("msix_control", Hex(function.msix_control().into())),
        )
        .with("vectors", function.inspect_vectors())
        .with("peers", function.peers.inspect())
        .with("counters", inspect_counters(device))
}
