//! The host's side of the host pages: the one writer of header, state table and
//! peer table.
//!
//! One value per region may exist, in the process that owns the region. It
//! keeps a private copy of every peer's epoch and state, so that nothing it
//! decides depends on bytes in shared memory (on a flat carrier a hostile peer
//! can write those).

use crate::claim::put;
use crate::header::Header;
use crate::header::HeaderError;
use crate::layout;
use crate::layout::HEADER_AT;
use crate::layout::Layout;
use crate::layout::LayoutError;
use crate::layout::PeerId;
use crate::layout::RegionSpec;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::name::Name;
use crate::peers;
use crate::peers::FIRST_EPOCH;
use crate::peers::PeerError;
use crate::peers::PeerIdentity;
use crate::peers::PeerKind;
use crate::peers::PeerRecord;
use crate::peers::PeerState;
use crate::peers::Rights;
use crate::sequenced;
use crate::sequenced::RECORD;
use uuid::Uuid;

/// Why the host could not do something to its own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The specification has no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The memory given is too small for the host pages.
    #[error("host pages take {need} bytes; the memory given has {have}")]
    TooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The memory holds no region that could be taken over.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The peer table could not be read.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The entry is in use.
    #[error("peer {peer} is {state:?}; it has to be free or dead before it is given away")]
    InUse {
        /// Number asked for.
        peer: PeerId,
        /// Its state.
        state: PeerState,
    },
    /// Only a peer that is there has a state to publish.
    #[error("peer {peer} is {state:?}; it has to be admitted before it has a state")]
    NotAlive {
        /// Number asked for.
        peer: PeerId,
        /// Its state.
        state: PeerState,
    },
    /// A step that the life of a peer does not have.
    #[error("peer {peer} is {from:?} and cannot become {to:?}")]
    Step {
        /// Number.
        peer: PeerId,
        /// Its state.
        from: PeerState,
        /// The state asked for.
        to: PeerState,
    },
    /// The 32-bit epoch or the 64-bit generation would come round again, and
    /// stale spans would look fresh.
    #[error("the epoch of peer {peer} is used up; the region has to be formatted again")]
    EpochsUsedUp {
        /// Number.
        peer: PeerId,
    },
}

/// The host's handle to its pages. `M` covers at least [`Layout::host`], from
/// the region's first byte.
#[derive(Debug)]
pub struct HostPages<M> {
    mem: M,
    header: Header,
    lives: [Life; layout::MAX_PEERS as usize],
}

/// What the host keeps of each peer outside shared memory.
#[derive(Debug, Clone, Copy)]
struct Life {
    epoch: u32,
    state: PeerState,
}

const NEVER_USED: Life = Life {
    epoch: FIRST_EPOCH,
    state: PeerState::Free,
};

impl<M: SharedMem> HostPages<M> {
    /// Formats the host pages of a new region. The header is written last, so
    /// that nobody attaches to half a table.
    ///
    /// # Errors
    /// [`HostError::Layout`] or [`HostError::TooSmall`].
    pub fn format(mem: M, spec: &RegionSpec, uuid: Uuid) -> Result<Self, HostError> {
        let header = Header::new(spec, uuid)?;
        let need = header.layout.host.end;
        if mem.len() < need {
            return Err(HostError::TooSmall {
                need,
                have: mem.len(),
            });
        }
        mem.zero(0, need);
        let mut this = Self::over(mem, header);
        for peer in this.layout().peers() {
            this.write_entry(peer, NEVER_USED, None);
        }
        this.write_header();
        Ok(this)
    }

    /// Takes over the pages of a region that outlived its host: reads and
    /// checks them, retires every peer that was alive (its process is not known
    /// to live), and moves the generation.
    ///
    /// # Errors
    /// [`HostError::Header`] and [`HostError::Peer`] when the pages are damaged
    /// (`check` can repair some of that), [`HostError::TooSmall`].
    pub fn take_over(mem: M) -> Result<Self, HostError> {
        let header = Header::copy_from(&mem)?;
        let need = header.layout.host.end;
        if mem.len() < need {
            return Err(HostError::TooSmall {
                need,
                have: mem.len(),
            });
        }
        let mut this = Self::over(mem, header);
        for peer in this.layout().peers() {
            let PeerRecord { epoch, state, .. } = this.peer(peer)?;
            this.lives[usize::from(peer.0)] = Life { epoch, state };
            this.clear_state(peer);
            if state.is_live() {
                this.retire(peer)?;
            }
        }
        let Some(next) = this.header.generation.checked_add(1) else {
            return Err(HostError::EpochsUsedUp { peer: PeerId(0) });
        };
        this.header.generation = next;
        this.write_header();
        Ok(this)
    }

    /// Takes up the pages of a region whose host died while its peers live on:
    /// peers, epochs and generation stay. What they were comes from the host's
    /// own records, never from the pages, which a hostile peer of a flat carrier
    /// can write. Readers see each entry either as it was or as recorded.
    /// Numbers without a record were never used; one whose record says nothing of
    /// who had it is free.
    ///
    /// # Errors
    /// [`HostError::TooSmall`]; [`HostError::Peer`] for a record of a number that
    /// the region does not have.
    pub fn resume(
        mem: M,
        header: Header,
        lives: impl IntoIterator<Item = PeerRecord>,
    ) -> Result<Self, HostError> {
        let need = header.layout.host.end;
        if mem.len() < need {
            return Err(HostError::TooSmall {
                need,
                have: mem.len(),
            });
        }
        let mut this = Self::over(mem, header);
        let mut known = [false; layout::MAX_PEERS as usize];
        for PeerRecord {
            id,
            epoch,
            state,
            who,
        } in lives
        {
            this.life(id)?;
            let state = who.map_or(PeerState::Free, |_| state);
            this.write_entry(id, Life { epoch, state }, who.as_ref());
            if !state.is_live() {
                this.clear_state(id);
            }
            known[usize::from(id.0)] = true;
        }
        for peer in this.layout().peers() {
            if !known[usize::from(peer.0)] {
                this.write_entry(peer, NEVER_USED, None);
                this.clear_state(peer);
            }
        }
        this.write_header();
        Ok(this)
    }

    fn over(mem: M, header: Header) -> Self {
        Self {
            mem,
            header,
            lives: [NEVER_USED; layout::MAX_PEERS as usize],
        }
    }

    /// The header as written.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The layout.
    pub const fn layout(&self) -> &Layout {
        &self.header.layout
    }

    /// One entry, copied and checked.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn peer(&self, peer: PeerId) -> Result<PeerRecord, PeerError> {
        peers::read(&self.mem, self.layout(), peer)
    }

    /// Epoch and state of a number by the host's own copy, which nothing in shared
    /// memory can change.
    ///
    /// # Errors
    /// [`PeerError::NoSuchPeer`].
    pub fn own_record(&self, peer: PeerId) -> Result<(u32, PeerState), PeerError> {
        self.life(peer).map(|life| (life.epoch, life.state))
    }

    /// The lowest free or dead number at or above `from`.
    pub fn vacant(&self, from: PeerId) -> Option<PeerId> {
        self.layout()
            .peers()
            .skip(from.0.into())
            .find(|&p| self.life(p).is_ok_and(|l| !l.state.is_live()))
    }

    /// Gives a number to a peer: the entry becomes `Joining`. Returns the
    /// epoch under which it lives.
    ///
    /// # Errors
    /// [`HostError::InUse`] when somebody has the number, [`HostError::Peer`].
    pub fn admit(
        &mut self,
        peer: PeerId,
        name: Name,
        kind: PeerKind,
        rights: Rights,
        vectors: u32,
    ) -> Result<u32, HostError> {
        let now = self.life(peer)?;
        if now.state.is_live() {
            return Err(HostError::InUse {
                peer,
                state: now.state,
            });
        }
        let who = PeerIdentity {
            name,
            kind,
            rights,
            vectors,
        };
        let life = Life {
            state: PeerState::Joining,
            ..now
        };
        self.write_entry(peer, life, Some(&who));
        Ok(now.epoch)
    }

    /// Moves a live peer to another state.
    ///
    /// # Errors
    /// [`HostError::Step`] for a step that the picture in [`peers`] does not
    /// have (death is [`Self::retire`]), [`HostError::Peer`].
    pub fn set_state(&mut self, peer: PeerId, to: PeerState) -> Result<(), HostError> {
        let now = self.life(peer)?;
        let from = now.state;
        if !from.may_become(to) || !to.is_live() || !from.is_live() {
            return Err(HostError::Step { peer, from, to });
        }
        self.write_life(peer, Life { state: to, ..now });
        Ok(())
    }

    /// Writes what a peer's ivshmem v2 state register holds to its word in the
    /// state table. A peer without such a register may be given a state by
    /// whoever acts for it. Admitting and retiring a peer set the word to 0.
    ///
    /// # Errors
    /// [`HostError::NotAlive`] when nobody has the number, [`HostError::Peer`].
    pub fn publish(&mut self, peer: PeerId, state: u32) -> Result<(), HostError> {
        let now = self.life(peer)?;
        if !now.state.is_live() {
            return Err(HostError::NotAlive {
                peer,
                state: now.state,
            });
        }
        let at = self.layout().state_at(peer);
        self.mem.store_u32(at, state, Ordering::Release);
        Ok(())
    }

    /// Declares a peer dead: its epoch moves, its word in the state table is 0, so every span into its section
    /// and every ring of it is stale at once. Nobody else's memory is touched.
    /// Returns the epoch that a successor will live under.
    ///
    /// # Errors
    /// [`HostError::Step`] when the peer is not alive,
    /// [`HostError::EpochsUsedUp`], [`HostError::Peer`].
    pub fn retire(&mut self, peer: PeerId) -> Result<u32, HostError> {
        let now = self.life(peer)?;
        if !now.state.is_live() {
            return Err(HostError::Step {
                peer,
                from: now.state,
                to: PeerState::Dead,
            });
        }
        self.clear_state(peer);
        let Some(epoch) = now.epoch.checked_add(1) else {
            return Err(HostError::EpochsUsedUp { peer });
        };
        let state = PeerState::Dead;
        self.write_life(peer, Life { epoch, state });
        Ok(epoch)
    }

    fn write_entry(&mut self, peer: PeerId, life: Life, who: Option<&PeerIdentity>) {
        let mut body = [0; RECORD];
        put(&mut body, peers::at::ID, &peer.0.to_le_bytes());
        put(&mut body, peers::at::EPOCH, &life.epoch.to_le_bytes());
        put(
            &mut body,
            peers::at::STATE,
            &(life.state as u32).to_le_bytes(),
        );
        if let Some(who) = who {
            put(&mut body, peers::at::KIND, &[who.kind as u8]);
            put(
                &mut body,
                peers::at::RIGHTS,
                &who.rights.bits().to_le_bytes(),
            );
            put(&mut body, peers::at::VECTORS, &who.vectors.to_le_bytes());
            put(&mut body, peers::at::NAME, who.name.padded());
        }
        sequenced::rewrite(&self.mem, self.layout().peer_at(peer), &body);
        self.clear_state(peer);
        self.lives[usize::from(peer.0)] = life;
    }

    /// What the state table holds for a peer that is not there, or was reset.
    fn clear_state(&self, peer: PeerId) {
        let at = self.layout().state_at(peer);
        self.mem.store_u32(at, 0, Ordering::Release);
    }

    /// Epoch and state by the host's own copy.
    fn life(&self, peer: PeerId) -> Result<Life, PeerError> {
        if !self.layout().has(peer) {
            return Err(PeerError::NoSuchPeer {
                peer,
                last: self.layout().max_peers - 1,
            });
        }
        Ok(self.lives[usize::from(peer.0)])
    }

    /// Moves a peer to another life or state; who it is stays.
    fn write_life(&mut self, peer: PeerId, life: Life) {
        let word = u64::from(life.epoch) | u64::from(life.state as u32) << 32;
        let at = self.layout().peer_at(peer) + peers::at::EPOCH;
        // One word: no reader sees half of it. Pairs with `peers::life`.
        self.mem.store_u64(at, word, Ordering::Release);
        self.lives[usize::from(peer.0)] = life;
    }

    fn write_header(&self) {
        let bytes = self.header.to_bytes();
        // Magic last: a reader that sees it sees the rest.
        self.mem.write(HEADER_AT + 8, &bytes[8..]);
        self.mem.fence(Ordering::Release);
        self.mem.write(HEADER_AT, &bytes[..8]);
    }
}
