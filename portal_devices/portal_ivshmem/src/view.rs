//! The parts of the inspect view that ivshmem v1 and v2 share.

use crate::function::Delivery;
use crate::function::Function;
use portal_device::Access;
use portal_device::BarInfo;
use portal_device::Device;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;

impl Function {
    /// Length of each BAR, and where it is decoded.
    pub(crate) fn inspect_bars(&self, bars: &[BarInfo]) -> Node {
        let mut node = Node::new();
        for info in bars {
            node.push(
                info.bar.to_string(),
                Node::new()
                    .with("len", Hex(info.len))
                    .with("gpa", self.config.decoded(info.bar).map(Hex)),
            );
        }
        node
    }

    /// Offset, length and access of each window.
    pub(crate) fn inspect_windows(&self) -> Node {
        let mut node = Node::new();
        for window in self.windows() {
            let access = match window.access {
                Access::ReadOnly => "read-only",
                Access::ReadWrite => "read-write",
            };
            node.push(
                format!("{:#x}", window.offset),
                Node::new()
                    .with("len", Hex(window.len))
                    .with("access", access),
            );
        }
        node
    }

    /// How each vector is delivered, and whether it is pending.
    pub(crate) fn inspect_vectors(&self) -> Node {
        let mut node = Node::new();
        let Some((msix, _)) = &self.msix else {
            return node;
        };
        for vector in 0..msix.layout().vectors {
            let delivery = match self.delivery(vector) {
                Delivery::Off => "off".to_owned(),
                Delivery::Listening => "through the device".to_owned(),
                Delivery::Connected(msi) => {
                    format!("msi {:#x} data {:#x}", msi.address, msi.data)
                }
            };
            node.push(
                vector.to_string(),
                Node::new()
                    .with("delivery", delivery)
                    .with("pending", msix.pending(vector)),
            );
        }
        node
    }
}

/// The counters of a device, by name.
pub(crate) fn inspect_counters(device: &impl Device) -> Node {
    let mut node = Node::new();
    device.counters(&mut |name, count| node.push(name, count));
    node
}
