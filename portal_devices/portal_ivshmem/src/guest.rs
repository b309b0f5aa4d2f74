//! What a guest's accesses and its peers' lives come to, where ivshmem v1 and v2
//! do not differ: configuration space, the MSI-X table, the doorbell, stores to
//! the region; and what of it is counted.
//!
//! Distrusted: the guest. Left out: the register file.

use crate::function::Function;
use crate::function::Reach;
use crate::guard::Guard;
use crate::peers::PeerPhase;
use crate::window::DeniedWrite;
use portal_device::Access;
use portal_device::Counter;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::StopReason;
use portal_device::guard::stands;
use portal_pci::MAX_VECTORS;
use portal_pci::Refused;
use portal_pci::TableWrite;

/// What both versions count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) config_refused: Counter,
    pub(crate) access_refused: Counter,
    pub(crate) undecoded: Counter,
    pub(crate) region_writes_dropped: Counter,
    pub(crate) doorbells_trapped: Counter,
    pub(crate) doorbells_unknown: Counter,
    pub(crate) rung: Counter,
    pub(crate) raised: Counter,
    pub(crate) peers_refused: Counter,
    pub(crate) resets: Counter,
}

impl Counters {
    /// Each of them, by name.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        for (name, counter) in [
            ("config_refused", self.config_refused),
            ("access_refused", self.access_refused),
            ("undecoded", self.undecoded),
            ("region_writes_dropped", self.region_writes_dropped),
            ("doorbells_trapped", self.doorbells_trapped),
            ("doorbells_unknown", self.doorbells_unknown),
            ("rung", self.rung),
            ("raised", self.raised),
            ("peers_refused", self.peers_refused),
            ("resets", self.resets),
        ] {
            visit(name, counter.get());
        }
    }
}

impl Function {
    /// Answers a read of configuration space; `intx` is the INTx condition.
    pub(crate) fn config_read(&mut self, offset: u16, len: u8, intx: bool, effects: &mut Effects) {
        match self.config.read(offset, len, intx) {
            Ok(value) => effects.answer(value.into()),
            Err(Refused) => {
                self.counters.config_refused.bump();
                effects.answer(Refused::answer(len));
            }
        }
    }

    /// Writes to configuration space. True when something follows from it.
    pub(crate) fn config_write(&mut self, offset: u16, len: u8, value: u32) -> bool {
        self.config
            .write(offset, len, value)
            .unwrap_or_else(|Refused| {
                self.counters.config_refused.bump();
                false
            })
    }

    /// Whether the guest can have reached this place: the BAR is decoded, and
    /// the access is natural and ends inside.
    pub(crate) fn reachable(&mut self, bar: u8, offset: u64, len: u8) -> bool {
        match self.reach(bar, offset, len) {
            Reach::Inside => return true,
            Reach::Outside => self.counters.access_refused.bump(),
            Reach::Undecoded => self.counters.undecoded.bump(),
        };
        false
    }

    /// Answers a read of the MSI-X table and its pending bits.
    pub(crate) fn msix_read(&self, offset: u64, len: u8, effects: &mut Effects) {
        if let Some((msix, _)) = &self.msix {
            effects.answer(msix.read(offset, len));
        }
    }

    /// Writes to the MSI-X table; gives the vectors whose entry changed.
    pub(crate) fn msix_write(&mut self, offset: u64, len: u8, value: u64) -> std::ops::Range<u16> {
        let written = self
            .msix
            .as_mut()
            .map(|(msix, _)| msix.write(offset, len, value));
        match written {
            Some(TableWrite::Entry(vector)) => vector..vector.saturating_add(1),
            Some(TableWrite::Refused) => {
                self.counters.access_refused.bump();
                0..0
            }
            Some(TableWrite::Nothing) | None => 0..0,
        }
    }

    /// A store to the region trapped, and is dropped. Where its window is
    /// read-only to this guest, that may stop the partition. (Any other is one
    /// that the binding could not map.)
    pub(crate) fn region_write(&mut self, offset: u64, policy: DeniedWrite, effects: &mut Effects) {
        if self.counters.region_writes_dropped.bump() {
            tracing::debug!(offset, "ivshmem: store to a read-only part of the region");
        }
        let read_only = self.windows().iter().any(|window| {
            window.access == Access::ReadOnly
                && offset
                    .checked_sub(window.offset)
                    .is_some_and(|at| at < window.len)
        });
        if read_only && policy == DeniedWrite::Stop && self.attached() {
            effects.push(Effect::Stop(StopReason::DeniedWrite {
                device: "ivshmem",
                offset,
            }));
        }
    }

    /// A doorbell that trapped: the peer in the high half, the vector in the low.
    pub(crate) fn doorbell(&mut self, value: u32, effects: &mut Effects) {
        let (peer, vector) = ((value >> 16) as u16, (value & 0xffff) as u16);
        match self.peers.get_mut(peer) {
            Some(record) if vector < record.vectors || !stands(Guard::KnownVector) => {
                record.trapped.bump();
                self.counters.doorbells_trapped.bump();
                self.ring(peer, vector, effects);
            }
            _ => {
                self.counters.doorbells_unknown.bump();
            }
        }
    }

    /// A peer came, or came anew. `known` where one of that id can be meant.
    pub(crate) fn peer_joined(
        &mut self,
        peer: u16,
        vectors: u16,
        known: bool,
        effects: &mut Effects,
    ) {
        if !known || vectors > MAX_VECTORS {
            if self.counters.peers_refused.bump() {
                tracing::warn!(peer, vectors, "ivshmem: peer refused");
            }
            return;
        }
        self.remove_peer(peer, effects);
        self.add_peer(peer, vectors, effects);
    }

    /// A peer is in another phase of its life.
    pub(crate) fn peer_phase(&mut self, peer: u16, phase: PeerPhase) {
        match self.peers.get_mut(peer) {
            Some(record) => record.phase = phase,
            None => {
                self.counters.peers_refused.bump();
            }
        }
    }

    /// A peer hears on other events: what is routed to it is routed anew.
    pub(crate) fn peer_bells(&mut self, peer: u16, effects: &mut Effects) {
        match self.peers.get_mut(peer).copied() {
            Some(record) if record.routed => {
                for vector in 0..record.vectors {
                    self.unroute(peer, vector, effects);
                    self.route(peer, vector, effects);
                }
            }
            Some(_) => {}
            None => {
                self.counters.peers_refused.bump();
            }
        }
    }

    /// A peer left, which is not `own`. False when it was not there.
    pub(crate) fn peer_gone(&mut self, own: u16, peer: u16, effects: &mut Effects) -> bool {
        let gone = peer != own && self.remove_peer(peer, effects);
        if !gone {
            self.counters.peers_refused.bump();
        }
        gone
    }
}
