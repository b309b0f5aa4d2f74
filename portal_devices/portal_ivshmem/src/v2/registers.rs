//! The register file of ivshmem v2 and every guest access to it.
//!
//! Specification: Jailhouse's draft v2, "Register Region": aligned 32-bit
//! accesses only. Distrusted: the guest. Left out: what both
//! versions have in common ([`crate::guest`]).

use super::IvshmemV2;
use crate::function::DOORBELL;
use crate::function::MSIX;
use crate::function::REGION;
use crate::function::REGISTERS;
use portal_device::Effects;
use portal_pci::Refused;

const ID: u64 = 0x00;
const MAXIMUM_PEERS: u64 = 0x04;
const INTERRUPT_CONTROL: u64 = 0x08;
const STATE: u64 = 0x10;

impl IvshmemV2 {
    pub(super) fn bar_read(&mut self, bar: u8, offset: u64, len: u8, effects: &mut Effects) {
        effects.answer(Refused::answer(len));
        if !self.function.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS => effects.answer(self.register_read(offset, len).into()),
            MSIX => self.function.msix_read(offset, len, effects),
            _ => {
                self.function.counters.access_refused.bump();
            }
        }
    }

    fn register_read(&mut self, offset: u64, len: u8) -> u32 {
        if len != 4 {
            self.function.counters.access_refused.bump();
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
        if !self.function.reachable(bar, offset, len) {
            return;
        }
        match bar {
            REGISTERS if len == 4 => {
                self.register_write(offset, (value & u64::from(u32::MAX)) as u32, effects);
            }
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

    fn register_write(&mut self, offset: u64, value: u32, effects: &mut Effects) {
        match offset {
            INTERRUPT_CONTROL => {
                self.enabled = value & 1 != 0;
                self.sync_vectors(0..self.config.vectors, effects);
            }
            DOORBELL => self.function.doorbell(value, effects),
            STATE => self.set_state(value, effects),
            _ => {}
        }
    }
}
