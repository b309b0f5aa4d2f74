//! The register file of ivshmem v1 and every guest access to it.
//!
//! Specification: QEMU's ivshmem device specification, "Registers"; see the
//! parent module for the table and for accesses of other widths. Distrusted:
//! the guest. Left out: MSI-X, which [`crate::pci`] has.

use super::IvshmemV1;
use crate::function::DOORBELL;
use crate::function::MSIX;
use crate::function::REGION;
use crate::function::REGISTERS;
use crate::function::Reach;
use crate::guard::Guard;
use portal_device::Effects;
use portal_device::guard::stands;
use portal_pci::Refused;
use portal_pci::TableWrite;
use portal_pci::merge;
use portal_pci::part;

const INTERRUPT_MASK: u64 = 0x00;
const INTERRUPT_STATUS: u64 = 0x04;
const IV_POSITION: u64 = 0x08;

/// Mask and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) mask: u32,
    pub(super) status: u32,
}

impl Registers {
    pub(super) fn reset(&mut self) {
        *self = Registers::default();
    }

    /// A doorbell came while INTx is in use.
    pub(super) fn ring(&mut self) {
        self.status |= 1;
    }

    pub(super) fn condition(self) -> bool {
        self.status & self.mask != 0
    }
}

impl IvshmemV1 {
    pub(super) fn config_read(&mut self, offset: u16, len: u8, effects: &mut Effects) {
        match self
            .function
            .config
            .read(offset, len, self.intx_condition())
        {
            Ok(value) => effects.answer(value.into()),
            Err(Refused) => {
                self.counters.config_refused.bump();
                effects.answer(Refused::answer(len));
            }
        }
    }

    pub(super) fn config_write(&mut self, offset: u16, len: u8, value: u32, effects: &mut Effects) {
        match self.function.config.write(offset, len, value) {
            Ok(true) => self.sync(effects),
            Ok(false) => {}
            Err(Refused) => {
                self.counters.config_refused.bump();
            }
        }
    }

    /// Whether the guest can have reached this place: the BAR is decoded, and
    /// the access is natural and ends inside.
    fn reachable(&mut self, bar: u8, offset: u64, len: u8) -> bool {
        match self.function.reach(bar, offset, len) {
            Reach::Inside => return true,
            Reach::Outside => self.counters.access_refused.bump(),
            Reach::Undecoded => self.counters.undecoded.bump(),
        };
        false
    }

    pub(super) fn bar_read(&mut self, bar: u8, offset: u64, len: u8, effects: &mut Effects) {
        effects.answer(Refused::answer(len));
        if !self.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS if len == 8 => {
                let low = u64::from(self.register_read(offset));
                let high = u64::from(self.register_read(offset | 4));
                effects.answer(low | (high << 32));
                self.sync_line(effects);
            }
            REGISTERS => {
                let register = self.register_read(offset & !3);
                effects.answer(part(register, offset, len));
                self.sync_line(effects);
            }
            MSIX => {
                if let Some((msix, _)) = &self.function.msix {
                    effects.answer(msix.read(offset, len));
                }
            }
            // The region is mapped: a read that traps is one that the binding
            // could not map.
            _ => {
                self.counters.access_refused.bump();
            }
        }
    }

    fn register_read(&mut self, offset: u64) -> u32 {
        match offset {
            INTERRUPT_MASK => self.registers.mask,
            INTERRUPT_STATUS => std::mem::take(&mut self.registers.status),
            IV_POSITION if self.config.vectors > 0 => self.config.peer.into(),
            _ => 0,
        }
    }

    pub(super) fn bar_write(
        &mut self,
        bar: u8,
        offset: u64,
        len: u8,
        value: u64,
        effects: &mut Effects,
    ) {
        if !self.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS if len == 8 => {
                self.register_write(offset, 4, value & u64::from(u32::MAX), effects);
                self.register_write(offset | 4, 4, value >> 32, effects);
            }
            REGISTERS => self.register_write(offset, len, value, effects),
            MSIX => self.table_write(offset, len, value, effects),
            REGION => self.region_write(offset, effects),
            _ => {
                self.counters.access_refused.bump();
            }
        }
    }

    fn region_write(&mut self, offset: u64, effects: &mut Effects) {
        if self.counters.region_writes_dropped.bump() {
            tracing::debug!(offset, "ivshmem: store to a read-only part of the region");
        }
        self.function
            .denied(offset, self.config.denied_write, effects);
    }

    fn register_write(&mut self, offset: u64, len: u8, value: u64, effects: &mut Effects) {
        let merged = |register| merge(register, offset, len, value);
        match offset & !3 {
            INTERRUPT_MASK => {
                self.registers.mask = merged(self.registers.mask);
                self.sync_line(effects);
            }
            INTERRUPT_STATUS => {
                self.registers.status = merged(self.registers.status);
                self.sync_line(effects);
            }
            DOORBELL if len == 4 => self.doorbell((value & u64::from(u32::MAX)) as u32, effects),
            DOORBELL => {
                self.counters.access_refused.bump();
            }
            _ => {}
        }
    }

    fn doorbell(&mut self, value: u32, effects: &mut Effects) {
        let (peer, vector) = ((value >> 16) as u16, (value & 0xffff) as u16);
        match self.function.peers.get_mut(peer) {
            Some(record) if vector < record.vectors || !stands(Guard::KnownVector) => {
                record.trapped.bump();
                self.counters.doorbells_trapped.bump();
                self.function.ring(peer, vector, effects);
            }
            _ => {
                self.counters.doorbells_unknown.bump();
            }
        }
    }

    fn table_write(&mut self, offset: u64, len: u8, value: u64, effects: &mut Effects) {
        let Some((msix, _)) = &mut self.function.msix else {
            return;
        };
        match msix.write(offset, len, value) {
            TableWrite::Entry(vector) => {
                self.sync_vectors(vector..vector.saturating_add(1), effects);
            }
            TableWrite::Nothing => {}
            TableWrite::Refused => {
                self.counters.access_refused.bump();
            }
        }
    }
}
