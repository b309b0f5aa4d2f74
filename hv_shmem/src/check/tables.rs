//! The state table and the peer table.

use super::Checker;
use super::Code;
use super::Place;
use super::Severity;
use crate::claim::Fields;
use crate::claim::put;
use crate::layout;
use crate::layout::PeerId;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::peers;
use crate::peers::FIRST_EPOCH;
use crate::peers::PeerError;
use crate::peers::PeerRecord;
use crate::peers::PeerState;
use crate::region;
use crate::sequenced;
use crate::sequenced::RECORD;
use std::vec::Vec;

impl<M: SharedMem> Checker<'_, M> {
    /// Checks both tables; the peers as they stand afterwards.
    pub(super) fn tables(&mut self) -> Vec<Option<PeerRecord>> {
        let layout = self.header.layout.clone();
        let mut records = Vec::with_capacity(layout.max_peers.into());
        for peer in layout.peers() {
            self.report.looked_at.peers += 1;
            let mut record = self.entry(peer);
            if let Some(r) = &mut record {
                self.orphan(r);
                self.state(r);
            }
            records.push(record);
        }
        // Words of peers that the region does not have.
        for stray in layout.max_peers..layout::MAX_PEERS {
            let at = layout.state_at(PeerId(stray));
            let found = self.mem.load_u32(at, Ordering::Relaxed);
            if found != 0 {
                let place = Place::StateTable(stray);
                self.find_and(
                    (Code::TableState, Severity::Warning, place),
                    std::format!("{found:#x} where the region has no peer"),
                    "set to 0",
                    |mem| mem.store_u32(at, 0, Ordering::Relaxed),
                );
            }
        }
        records
    }

    /// One entry, repaired when that is asked for.
    fn entry(&mut self, peer: PeerId) -> Option<PeerRecord> {
        let layout = &self.header.layout;
        let at = layout.peer_at(peer);
        let place = Place::PeerTable(peer);
        let mut read = peers::read(self.mem, layout, peer);
        if let Err(e @ PeerError::HalfWritten { sequence, .. }) = read {
            self.find_and(
                (Code::TableTorn, Severity::Error, place),
                e,
                "taken as it stands",
                |mem| mem.store_u32(at, sequence.wrapping_add(1), Ordering::Release),
            );
            if !self.options.repair {
                return None;
            }
            read = peers::read(self.mem, &self.header.layout, peer);
        }
        match read {
            Ok(record) => Some(record),
            Err(e) => {
                let epoch = self.epoch_after(peer);
                self.find_and(
                    (Code::TableEntry, Severity::Error, place),
                    e,
                    "freed under a new epoch",
                    |mem| {
                        let mut body = [0; RECORD];
                        put(&mut body, peers::at::ID, &peer.0.to_le_bytes());
                        put(&mut body, peers::at::EPOCH, &epoch.to_le_bytes());
                        sequenced::rewrite(mem, at, &body);
                    },
                );
                let layout = &self.header.layout;
                peers::read(self.mem, layout, peer)
                    .ok()
                    .filter(|_| self.options.repair)
            }
        }
    }

    /// An epoch after every one that a damaged entry or its section knows.
    fn epoch_after(&self, peer: PeerId) -> u32 {
        let layout = &self.header.layout;
        let mut entry = [0; RECORD];
        self.mem.read(layout.peer_at(peer), &mut entry);
        let in_entry = Fields(&entry).u32(peers::at::EPOCH);
        let at = layout.section(peer);
        let in_section = self
            .mem
            .window(at.start, at.end - at.start)
            .ok()
            .and_then(|m| region::copy_section(&m, peer, layout.section_size).ok())
            .map(|s| s.epoch);
        let known = match in_section {
            Some(epoch) => epoch,
            None => in_entry,
        };
        // An epoch at its end is damage too: peers do not die that often.
        known.checked_add(1).unwrap_or(FIRST_EPOCH + 1)
    }

    /// A peer that lives in a region without a host.
    fn orphan(&mut self, record: &mut PeerRecord) {
        if !self.options.still || !record.state.is_live() {
            return;
        }
        let Some(next) = record.epoch.checked_add(1) else {
            return;
        };
        let peer = record.id;
        let at = self.header.layout.peer_at(peer) + peers::at::EPOCH;
        let in_states = self.header.layout.state_at(peer);
        let state = PeerState::Dead;
        self.find_and(
            (Code::TableOrphan, Severity::Note, Place::PeerTable(peer)),
            std::format!(
                "{:?} in epoch {}, but no host is there",
                record.state,
                record.epoch
            ),
            "declared dead; the epoch moved",
            |mem| {
                let word = u64::from(next) | u64::from(state as u32) << 32;
                mem.store_u64(at, word, Ordering::Release);
                mem.store_u32(in_states, 0, Ordering::Release);
            },
        );
        if self.options.repair {
            record.epoch = next;
            record.state = state;
        }
    }

    /// The word of a peer that is not there: only the living have a state.
    fn state(&mut self, record: &PeerRecord) {
        let at = self.header.layout.state_at(record.id);
        let found = self.mem.load_u32(at, Ordering::Relaxed);
        // A host may be between the two stores.
        if found != 0 && !record.state.is_live() && self.options.still {
            self.find_and(
                (
                    Code::TableState,
                    Severity::Warning,
                    Place::StateTable(record.id.0),
                ),
                std::format!("{found:#x}, but the peer is {:?}", record.state),
                "set to 0",
                |mem| mem.store_u32(at, 0, Ordering::Relaxed),
            );
        }
    }
}
