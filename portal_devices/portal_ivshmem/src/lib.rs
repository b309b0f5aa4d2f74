//! ivshmem as a state machine that knows no VMM.
//!
//! * [`v1`]: register- and BAR-compatible with QEMU's ivshmem, revision 1: a
//!   PCI function 1AF4:1110 with 256 bytes of registers, an MSI-X BAR and the
//!   region behind a prefetchable BAR.
//! * [`v2`]: the region's own layout as the guest sees it, after Jailhouse's
//!   draft: a PCI function 110A:4106 with sections, a state table and a state
//!   register, one-shot interrupts.
//!
//! Specifications: QEMU's device specification for ivshmem (register file and
//! ids), PCI Local Bus 3.0 chapter 6 (configuration space, BARs, MSI-X 6.8.2).
//!
//! Distrusted: the guest, and the writer of a saved state. Trusted: the
//! binding's order of calls and the switchboard's peer ids (which are checked
//! for range all the same).
//!
//! Left out: what is in the region, how events travel, threads and descriptors.

pub mod v1;
pub mod v2;

mod function;
pub mod guard;
mod guest;
mod peers;
mod place;
mod view;
mod window;

pub use place::Model;
pub use place::Place;
pub use v1::IvshmemV1;
pub use v1::IvshmemV1Config;
pub use v2::IvshmemV2;
pub use v2::IvshmemV2Config;
pub use window::DeniedWrite;
pub use window::MAX_WINDOWS;
pub use window::Window;
pub use window::Writable;

/// Why a device cannot be made as configured. Every text names the key, its
/// value and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A BAR has to be a power of two.
    #[error("region_len is {value:#x}, which is no power of two")]
    RegionNotPowerOfTwo {
        /// The length, bytes.
        value: u64,
    },
    /// Too small or too large for a BAR.
    #[error("region_len is {value:#x}, it has to be {least:#x} to {most:#x}")]
    RegionLen {
        /// The length, bytes.
        value: u64,
        /// Smallest length, bytes.
        least: u64,
        /// Largest length, bytes.
        most: u64,
    },
    /// More vectors than MSI-X has.
    #[error("vectors is {value}, the limit is {limit}")]
    Vectors {
        /// The number.
        value: u16,
        /// MSI-X's limit.
        limit: u16,
    },
    /// More windows than a region has parts.
    #[error("windows has {value} entries, the limit is {limit}")]
    Windows {
        /// The number.
        value: usize,
        /// The limit.
        limit: usize,
    },
    /// A window that does not follow the one before it.
    #[error(
        "windows[{index}] is {offset:#x} and {len:#x} bytes, it has to start at {expected:#x}, \
         be a multiple of 4096 bytes and end inside the region"
    )]
    Window {
        /// Which one.
        index: usize,
        /// Its offset, bytes.
        offset: u64,
        /// Its length, bytes.
        len: u64,
        /// Where the one before ends.
        expected: u64,
    },
    /// The windows leave the end of the region out.
    #[error("windows end at {value:#x}, region_len is {region_len:#x}")]
    WindowsEnd {
        /// Where the last one ends, bytes.
        value: u64,
        /// Length of the region, bytes.
        region_len: u64,
    },
    /// A peer id that the region does not have, or a region for one peer only.
    #[error(
        "peer is {value}, it has to be below max_peers = {max_peers}, which has to be 2 or more"
    )]
    Peer {
        /// The id.
        value: u16,
        /// Ids that the region has.
        max_peers: u16,
    },
    /// A region address that no guest has.
    #[error("base is {value:#x}, it has to be a multiple of 4096 from 0x1000 to {limit:#x}")]
    Base {
        /// The address.
        value: u64,
        /// The highest one.
        limit: u64,
    },
    /// A v2 function shows who writes what.
    #[error("the memory holds no region with peers, which is what ivshmem v2 shows")]
    NoLayout,
    /// INTx tells of doorbells, and a plain function has none.
    #[error("intx is on with vectors = 0: a plain function has no doorbells to interrupt for")]
    IntxWithoutVectors,
}
