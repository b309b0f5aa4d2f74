//! The register file of ivshmem v1 and every guest access to it.
//!
//! Specification: QEMU's ivshmem device specification, "Registers"; see the
//! parent module for the table and for accesses of other widths. Distrusted:
//! the guest. Left out: what both versions have in common ([`crate::guest`]).

use super::IvshmemV1;
use crate::function::DOORBELL;
use crate::function::MSIX;
use crate::function::REGION;
use crate::function::REGISTERS;
use portal_device::Effects;
use portal_pci::Refused;
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
    pub(super) fn bar_read(&mut self, bar: u8, offset: u64, len: u8, effects: &mut Effects) {
        effects.answer(Refused::answer(len));
        if !self.function.reachable(bar, offset, len) {
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
            MSIX => self.function.msix_read(offset, len, effects),
            // The region is mapped: a read that traps is one that the binding
            // could not map.
            _ => {
                self.function.counters.access_refused.bump();
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
        if !self.function.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS if len == 8 => {
                self.register_write(offset, 4, value & u64::from(u32::MAX), effects);
                self.register_write(offset | 4, 4, value >> 32, effects);
            }
            REGISTERS => self.register_write(offset, len, value, effects),
            MSIX => {
                let changed = self.function.msix_write(offset, len, value);
                self.sync_vectors(changed, effects);
            }
            REGION => {
                let policy = self.config.denied_write;
                self.function.region_write(offset, policy, effects);
            }
            _ => {
                self.function.counters.access_refused.bump();
            }
        }
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
            DOORBELL if len == 4 => {
                let value = (value & u64::from(u32::MAX)) as u32;
                self.function.doorbell(value, effects);
            }
            DOORBELL => {
                self.function.counters.access_refused.bump();
            }
            _ => {}
        }
    }
}
