//! The lab's figures: each under every VMM in turns, inside one L1.
//!
//! | file | what |
//! |---|---|
//! | `part` | what one L1 measures, and in which turns |
//! | `boot`, `pairs`, `exits` | a turn: one guest's boot; two guests with doorbells and rings; what KVM did meanwhile |
//! | `machines` | an L1 a part, another one where it dies or stands still |
//! | `saved` | what is measured, kept as soon as it is there |
//! | `page` | the Guide's page of it |
//!
//! Clocks under TCG say nothing about real time; what VMMs cost in the same L1 can
//! still be compared. OpenVMM is one of them where `PORTAL_OPENVMM` names one.
//!
//! An emulated machine with an emulated SVM may die or stand still, the sooner the more
//! it has done. So each part has a short one of its own, a turn's samples leave it when
//! they are taken, and what was taken before it failed counts.

mod boot;
mod exits;
mod machines;
mod page;
mod pairs;
mod part;
mod saved;

pub use machines::measure;
pub use page::page;
pub use part::Part;
pub use part::turn_inside;
pub use saved::Place;
pub use saved::Run;
pub use saved::Saved;

use crate::vmm::Vmm;
use serde::Deserialize;
use serde::Serialize;

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// From the start of the VMM's process to the first line of our init.
    Boot,
    /// A doorbell round trip by MSI-X.
    MsiX,
    /// The same without an IOMMU.
    Direct,
    /// A doorbell round trip by INTx.
    IntX,
    /// A round trip through a ring, both guests spinning.
    RingTrip,
    /// Bytes through a ring.
    RingRate,
}

impl Figure {
    /// Every one, in the order of the page.
    pub const ALL: [Self; 6] = [
        Self::Boot,
        Self::MsiX,
        Self::Direct,
        Self::IntX,
        Self::RingTrip,
        Self::RingRate,
    ];

    /// What is measured.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Boot => "Guest boot, from starting the VMM to our init",
            Self::MsiX => {
                "Doorbell round trip, guest user space to guest user space, MSI-X by VFIO"
            }
            Self::Direct => "Doorbell round trip without an IOMMU, MSI-X by DPDK's `igb_uio`",
            Self::IntX => "Doorbell round trip, INTx by `uio_pci_generic`",
            Self::RingTrip => "56 bytes there and back through rings, both guests spinning",
            Self::RingRate => "Bytes through a ring of the region, guest to guest",
        }
    }

    /// The unit of its samples.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Boot => "s",
            Self::MsiX | Self::Direct | Self::IntX => "ms",
            Self::RingTrip => "µs",
            Self::RingRate => "MiB/s",
        }
    }

    /// Whether more is better; else less is.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::RingRate)
    }

    /// The part that it is a figure of.
    pub const fn part(self) -> Part {
        match self {
            Self::Boot => Part::Boot,
            Self::MsiX => Part::Doorbell,
            Self::Direct => Part::Direct,
            Self::IntX => Part::IntX,
            Self::RingTrip | Self::RingRate => Part::Ring,
        }
    }

    /// What it is compared with, of the same part: QEMU's, but for INTx, which QEMU's
    /// ivshmem has not.
    pub const fn baseline(self) -> (Self, Vmm) {
        match self {
            Self::IntX => (Self::MsiX, Vmm::PortalVmm),
            _ => (self, Vmm::Qemu),
        }
    }

    /// What the ratio to the baseline is held to, at most. Only `portal_vmm` is: how
    /// OpenVMM is built is not ours to say.
    pub const fn bar(self, vmm: Vmm) -> Option<f64> {
        match (self, vmm) {
            (Self::Boot, Vmm::PortalVmm) => Some(0.7),
            (Self::MsiX, Vmm::PortalVmm) => Some(1.0),
            _ => None,
        }
    }
}

/// What one turn of one VMM measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Of what.
    pub figure: Figure,
    /// Under which VMM.
    pub vmm: Vmm,
    /// In the figure's unit.
    pub samples: Vec<f64>,
    /// Counters of KVM for each round trip, by name: what was taken along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<(String, f64)>,
}

/// The middle one of some samples, the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the greater of the two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of these samples; `None` without any.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: *sorted.get(sorted.len() / 2)?,
            least: *sorted.first()?,
            most: *sorted.last()?,
            count: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_sample_counts() {
        let spread = Spread::of([3.0, 1.0, 9.0, 2.0, 8.0]).unwrap();
        assert_eq!((spread.median, spread.least), (3.0, 1.0));
        assert_eq!((spread.most, spread.count), (9.0, 5));
        assert_eq!(Spread::of([]), None);
    }
}
