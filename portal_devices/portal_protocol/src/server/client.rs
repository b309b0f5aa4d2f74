//! What one client has been answered and told, and what comes next.
//!
//! Nothing is queued but what cannot be computed again: the answer that is under
//! way, the bells of the one peer that is being announced. The rest is in the
//! switchboard's inbox of this peer, which is bounded by the number of ids.

use crate::FDS_MAX;
use crate::Refusal;
use crate::RegionInfo;
use crate::Reply;
use crate::Token;
use crate::VERSION;
use crate::guard::Guard;
use crate::message::Admitted;
use crate::message::TREE_MAX;
use hv_shmem::backing::Part;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::peers::Rights;
use portal_device::guard::stands;
use portal_switchboard::Event;
use portal_switchboard::PeerKey;
use portal_switchboard::Switchboard;
use std::time::Duration;
use uuid::Uuid;

/// What goes with a message in the place of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed<B> {
    /// A bell.
    Bell(B),
    /// A piece of this region's memory: the whole of a flat one when `None`; to be
    /// opened for writing or not.
    Memory(Name, Option<Part>, bool),
}

/// A message on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<B> {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, at most [`FDS_MAX`].
    pub passed: Vec<Passed<B>>,
}

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not said hello.
    Hello,
    /// It is no peer.
    Visitor,
    /// It is this peer.
    Member(PeerKey),
}

/// The answer to a request, as far as it is not sent yet.
#[derive(Debug)]
pub(super) enum Answer<B> {
    Welcome,
    Done,
    Refused(Refusal),
    /// Regions that are left.
    List(std::collections::VecDeque<RegionInfo>),
    /// The tree, and how much of it is sent.
    Tree(String, usize),
    Admitted {
        admitted: Admitted,
        bells: Vec<B>,
        pieces: Vec<Option<Part>>,
        rights: Rights,
    },
    /// To who only looks at a region.
    Watching {
        region: Name,
        uuid: Uuid,
        pieces: Vec<Option<Part>>,
    },
    /// Pieces that are left.
    Memory {
        region: Name,
        pieces: Vec<Option<Part>>,
        rights: Rights,
        /// Whose section is to be writable, given the right.
        own: Option<PeerId>,
    },
}

/// Whether everybody who was there when a peer came has been told to it.
#[derive(Clone, Copy, Debug)]
enum Telling {
    Nobody,
    /// At most this many more messages before [`Reply::Current`]: others that come
    /// and go all the time cannot keep a newcomer waiting for it.
    Present(u32),
    Changes,
}

#[derive(Debug)]
pub(super) struct Client<B> {
    pub(super) stage: Stage,
    /// When it came, or last said something.
    pub(super) heard: Duration,
    /// Since when a message could not be sent to it.
    pub(super) blocked: Option<Duration>,
    pub(super) token: Option<Token>,
    answer: Option<Answer<B>>,
    telling: Telling,
    next: Option<Outgoing<B>>,
    /// What is to be sent now is of an answer.
    answering: bool,
    /// Its last answer was that there is no common version.
    over: bool,
}

impl<B: Clone> Client<B> {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            stage: Stage::Hello,
            heard: now,
            blocked: None,
            token: None,
            answer: None,
            telling: Telling::Nobody,
            next: None,
            answering: false,
            over: false,
        }
    }

    pub(super) fn key(&self) -> Option<PeerKey> {
        match self.stage {
            Stage::Member(key) => Some(key),
            Stage::Hello | Stage::Visitor => None,
        }
    }

    /// Whether it may speak: the answer to its last request is sent.
    pub(super) fn listens(&self) -> bool {
        self.answer.is_none() && !self.answering && !self.over
    }

    pub(super) fn inspects(&self) -> bool {
        matches!(self.answer, Some(Answer::Tree(..)))
    }

    pub(super) fn is_over(&self) -> bool {
        self.over && self.answer.is_none() && self.next.is_none()
    }

    pub(super) fn answer(&mut self, answer: Answer<B>) {
        self.over = self.stage == Stage::Hello;
        self.answer = Some(answer);
    }

    /// It is a peer from now on, of a region with room for `peers`.
    pub(super) fn join(&mut self, key: PeerKey, token: Token, peers: u16) {
        self.stage = Stage::Member(key);
        self.token = Some(token);
        // Each peer that is there: joined, and what it is since.
        self.telling = Telling::Present(u32::from(peers) * 3);
    }

    pub(super) fn leave(&mut self) {
        self.stage = Stage::Visitor;
        self.token = None;
        self.telling = Telling::Nobody;
    }

    /// The message that is to be sent now; the same one until [`Self::sent`].
    pub(super) fn next<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
    ) -> Option<&Outgoing<B>> {
        if self.next.is_none() {
            self.next = self.compute(board);
        }
        self.next.as_ref()
    }

    pub(super) fn sent(&mut self) {
        self.next = None;
        self.answering = false;
        self.blocked = None;
    }

    /// Puts a refusal in the place of the memory that is to be sent now and of what
    /// is left of it. Its key, if it was joining: it is no peer any more.
    pub(super) fn withhold(&mut self, refusal: Refusal) -> Option<PeerKey> {
        self.next = Some(bare(&Reply::Refused(refusal)));
        if matches!(self.answer, Some(Answer::Memory { .. })) {
            self.answer = None;
        }
        let joins = matches!(self.telling, Telling::Present(_));
        let key = self.key().filter(|_| joins)?;
        self.leave();
        Some(key)
    }

    fn compute<M: SharedMem>(&mut self, board: &mut Switchboard<M, B>) -> Option<Outgoing<B>> {
        if let Some(answer) = self.answer.take() {
            let (outgoing, rest) = self.piece_of(answer);
            self.answer = rest;
            self.answering = true;
            return Some(outgoing);
        }
        let Stage::Member(key) = self.stage else {
            return None;
        };
        let left = match &mut self.telling {
            Telling::Nobody => return None,
            Telling::Present(left) => Some(left),
            Telling::Changes => None,
        };
        let due = match left {
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                board.next_event(&key).ok().flatten()
            }
            None => Some(board.next_event(&key).ok().flatten()?),
        };
        Some(match due {
            Some(event) => told(event),
            None => {
                self.telling = Telling::Changes;
                bare(&Reply::Current)
            }
        })
    }

    /// The next message of an answer, and what is left of it.
    fn piece_of(&self, answer: Answer<B>) -> (Outgoing<B>, Option<Answer<B>>) {
        match answer {
            Answer::Welcome => (bare(&Reply::Welcome { version: VERSION }), None),
            Answer::Done => (bare(&Reply::Done), None),
            Answer::Refused(refusal) => (bare(&Reply::Refused(refusal)), None),
            Answer::List(mut regions) => match regions.pop_front() {
                Some(region) => (bare(&Reply::Region(region)), Some(Answer::List(regions))),
                None => (bare(&Reply::EndOfList), None),
            },
            Answer::Tree(tree, at) => {
                let rest = tree.as_bytes().get(at..).unwrap_or_default();
                let len = rest.len().min(TREE_MAX);
                let last = len == rest.len();
                let text = rest.get(..len).unwrap_or_default().to_vec();
                let outgoing = bare(&Reply::Tree { last, text });
                (outgoing, (!last).then(|| Answer::Tree(tree, at + len)))
            }
            Answer::Admitted {
                admitted,
                bells,
                pieces,
                rights,
            } => {
                let outgoing = Outgoing {
                    bytes: Reply::Admitted(admitted).encode(),
                    passed: bells.into_iter().map(Passed::Bell).collect(),
                };
                let rest = self.key().filter(|_| !pieces.is_empty());
                let rest = rest.map(|key| Answer::Memory {
                    region: key.region,
                    pieces,
                    rights,
                    own: Some(key.peer),
                });
                (outgoing, rest)
            }
            Answer::Watching {
                region,
                uuid,
                pieces,
            } => {
                let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
                let reply = Reply::Watching {
                    uuid,
                    pieces: count,
                };
                let rest = Answer::Memory {
                    region,
                    pieces,
                    rights: Rights::OBSERVER,
                    own: None,
                };
                (bare(&reply), (count > 0).then_some(rest))
            }
            Answer::Memory {
                region,
                mut pieces,
                rights,
                own,
            } => {
                let rest = pieces.split_off(pieces.len().min(FDS_MAX));
                let opened = pieces.iter().map(|p| (*p, writes(*p, rights, own)));
                let opened: Vec<_> = opened.collect();
                let passed = opened.iter().map(|(p, w)| Passed::Memory(region, *p, *w));
                let outgoing = Outgoing {
                    passed: passed.collect(),
                    bytes: Reply::Memory(opened).encode(),
                };
                let rest = (!rest.is_empty()).then_some(Answer::Memory {
                    region,
                    pieces: rest,
                    rights,
                    own,
                });
                (outgoing, rest)
            }
        }
    }
}

/// Whether a peer with these rights gets a piece for writing. A flat region is one
/// piece: writing anything means writing all of it.
fn writes(piece: Option<Part>, rights: Rights, own: Option<PeerId>) -> bool {
    match piece {
        None => rights.has(Rights::WRITE_OWN) || rights.has(Rights::WRITE_COMMON),
        Some(Part::Common) => rights.has(Rights::WRITE_COMMON),
        Some(Part::Section(peer)) => {
            let is_own = own == Some(peer) || !stands(Guard::Sections);
            is_own && rights.has(Rights::WRITE_OWN)
        }
        Some(Part::HostPages | Part::Tail) => false,
    }
}

fn bare<B>(reply: &Reply) -> Outgoing<B> {
    Outgoing {
        bytes: reply.encode(),
        passed: Vec::new(),
    }
}

fn told<B>(event: Event<B>) -> Outgoing<B> {
    match event {
        Event::Joined {
            peer,
            epoch,
            name,
            kind,
            mut bells,
        } => {
            // The switchboard lets nobody have more.
            bells.truncate(FDS_MAX);
            let reply = Reply::Joined {
                peer,
                epoch,
                name,
                kind,
                bells: u16::try_from(bells.len()).unwrap_or(u16::MAX),
            };
            Outgoing {
                bytes: reply.encode(),
                passed: bells.into_iter().map(Passed::Bell).collect(),
            }
        }
        Event::Ready { peer } => bare(&Reply::Ready { peer }),
        Event::Quiescing { peer } => bare(&Reply::Quiescing { peer }),
        Event::Gone { peer, epoch } => bare(&Reply::Gone { peer, epoch }),
    }
}
