//! One region: its pages, its live peers, their bells.

use crate::Admission;
use crate::AdmissionError;
use crate::Event;
use crate::Limits;
use crate::Policy;
use crate::StepError;
use crate::events::Inbox;
use crate::events::Life;
use crate::events::Phase;
use crate::events::Step;
use crate::guard::Guard;
use hv_shmem::header::Header;
use hv_shmem::host_pages::HostError;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerIdentity;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use portal_device::Counter;
use portal_device::guard::stands;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use std::collections::BTreeMap;

#[derive(Debug)]
struct Peer<B> {
    life: Life,
    name: Name,
    kind: PeerKind,
    rights: Rights,
    bells: Vec<B>,
    /// As many as bells, but for a peer that is away.
    vectors: u32,
    inbox: Inbox,
    /// Doorbells that it rang through its trapped register.
    hops: Counter,
}

/// A region and everybody in it.
#[derive(Debug)]
pub(crate) struct Region<M, B> {
    pages: Box<HostPages<M>>,
    policy: Policy,
    peers: BTreeMap<PeerId, Peer<B>>,
    vectors: usize,
}

impl<M: SharedMem, B: Clone> Region<M, B> {
    pub(crate) fn new(pages: HostPages<M>, policy: Policy) -> Self {
        Region {
            pages: Box::new(pages),
            policy,
            peers: BTreeMap::new(),
            vectors: 0,
        }
    }

    pub(crate) fn into_pages(self) -> HostPages<M> {
        *self.pages
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.pages.layout()
    }

    pub(crate) fn live(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    pub(crate) fn epoch(&self, peer: PeerId) -> Option<u32> {
        self.peers.get(&peer).map(|peer| peer.life.epoch)
    }

    fn name(&self) -> Name {
        self.pages.header().name
    }

    pub(crate) fn admit(
        &mut self,
        admission: Admission<B>,
        limits: &Limits,
    ) -> Result<(PeerId, u32), AdmissionError> {
        let peer = self.consider(&admission, admission.bells.len(), limits)?;
        let Admission {
            name,
            kind,
            rights,
            bells,
            ..
        } = admission;
        let region = self.name();
        let vectors = u32::try_from(bells.len()).unwrap_or(u32::MAX);
        let epoch = self
            .pages
            .admit(peer, name, kind, rights, vectors)
            .map_err(|error| AdmissionError::Pages { region, error })?;
        let mut inbox = Inbox::new(self.layout().max_peers);
        for other in self.peers.keys() {
            inbox.mark(*other);
        }
        self.vectors += bells.len();
        let life = Life {
            epoch,
            phase: Phase::Joined,
            away: false,
            bells: 0,
        };
        let hops = Counter::default();
        self.peers.insert(
            peer,
            Peer {
                life,
                name,
                kind,
                rights,
                bells,
                vectors,
                inbox,
                hops,
            },
        );
        self.tell_others(peer);
        Ok((peer, epoch))
    }

    /// The lowest id that a newcomer can have.
    pub(crate) fn vacancy(&self) -> Result<PeerId, AdmissionError> {
        let first = self.policy.first_id;
        self.pages.vacant(first).ok_or(AdmissionError::Full {
            region: self.name(),
            first,
            last: self.layout().max_peers.saturating_sub(1),
        })
    }

    pub(crate) fn header(&self) -> &Header {
        self.pages.header()
    }

    /// What is known of an id, by private copies alone.
    pub(crate) fn record(&self, id: PeerId) -> Option<PeerRecord> {
        let (epoch, state) = self.pages.own_record(id).ok()?;
        let who = self.peers.get(&id).map(|peer| PeerIdentity {
            name: peer.name,
            kind: peer.kind,
            rights: peer.rights,
            vectors: peer.vectors,
        });
        Some(PeerRecord {
            id,
            epoch,
            state,
            who,
        })
    }

    /// Makes every live peer of the records a peer that is away.
    pub(crate) fn restore(&mut self, records: &[PeerRecord]) {
        for record in records {
            let (peer, Some(who)) = (record.id, record.who) else {
                continue;
            };
            if self.pages.own_record(peer) != Ok((record.epoch, record.state))
                || !record.state.is_live()
            {
                continue;
            }
            let phase = match record.state {
                PeerState::Ready => Phase::Ready,
                PeerState::Quiescing => Phase::Quiescing,
                _ => Phase::Joined,
            };
            let life = Life {
                epoch: record.epoch,
                phase,
                away: true,
                bells: 0,
            };
            // Nobody takes them while it is away.
            self.vectors += who.vectors as usize;
            self.peers.insert(
                peer,
                Peer {
                    life,
                    name: who.name,
                    kind: who.kind,
                    rights: who.rights,
                    bells: Vec::new(),
                    vectors: who.vectors,
                    inbox: Inbox::new(self.layout().max_peers),
                    hops: Counter::default(),
                },
            );
        }
    }

    /// A peer that was away is back.
    pub(crate) fn come_back(
        &mut self,
        peer: PeerId,
        bells: Vec<B>,
        limits: &Limits,
    ) -> Result<(), AdmissionError> {
        let kept = self.peers.get(&peer).map_or(0, |p| p.vectors as usize);
        self.check_vectors(bells.len(), kept, limits)?;
        let others: Vec<PeerId> = self.ids();
        if let Some(record) = self.peers.get_mut(&peer) {
            self.vectors = self.vectors.saturating_sub(kept) + bells.len();
            record.vectors = u32::try_from(bells.len()).unwrap_or(u32::MAX);
            record.bells = bells;
            record.life.away = false;
            for other in others {
                if other != peer {
                    record.inbox.mark(other);
                }
            }
        }
        self.tell_others(peer);
        Ok(())
    }

    /// A peer hears on other bells from now on, as many as before.
    pub(crate) fn hear_on(&mut self, peer: PeerId, bells: Vec<B>) -> bool {
        match self.peers.get_mut(&peer) {
            Some(record) if record.bells.len() == bells.len() => {
                record.bells = bells;
                record.life.bells = record.life.bells.wrapping_add(1);
                self.tell_others(peer);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn is_away(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.life.away)
    }

    /// The id that this peer would get with so many vectors.
    pub(crate) fn consider<C>(
        &self,
        admission: &Admission<C>,
        vectors: usize,
        limits: &Limits,
    ) -> Result<PeerId, AdmissionError> {
        self.check_rights(admission.kind, admission.rights)?;
        self.check_vectors(vectors, 0, limits)?;
        self.choose_id(admission)
    }

    /// Whether peers of this kind may have these rights.
    pub(crate) fn check_rights(&self, kind: PeerKind, asked: Rights) -> Result<(), AdmissionError> {
        let region = self.name();
        let limit = match kind {
            PeerKind::Partition => self.policy.partitions,
            PeerKind::HostProcess => self.policy.host_processes,
        };
        let Some(limit) = limit else {
            return Err(AdmissionError::Kind { region, kind });
        };
        if !limit.has(asked) || !asked.has(Rights::READ) {
            return Err(AdmissionError::Rights {
                region,
                kind,
                asked,
                limit,
            });
        }
        Ok(())
    }

    /// Whether there are so many for a peer to whom `kept` of those in use belong.
    fn check_vectors(
        &self,
        asked: usize,
        kept: usize,
        limits: &Limits,
    ) -> Result<(), AdmissionError> {
        let region = self.name();
        if asked > limits.vectors_per_peer {
            let limit = limits.vectors_per_peer;
            return Err(AdmissionError::Vectors {
                region,
                asked,
                limit,
            });
        }
        let (used, limit) = (self.vectors.saturating_sub(kept), limits.vectors_per_region);
        if asked > limit.saturating_sub(used) {
            return Err(AdmissionError::VectorQuota {
                region,
                asked,
                used,
                limit,
            });
        }
        Ok(())
    }

    fn choose_id<C>(&self, admission: &Admission<C>) -> Result<PeerId, AdmissionError> {
        let region = self.name();
        let last = self.layout().max_peers.saturating_sub(1);
        if let Some((by, _)) = self
            .peers
            .iter()
            .find(|(_, peer)| peer.name == admission.name)
        {
            return Err(AdmissionError::NameTaken {
                region,
                name: admission.name,
                by: *by,
            });
        }
        match admission.id {
            Some(peer) if !self.layout().has(peer) => {
                Err(AdmissionError::NoSuchId { region, peer, last })
            }
            Some(peer) => match self.peers.get(&peer) {
                Some(holder) => Err(AdmissionError::IdTaken {
                    region,
                    peer,
                    by: holder.name,
                }),
                None => Ok(peer),
            },
            None => self.vacancy(),
        }
    }

    fn tell_others(&mut self, about: PeerId) {
        for (id, peer) in &mut self.peers {
            if *id != about {
                peer.inbox.mark(about);
            }
        }
    }

    fn step(&mut self, peer: PeerId, to: PeerState, phase: Phase) -> Result<(), StepError> {
        self.pages.set_state(peer, to)?;
        if let Some(record) = self.peers.get_mut(&peer) {
            record.life.phase = phase;
        }
        self.tell_others(peer);
        Ok(())
    }

    pub(crate) fn ready(&mut self, peer: PeerId) -> Result<(), StepError> {
        self.step(peer, PeerState::Ready, Phase::Ready)
    }

    pub(crate) fn quiesce(&mut self, peer: PeerId) -> Result<(), StepError> {
        self.step(peer, PeerState::Quiescing, Phase::Quiescing)
    }

    pub(crate) fn publish(&mut self, peer: PeerId, state: u32) -> Result<(), StepError> {
        Ok(self.pages.publish(peer, state)?)
    }

    pub(crate) fn gone(&mut self, peer: PeerId) -> Result<(), StepError> {
        match self.pages.retire(peer) {
            // With its epochs used up the entry stays as it is in the pages and
            // is never given away again; here the peer is gone all the same.
            Ok(_) | Err(HostError::EpochsUsedUp { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(record) = self.peers.remove(&peer)
            && stands(Guard::VectorsReturn)
        {
            self.vectors = self.vectors.saturating_sub(record.vectors as usize);
        }
        self.tell_others(peer);
        Ok(())
    }

    pub(crate) fn next_event(&mut self, of: PeerId) -> Option<Event<B>> {
        let mut inbox = std::mem::take(&mut self.peers.get_mut(&of)?.inbox);
        let now = |id: PeerId| {
            self.peers
                .get(&id)
                .map_or_else(Life::default, |peer| peer.life)
        };
        let next = inbox.next(now);
        let owner = self.peers.get_mut(&of)?;
        owner.inbox = inbox;
        let rings = owner.rights.has(Rights::RING);
        let (peer, step) = next?;
        Some(match step {
            Step::Joined => {
                let record = self.peers.get(&peer)?;
                Event::Joined {
                    peer,
                    epoch: record.life.epoch,
                    name: record.name,
                    kind: record.kind,
                    bells: if rings {
                        record.bells.clone()
                    } else {
                        Vec::new()
                    },
                }
            }
            Step::Ready => Event::Ready { peer },
            Step::Quiescing => Event::Quiescing { peer },
            Step::Gone { epoch } => Event::Gone { peer, epoch },
        })
    }

    pub(crate) fn bell(&mut self, from: PeerId, to: PeerId, vector: u16) -> Option<&B> {
        let sender = self.peers.get_mut(&from)?;
        if !sender.rights.has(Rights::RING) {
            return None;
        }
        sender.hops.bump();
        self.peers.get(&to)?.bells.get(usize::from(vector))
    }

    pub(crate) fn inspect(&self) -> Node {
        let layout = self.layout();
        let mut peers = Node::new();
        for (id, peer) in &self.peers {
            let state = match peer.life.phase {
                Phase::Absent => "absent",
                Phase::Joined => "joining",
                Phase::Ready => "ready",
                Phase::Quiescing => "quiescing",
            };
            peers.push(
                id.to_string(),
                Node::new()
                    .with("name", peer.name.as_str().to_owned())
                    .with("kind", peer.kind.name())
                    .with("state", state)
                    .with("away", peer.life.away)
                    .with("epoch", peer.life.epoch)
                    .with("rights", Hex(peer.rights.bits().into()))
                    .with("vectors", peer.bells.len() as u64)
                    .with("doorbell_hops", peer.hops.get())
                    .with("events_waiting", peer.inbox.waiting() as u64),
            );
        }
        let header = self.header();
        Node::new()
            .with("uuid", header.uuid.to_string())
            .with("generation", header.generation)
            .with("size", Hex(layout.size))
            .with("max_peers", layout.max_peers)
            .with("vectors", self.vectors as u64)
            .with("peers", peers)
    }
}
