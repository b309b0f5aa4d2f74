//! An IOMMU, so that a stock Linux hands MSI-X to its user space: VFIO gives a
//! function's interrupts to a program only where an IOMMU stands before it.
//!
//! Specification: Intel Virtualization Technology for Directed I/O 4.1, 8 (the DMAR
//! table) and 11.4 (registers): one unit over all functions, register-based
//! invalidation, 48-bit tables, pass-through, no queued invalidation and no interrupt
//! remapping. What it translates is nothing: ivshmem does no DMA, and virtio without
//! `VIRTIO_F_ACCESS_PLATFORM` says that it goes past the unit (virtio 1.2, 6). So the
//! guest's tables are never read, and every invalidation is done at once.
//!
//! | offset | register |
//! |---|---|
//! | 00h | version |
//! | 08h, 10h | capabilities, extended capabilities |
//! | 18h, 1Ch | global command, global status |
//! | 20h | root table's address |
//! | 28h | context command: an invalidation |
//! | 34h | fault status: never one |
//! | 38h-47h | fault event: kept, never raised |
//! | F8h | IOTLB invalidation |
//! | the rest | reads 0, ignores writes |
//!
//! Distrusted: the guest. Each access is a few words of private state.

use crate::guard::Guard;
use crate::guard::stands;

/// Where the unit's registers lie: between the I/O APIC and the local ones.
pub(crate) const IOMMU_GPA: u64 = 0xFED9_0000;
/// Bytes of its registers.
pub(crate) const IOMMU_BYTES: u64 = 0x1000;

/// Widest access to the registers, in bytes; wider ones are taken apart.
pub(crate) const WORD: u8 = 4;

/// Version 1.0.
const VERSION: u32 = 0x10;
/// 256 domains; 48-bit tables of four levels; 48-bit guest addresses; one fault
/// record at 220h.
const CAPABILITY: u64 = 2 | 1 << 10 | 47 << 16 | 0x22 << 24;
/// Coherent table walks; pass-through; snoop control; IOTLB registers at F0h.
const EXTENDED: u64 = 1 | 1 << 6 | 1 << 7 | 0xF << 8;
/// Global command and status: translation, root table.
const TRANSLATION: u32 = 1 << 31;
const ROOT_TABLE: u32 = 1 << 30;
/// All commands that this unit carries out.
pub(crate) const COMMANDS: u32 = TRANSLATION | ROOT_TABLE;
/// High halves of the invalidation registers: go; and where the granularity that was
/// asked for and the one that was done stand.
pub(crate) const GO: u32 = 1 << 31;

/// The state of the unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Iommu {
    status: u32,
    root: [u32; 2],
    context: [u32; 2],
    iotlb: [u32; 2],
    /// Fault event control, data, address, upper address.
    fault: [u32; 4],
}

impl Iommu {
    /// A register, or half of one; `offset` is a multiple of 4.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => VERSION,
            0x08 => CAPABILITY as u32,
            0x0C => (CAPABILITY >> 32) as u32,
            0x10 => EXTENDED as u32,
            0x14 => (EXTENDED >> 32) as u32,
            0x1C => self.status,
            0x20 => self.root[0],
            0x24 => self.root[1],
            0x28 => self.context[0],
            0x2C => self.context[1],
            0x38 => self.fault[0],
            0x3C => self.fault[1],
            0x40 => self.fault[2],
            0x44 => self.fault[3],
            0xF8 => self.iotlb[0],
            0xFC => self.iotlb[1],
            _ => 0,
        }
    }

    /// Writes one.
    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x18 => {
                let can = if stands(Guard::Commands) {
                    COMMANDS
                } else {
                    u32::MAX
                };
                // A root table that was taken stays taken.
                self.status = (value | self.status & ROOT_TABLE) & can;
            }
            0x20 => self.root[0] = value,
            0x24 => self.root[1] = value,
            0x28 => self.context[0] = value,
            0x2C => self.context[1] = invalidated(value, 29, 27),
            0x38 => self.fault[0] = value,
            0x3C => self.fault[1] = value,
            0x40 => self.fault[2] = value,
            0x44 => self.fault[3] = value,
            0xF8 => self.iotlb[0] = value,
            0xFC => self.iotlb[1] = invalidated(value, 28, 25),
            _ => {}
        }
    }
}

/// The high half of an invalidation register once it has gone: at the granularity
/// that was asked for.
fn invalidated(value: u32, asked: u32, done: u32) -> u32 {
    if value & GO == 0 {
        return value;
    }
    let granularity = value >> asked & 0b11;
    value & !GO & !(0b11 << done) | granularity << done
}

/// What the DMAR table says behind its header: host address width, and one unit over
/// all functions of segment 0.
pub(super) fn dmar_body() -> Vec<u8> {
    const ADDRESS_BITS: u8 = 47;
    const INCLUDE_ALL: u8 = 1;
    const UNIT_BYTES: u16 = 16;
    let mut body = vec![0; 12];
    body[0] = ADDRESS_BITS;
    body.extend(0u16.to_le_bytes());
    body.extend(UNIT_BYTES.to_le_bytes());
    body.extend([INCLUDE_ALL, 0, 0, 0]);
    body.extend(IOMMU_GPA.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a driver waits for happens at once; what it asked for is what was done.
    #[test]
    fn commands_are_done_when_they_are_given() {
        let mut iommu = Iommu::default();
        iommu.write(0x18, ROOT_TABLE);
        assert_eq!(iommu.read(0x1C), ROOT_TABLE);
        iommu.write(0x18, TRANSLATION);
        assert_eq!(iommu.read(0x1C), ROOT_TABLE | TRANSLATION);
        iommu.write(0x18, 0);
        assert_eq!(iommu.read(0x1C), ROOT_TABLE);
        for granularity in 1..=3 {
            iommu.write(0x2C, GO | granularity << 29);
            assert_eq!(iommu.read(0x2C) & GO, 0);
            assert_eq!(iommu.read(0x2C) >> 27 & 0b11, granularity);
            iommu.write(0xFC, GO | granularity << 28);
            assert_eq!(iommu.read(0xFC) & GO, 0);
            assert_eq!(iommu.read(0xFC) >> 25 & 0b11, granularity);
        }
    }

    #[test]
    fn every_register_takes_every_write() {
        let mut iommu = Iommu::default();
        for offset in (0..IOMMU_BYTES).step_by(4) {
            for value in [0, 1, u32::MAX, GO] {
                iommu.write(offset, value);
                let read = iommu.read(offset);
                assert!(offset < 0x100 || read == 0, "{offset:#x}");
            }
        }
        assert_eq!(iommu.read(0x34), 0, "no fault");
        assert_eq!(iommu.read(0x00), VERSION);
    }
}
