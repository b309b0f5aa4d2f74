//! What the transport is made from, and what of it cannot be.

use crate::MEMORY;
use crate::MOST_CONFIG;
use crate::MOST_ENTRIES;
use crate::MOST_ID;
use crate::MOST_QUEUES;
use crate::MSIX;
use crate::REGISTERS;
use crate::capabilities;
use portal_device::BarBacking;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_pci::MsixLayout;

/// What a transport has to know of the device inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// virtio device id, 1 to [`MOST_ID`].
    pub id: u16,
    /// PCI class, subclass, interface: 24 bits.
    pub class: u32,
    /// Features of the device's own; bits 24 to 63 are the transport's.
    pub features: u64,
    /// Largest size of each queue: powers of two, to [`MOST_ENTRIES`].
    pub queues: Vec<u16>,
    /// Bytes of the device's own configuration, to [`MOST_CONFIG`].
    pub config_len: u64,
    /// Bytes of shared-memory region 0; 0 for none.
    pub memory: u64,
}

/// Why a function cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An id without a PCI device id.
    #[error("id is {value}, it has to be 1 to {MOST_ID}")]
    Id {
        /// The id.
        value: u16,
    },
    /// Features that are not the device's to offer.
    #[error("features are {value:#x}, a device has bits 0 to 23")]
    Features {
        /// The bits.
        value: u64,
    },
    /// No queue, or too many.
    #[error("there are {value} queues, it has to be 1 to {MOST_QUEUES}")]
    Queues {
        /// The number.
        value: usize,
    },
    /// A queue of a size that no ring has.
    #[error("a queue has {value} entries, it has to be a power of two to {MOST_ENTRIES}")]
    Entries {
        /// The size.
        value: u16,
    },
    /// Configuration that does not fit its page.
    #[error("config_len is {value}, the limit is {MOST_CONFIG}")]
    Config {
        /// Bytes.
        value: u64,
    },
    /// Memory larger than any BAR.
    #[error("memory is {value:#x} bytes, the limit is 2^51")]
    Memory {
        /// Bytes.
        value: u64,
    },
}

pub(crate) fn check(about: &About) -> Result<(), ConfigError> {
    if !(1..=MOST_ID).contains(&about.id) {
        return Err(ConfigError::Id { value: about.id });
    }
    if about.features >> 24 != 0 {
        let value = about.features;
        return Err(ConfigError::Features { value });
    }
    let value = about.queues.len();
    if !(1..=MOST_QUEUES).contains(&value) {
        return Err(ConfigError::Queues { value });
    }
    let sound = |most: &u16| most.is_power_of_two() && *most <= MOST_ENTRIES;
    if let Some(value) = about.queues.iter().find(|most| !sound(most)) {
        return Err(ConfigError::Entries { value: *value });
    }
    if about.config_len > MOST_CONFIG {
        let value = about.config_len;
        return Err(ConfigError::Config { value });
    }
    if about.memory > 1 << 51 {
        let value = about.memory;
        return Err(ConfigError::Memory { value });
    }
    Ok(())
}

pub(crate) fn bars(about: &About, msix: &MsixLayout) -> Vec<BarInfo> {
    let registers = |bar, len| BarInfo {
        bar,
        len,
        kind: BarKind::Memory32,
        backing: BarBacking::Registers,
    };
    let mut bars = vec![
        registers(REGISTERS, capabilities::REGISTERS_LEN),
        registers(MSIX, msix.bar_len),
    ];
    if about.memory > 0 {
        bars.push(BarInfo {
            bar: MEMORY,
            len: about.memory.next_power_of_two(),
            kind: BarKind::Memory64Prefetchable,
            backing: BarBacking::Region,
        });
    }
    bars
}
