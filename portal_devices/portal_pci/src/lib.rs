//! The parts of a PCI function that every device here has: type-0 configuration
//! space and the MSI-X table.
//!
//! Specification: PCI Local Bus 3.0, chapter 6. Distrusted: the guest. Left
//! out: I/O BARs, expansion ROM, power management, PCI Express capabilities.

mod config;
pub mod guard;
mod msix;

pub use config::{ConfigSpace, Identity, Refused};
pub use msix::{MAX_VECTORS, Msix, MsixLayout, TableWrite};

/// Whether an access is one that a bus can carry: `len` is 1, 2, 4 or 8 bytes
/// and the offset is a multiple of it.
pub fn natural(offset: u64, len: u8) -> bool {
    matches!(len, 1 | 2 | 4 | 8) && offset & u64::from(len).wrapping_sub(1) == 0
}

/// All ones in the low `len` bytes: what nobody's answer reads as.
pub fn ones(len: u8) -> u64 {
    match len {
        0 => 0,
        1..=7 => (1u64 << (u32::from(len) * 8)).wrapping_sub(1),
        _ => u64::MAX,
    }
}

/// The `len` bytes at byte `offset & 3` of a 32-bit register.
pub fn part(register: u32, offset: u64, len: u8) -> u64 {
    (u64::from(register) >> ((offset & 3) * 8)) & ones(len)
}

/// A 32-bit register after a write of `len` bytes at byte `offset & 3`.
pub fn merge(register: u32, offset: u64, len: u8, value: u64) -> u32 {
    let shift = (offset & 3) * 8;
    let mask = ones(len) << shift;
    let merged = (u64::from(register) & !mask) | ((value << shift) & mask);
    (merged & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_natural_accesses_are_natural() {
        assert!(natural(6, 2) && natural(8, 8) && natural(3, 1));
        assert!(!natural(6, 4) && !natural(4, 8) && !natural(0, 3) && !natural(0, 0));
    }

    #[test]
    fn parts_and_merges_are_byte_enables() {
        assert_eq!(part(0x4433_2211, 6, 2), 0x4433);
        assert_eq!(merge(0x4433_2211, 5, 1, 0xffaa), 0x4433_aa11);
        assert_eq!(merge(0x4433_2211, 4, 4, 0x1_0000_0002), 2);
        assert_eq!(
            (ones(0), ones(1), ones(8), ones(200)),
            (0, 0xff, u64::MAX, u64::MAX)
        );
    }
}
