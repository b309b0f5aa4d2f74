//! A carrier without descriptors: bells are numbers that know how many of them are
//! held.

use super::LAKE;
use super::PEERS;
use super::POND;
use hv_shmem::backing::Part;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::HeapMem;
use hv_shmem::name::Name;
use portal_device::inspect::Node;
use portal_protocol::Refusal;
use portal_protocol::RefusalCode;
use portal_protocol::Token;
use portal_protocol::server::Host;
use portal_switchboard::Switchboard;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A bell. Two with the same number ring the same peer.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    pub(crate) number: u64,
    _census: Arc<()>,
}

impl PartialEq for Bell {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

pub(crate) fn numbers(bells: &[Bell]) -> Vec<u64> {
    bells.iter().map(|bell| bell.number).collect()
}

/// Vectors of the compatibility socket of [`LAKE`].
pub(crate) const LAKE_VECTORS: u16 = 3;

#[derive(Debug, Default)]
pub(crate) struct Carrier {
    census: Arc<()>,
    born: u64,
    /// Bells that belong to ids, as the compatibility socket's server keeps them.
    ids: BTreeMap<PeerId, Vec<Bell>>,
    /// Numbers of the bells that were made for a peer last.
    pub(crate) given: Vec<u64>,
    /// The system is short of descriptors: whatever needs some is refused.
    pub(crate) short: bool,
}

impl Carrier {
    pub(crate) fn new_bells(&mut self, count: usize) -> Vec<Bell> {
        let bell = |_| {
            self.born += 1;
            Bell {
                number: self.born,
                _census: Arc::clone(&self.census),
            }
        };
        (0..count).map(bell).collect()
    }

    /// Bells that somebody holds, beside those that belong to ids.
    pub(crate) fn held(&self) -> usize {
        let ids: usize = self.ids.values().map(Vec::len).sum();
        Arc::strong_count(&self.census) - 1 - ids
    }

    fn id_bells(&mut self, peer: PeerId) -> Vec<Bell> {
        if let Some(bells) = self.ids.get(&peer) {
            return bells.clone();
        }
        let made = self.new_bells(LAKE_VECTORS.into());
        self.ids.insert(peer, made.clone());
        made
    }

    fn has_room(&self) -> Result<(), Refusal> {
        if self.short {
            let refusal = Refusal::new(RefusalCode::Resources, "no file descriptor is left");
            return Err(refusal);
        }
        Ok(())
    }
}

impl Host<HeapMem, Bell> for Carrier {
    fn bells(&mut self, region: &Name, peer: PeerId, vectors: u16) -> Result<Vec<Bell>, Refusal> {
        self.has_room()?;
        let bells = match self.compatible(region) {
            None => self.new_bells(vectors.into()),
            Some(limit) if vectors > limit => {
                return Err(Refusal::new(RefusalCode::Vectors, "a peer has fewer"));
            }
            Some(_) => {
                let mut bells = self.id_bells(peer);
                bells.truncate(vectors.into());
                bells
            }
        };
        self.given = numbers(&bells);
        Ok(bells)
    }

    fn take(&mut self, region: &Name, peer: PeerId, _: &[Bell]) -> Result<Vec<Bell>, Refusal> {
        self.has_room()?;
        match self.compatible(region) {
            Some(_) => Ok(self.id_bells(peer)),
            None => Ok(Vec::new()),
        }
    }

    fn take_back(
        &mut self,
        region: &Name,
        peer: PeerId,
        bells: &[Bell],
        passed_on: Vec<Bell>,
    ) -> Result<(), Refusal> {
        self.has_room()?;
        if self.compatible(region).is_some() {
            let mut kept = passed_on;
            if kept.is_empty() {
                kept = bells.to_vec();
            }
            kept.truncate(LAKE_VECTORS.into());
            let missing = usize::from(LAKE_VECTORS) - kept.len();
            kept.extend(self.new_bells(missing));
            self.ids.insert(peer, kept);
        }
        Ok(())
    }

    fn pieces(&self, region: &Name) -> Result<Vec<Option<Part>>, Refusal> {
        self.has_room()?;
        if region.as_str() == LAKE {
            return Ok(vec![None]);
        }
        let sections = (0..PEERS).map(|peer| Some(Part::Section(PeerId(peer))));
        let all = [Some(Part::HostPages), Some(Part::Common)].into_iter();
        Ok(all.chain(sections).collect())
    }

    fn compatible(&self, region: &Name) -> Option<u16> {
        (region.as_str() != POND).then_some(LAKE_VECTORS)
    }

    fn token(&mut self) -> Result<Token, Refusal> {
        self.has_room()?;
        self.born += 1;
        Ok(Token(u128::from(self.born).to_le_bytes()))
    }

    fn tree(&self, board: &Switchboard<HeapMem, Bell>, clients: Node) -> String {
        let mut tree = board.inspect();
        tree.push("portal_clients", clients);
        tree.to_string()
    }
}
