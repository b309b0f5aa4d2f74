//! The register file of ivshmem v2 and every guest access to it.
//!
//! Specification: Jailhouse's draft v2, "Register Region": aligned 32-bit
//! accesses only. Distrusted: the guest. Left out: MSI-X, which
//! [`crate::pci`] has.

use super::IvshmemV2;
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

const ID: u64 = 0x00;
const MAXIMUM_PEERS: u64 = 0x04;
const INTERRUPT_CONTROL: u64 = 0x08;
const STATE: u64 = 0x10;

impl IvshmemV2 {
    pub(super) fn config_read(&mut self, offset: u16, len: u8, effects: &mut Effects) {
        match self.function.config.read(offset, len, false) {
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
            REGISTERS => effects.answer(self.register_read(offset, len).into()),
            MSIX => {
                if let Some((msix, _)) = &self.function.msix {
                    effects.answer(msix.read(offset, len));
                }
            }
            _ => {
                self.counters.access_refused.bump();
            }
        }
    }

    fn register_read(&mut self, offset: u64, len: u8) -> u32 {
        if len != 4 {
            self.counters.access_refused.bump();
            return 0;
        }
        match offset {
            ID => self.config.peer.0.into(),
            MAXIMUM_PEERS => self.config.layout.max_peers.into(),
            INTERRUPT_CONTROL => self.enabled.into(),
            STATE => self.state,
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
            REGISTERS if len == 4 => {
                self.register_write(offset, (value & u64::from(u32::MAX)) as u32, effects);
            }
            MSIX => self.table_write(offset, len, value, effects),
            REGION => {
                if self.counters.region_writes_dropped.bump() {
                    tracing::debug!(offset, "ivshmem: store to a read-only part of the region");
                }
                self.function
                    .denied(offset, self.config.denied_write, effects);
            }
            _ => {
                self.counters.access_refused.bump();
            }
        }
    }

    fn register_write(&mut self, offset: u64, value: u32, effects: &mut Effects) {
        match offset {
            INTERRUPT_CONTROL => {
                self.enabled = value & 1 != 0;
                self.sync_vectors(0..self.config.vectors, effects);
            }
            DOORBELL => self.doorbell(value, effects),
            STATE => self.set_state(value, effects),
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
