//! The switchboard's end, over a [`Switchboard`] that others may share: clients
//! come and go, what each says is carried out, and for each there is a next message.
//!
//! ```text
//!   hello ──▶ visitor ──Join──▶ member ──Leave──▶ visitor
//!                │                 │
//!                └────Reattach────▶┘
//! ```
//!
//! Distrusted: clients. A message that is none, a request before the answer to the
//! last one, a hello that does not come, a message that waits too long: the client
//! loses its place ([`Lost`]). What a client costs is bounded: one message and what
//! comes after it as numbers, the bells of one peer, the switchboard's inbox. Only
//! the inspect tree is text, and few may have one under way
//! ([`Limits::inspections`]). Visitors beyond [`Limits::visitors`] displace the one
//! that has been silent longest, so that half-open clients keep nobody out for long.
//!
//! Left out: descriptors and where they come from ([`Host`]), sockets, the clock
//! (times are durations since a start that the caller chooses).

mod client;
mod outcome;
mod refusals;

pub use client::Outgoing;
pub use client::Passed;
pub use outcome::Departure;
pub use outcome::Done;
pub use outcome::Lost;

use crate::Refusal;
use crate::RefusalCode;
use crate::RegionInfo;
use crate::Request;
use crate::Token;
use crate::VECTORS_MAX;
use crate::VERSION;
use crate::guard::Guard;
use crate::message::Admitted;
use crate::message::Join;
use crate::message::Reattach;
use client::Answer;
use client::Client;
use client::Stage;
use hv_shmem::backing::Part;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_device::Counter;
use portal_device::guard::stands;
use portal_device::inspect::Node;
use portal_switchboard::Admission;
use portal_switchboard::PeerKey;
use portal_switchboard::Switchboard;
use std::collections::BTreeMap;
use std::time::Duration;

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take to say hello.
    pub hello: Duration,
    /// How long one message may wait for a client to make room.
    pub stall: Duration,
    /// How long a peer may stay away after a restart before it is gone.
    pub grace: Duration,
    /// Clients that are no peers.
    pub visitors: usize,
    /// Inspect trees under way at once.
    pub inspections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hello: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            visitors: 64,
            inspections: 4,
        }
    }
}

/// What the protocol needs of whoever carries it.
pub trait Host<M, B> {
    /// The bells of a peer that brings none, one a vector.
    ///
    /// # Errors
    /// A refusal, when there are none.
    fn bells(&mut self, region: &Name, peer: PeerId, vectors: u16) -> Result<Vec<B>, Refusal>;

    /// Takes the bells that a peer brings; returns those on which clients of the
    /// compatibility socket ring it, for it to pass on.
    ///
    /// # Errors
    /// A refusal.
    fn take(&mut self, region: &Name, peer: PeerId, bells: &[B]) -> Result<Vec<B>, Refusal>;

    /// Takes the bells of a peer that is back: its own, and those that it passes
    /// on.
    ///
    /// # Errors
    /// A refusal.
    fn take_back(
        &mut self,
        region: &Name,
        peer: PeerId,
        bells: &[B],
        passed_on: Vec<B>,
    ) -> Result<(), Refusal>;

    /// Pieces of a region's memory that have a descriptor; none for an unknown
    /// region.
    ///
    /// # Errors
    /// A refusal, when they could not be sent now.
    fn pieces(&self, region: &Name) -> Result<Vec<Option<Part>>, Refusal>;

    /// Vectors of the compatibility socket, if the region has one.
    fn compatible(&self, region: &Name) -> Option<u16>;

    /// A token that nobody can guess.
    ///
    /// # Errors
    /// A refusal, when the system has no random bytes.
    fn token(&mut self) -> Result<Token, Refusal>;

    /// The inspect tree as JSON; `clients` is this server's part of it.
    fn tree(&self, board: &Switchboard<M, B>, clients: Node) -> String;
}

/// Names a client; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

#[derive(Clone, Copy, Debug)]
struct Away {
    token: Token,
    until: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    broke: Counter,
    overdue: Counter,
    displaced: Counter,
    refused: Counter,
    returned: Counter,
    expired: Counter,
}

/// The clients of a Portal socket.
#[derive(Debug)]
pub struct Server<B> {
    clients: BTreeMap<ClientId, Client<B>>,
    away: BTreeMap<(Name, u16), (PeerKey, Away)>,
    born: u64,
    limits: Limits,
    counters: Counters,
}

impl<B: Clone> Server<B> {
    /// No clients.
    pub fn new(limits: Limits) -> Self {
        Server {
            clients: BTreeMap::new(),
            away: BTreeMap::new(),
            born: 0,
            limits,
            counters: Counters::default(),
        }
    }

    /// A client connected. When that makes too many that are no peers, the one
    /// that has been silent longest loses its place.
    pub fn connect(&mut self, now: Duration) -> (ClientId, Option<(ClientId, Departure)>) {
        let visitors = || self.clients.iter().filter(|(_, c)| c.key().is_none());
        let displaced = if visitors().count() >= self.limits.visitors {
            let oldest = visitors().min_by_key(|(_, client)| client.heard);
            oldest.map(|(id, _)| *id)
        } else {
            None
        };
        let displaced = displaced.map(|id| {
            self.counters.displaced.bump();
            self.clients.remove(&id);
            let why = Lost::Displaced;
            (id, Departure { key: None, why })
        });
        let id = ClientId(self.born);
        self.born = self.born.saturating_add(1);
        self.clients.insert(id, Client::new(now));
        (id, displaced)
    }

    /// The peer of `key` lived when the switchboard ended: it may come back with
    /// this token until its grace is over.
    pub fn expect(&mut self, key: PeerKey, token: Token, now: Duration) {
        let until = now.saturating_add(self.limits.grace);
        let away = Away { token, until };
        self.away.insert((key.region, key.peer.0), (key, away));
    }

    /// Whether a client is to be listened to: an answer is not under way.
    pub fn listens(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(Client::listens)
    }

    /// A message from a client, with the bells that came with it.
    ///
    /// # Errors
    /// [`Lost`]: the client has to be parted from ([`Self::part`]).
    pub fn receive<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        host: &mut impl Host<M, B>,
        client: ClientId,
        message: &[u8],
        bells: Vec<B>,
        now: Duration,
    ) -> Result<Done, Lost> {
        let request = match Request::decode(message, bells.len()) {
            Ok(request) => request,
            Err(error) => {
                self.counters.broke.bump();
                return Err(Lost::Broke(error));
            }
        };
        let Some(found) = self.clients.get_mut(&client) else {
            return Err(Lost::Closed);
        };
        if (!found.listens() && stands(Guard::Turn))
            || (found.stage == Stage::Hello) != matches!(request, Request::Hello { .. })
        {
            self.counters.broke.bump();
            return Err(Lost::OutOfTurn);
        }
        found.heard = now;
        let carried_out = self.carry_out(board, host, client, request, bells);
        let Some(found) = self.clients.get_mut(&client) else {
            return Err(Lost::Closed);
        };
        match carried_out {
            Ok((done, answer)) => {
                found.answer(answer);
                Ok(done)
            }
            Err(refusal) => {
                self.counters.refused.bump();
                found.answer(Answer::Refused(refusal));
                Ok(Done::Quiet)
            }
        }
    }

    /// Refuses what a client asked for before it could be read whole.
    ///
    /// # Errors
    /// [`Lost::OutOfTurn`].
    pub fn refuse(&mut self, client: ClientId, refusal: Refusal) -> Result<(), Lost> {
        let found = self.clients.get_mut(&client).ok_or(Lost::Closed)?;
        if !found.listens() {
            return Err(Lost::OutOfTurn);
        }
        self.counters.refused.bump();
        found.answer(Answer::Refused(refusal));
        Ok(())
    }

    fn carry_out<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        host: &mut impl Host<M, B>,
        client: ClientId,
        request: Request,
        bells: Vec<B>,
    ) -> Result<(Done, Answer<B>), Refusal> {
        let stage = self.clients.get(&client).map_or(Stage::Hello, |c| c.stage);
        match (request, stage) {
            (Request::Hello { oldest, newest }, _) => {
                if !(oldest..=newest).contains(&VERSION) {
                    return Err(Refusal::new(
                        RefusalCode::Version,
                        format!(
                            "the client speaks protocol versions {oldest} to {newest}, this \
                             switchboard speaks {VERSION}"
                        ),
                    ));
                }
                if let Some(found) = self.clients.get_mut(&client) {
                    found.stage = Stage::Visitor;
                }
                Ok((Done::Quiet, Answer::Welcome))
            }
            (Request::List, _) => {
                let list = board.regions().filter_map(|name| info(board, host, name));
                Ok((Done::Quiet, Answer::List(list.collect())))
            }
            (Request::Inspect, _) => {
                let under_way = self.clients.values().filter(|c| c.inspects()).count();
                if under_way >= self.limits.inspections {
                    let text = format!("{under_way} inspect trees are under way, no more at once");
                    return Err(Refusal::new(RefusalCode::Resources, text));
                }
                Ok((
                    Done::Quiet,
                    Answer::Tree(host.tree(board, self.inspect()), 0),
                ))
            }
            (Request::Watch { region }, _) => {
                let header = board
                    .header(&region)
                    .ok_or_else(|| refusals::no_region(&region, board.regions()))?;
                // Whoever looks is a process of this host.
                board
                    .may(&region, PeerKind::HostProcess, Rights::OBSERVER)
                    .map_err(|e| refusals::of_admission(&e))?;
                let answer = Answer::Watching {
                    region,
                    uuid: header.uuid,
                    pieces: host.pieces(&region)?,
                };
                Ok((Done::Quiet, answer))
            }
            (Request::Join(join), Stage::Visitor) => self.join(board, host, client, &join, bells),
            (Request::Reattach(back), Stage::Visitor) => {
                self.reattach(board, host, client, &back, bells)
            }
            (Request::Join(_) | Request::Reattach(_), _) => Err(Refusal::new(
                RefusalCode::Step,
                "this connection is a peer already; use another for another region",
            )),
            (Request::Ready, Stage::Member(key)) => {
                board.ready(&key).map_err(|e| refusals::of_step(&e))?;
                Ok((Done::Stepped(key), Answer::Done))
            }
            (Request::Quiesce, Stage::Member(key)) => {
                board.quiesce(&key).map_err(|e| refusals::of_step(&e))?;
                Ok((Done::Stepped(key), Answer::Done))
            }
            (Request::Leave, Stage::Member(key)) => {
                board.gone(&key).map_err(|e| refusals::of_step(&e))?;
                if let Some(found) = self.clients.get_mut(&client) {
                    found.leave();
                }
                Ok((Done::Left(key), Answer::Done))
            }
            (Request::HearOn { vectors }, Stage::Member(key)) => {
                host.take(&key.region, key.peer, &bells)?;
                let taken = board.hear_on(&key, bells);
                if !taken.map_err(|e| refusals::of_step(&e.into()))? {
                    let text = format!(
                        "peer {} of region {} joined with another number of vectors than {vectors}",
                        key.peer, key.region
                    );
                    return Err(Refusal::new(RefusalCode::Vectors, text));
                }
                Ok((Done::Stepped(key), Answer::Done))
            }
            (Request::Publish { state }, Stage::Member(key)) => {
                let published = board.publish(&key, state);
                published.map_err(|e| refusals::of_step(&e))?;
                Ok((Done::Quiet, Answer::Done))
            }
            (
                Request::Ready
                | Request::Quiesce
                | Request::Leave
                | Request::HearOn { .. }
                | Request::Publish { .. },
                _,
            ) => Err(Refusal::new(
                RefusalCode::Step,
                "this connection is no peer; join first",
            )),
        }
    }

    fn join<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        host: &mut impl Host<M, B>,
        client: ClientId,
        join: &Join,
        brought: Vec<B>,
    ) -> Result<(Done, Answer<B>), Refusal> {
        let header = board
            .header(&join.region)
            .ok_or_else(|| refusals::no_region(&join.region, board.regions()))?;
        let uuid = header.uuid;
        let asked = Admission {
            name: join.name,
            kind: join.kind,
            rights: join.rights,
            id: join.id,
            bells: Vec::new(),
        };
        let peer = board
            .consider(&join.region, &asked, join.vectors.into())
            .map_err(|e| refusals::of_admission(&e))?;
        let token = host.token()?;
        let (bells, given) = if join.own {
            let passed_on = host.take(&join.region, peer, &brought)?;
            (brought, passed_on)
        } else {
            let made = host.bells(&join.region, peer, join.vectors)?;
            (made.clone(), made)
        };
        // After its bells are there: they may have taken what this needs.
        let pieces = host.pieces(&join.region)?;
        let admission = Admission {
            name: join.name,
            kind: join.kind,
            rights: join.rights,
            id: Some(peer),
            bells,
        };
        let key = board
            .admit(&join.region, admission)
            .map_err(|e| refusals::of_admission(&e))?;
        let limit = board.layout(&join.region).map_or(0, |l| l.max_peers);
        if let Some(found) = self.clients.get_mut(&client) {
            found.join(key, token, limit);
        }
        let admitted = Admitted {
            uuid,
            peer,
            epoch: key.epoch,
            rights: join.rights,
            token,
            pieces: u16::try_from(pieces.len()).unwrap_or(u16::MAX),
            bells: u16::try_from(given.len()).unwrap_or(u16::MAX),
        };
        let answer = Answer::Admitted {
            admitted,
            bells: given,
            pieces,
            rights: join.rights,
        };
        Ok((Done::Joined(key), answer))
    }

    fn reattach<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        host: &mut impl Host<M, B>,
        client: ClientId,
        back: &Reattach,
        mut bells: Vec<B>,
    ) -> Result<(Done, Answer<B>), Refusal> {
        let header = board
            .header(&back.region)
            .ok_or_else(|| refusals::no_region(&back.region, board.regions()))?;
        if header.uuid != back.uuid {
            return Err(Refusal::new(
                RefusalCode::Expired,
                format!(
                    "region {} is {} now, the peer was in {}: it was made anew",
                    back.region, header.uuid, back.uuid
                ),
            ));
        }
        let at = (back.region, back.peer.0);
        let expected = self.away.get(&at).copied().filter(|(key, away)| {
            let known = away.token.matches(&back.token) || !stands(Guard::Token);
            key.epoch == back.epoch && known
        });
        let Some((key, away)) = expected else {
            return Err(Refusal::new(
                RefusalCode::Expired,
                format!(
                    "nobody of this token is expected back as peer {} of region {} in epoch {}",
                    back.peer, back.region, back.epoch
                ),
            ));
        };
        let record = board.record(&back.region, back.peer).and_then(|r| r.who);
        let limit = board.layout(&back.region).map_or(0, |l| l.max_peers);
        let vectors = record.map_or(0, |who| who.vectors);
        if vectors != u32::from(back.vectors) {
            let text = format!(
                "peer {} of region {} has {vectors} vectors, {} came back",
                back.peer, back.region, back.vectors
            );
            return Err(Refusal::new(RefusalCode::Vectors, text));
        }
        let passed_on = bells.split_off(back.vectors.into());
        host.take_back(&back.region, back.peer, &bells, passed_on)?;
        board
            .come_back(&key, bells)
            .map_err(|e| refusals::of_admission(&e))?;
        self.away.remove(&at);
        self.counters.returned.bump();
        let rights = record.map_or(hv_shmem::peers::Rights::READ, |who| who.rights);
        if let Some(found) = self.clients.get_mut(&client) {
            found.join(key, away.token, limit);
        }
        let admitted = Admitted {
            uuid: back.uuid,
            peer: key.peer,
            epoch: key.epoch,
            rights,
            token: away.token,
            pieces: 0,
            bells: 0,
        };
        let answer = Answer::Admitted {
            admitted,
            bells: Vec::new(),
            pieces: Vec::new(),
            rights,
        };
        Ok((Done::Returned(key), answer))
    }

    /// The message that this client is to be sent now, the same one until
    /// [`Self::sent`]; `None` when there is none.
    pub fn next<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
    ) -> Option<&Outgoing<B>> {
        self.clients.get_mut(&client)?.next(board)
    }

    /// The message went out whole.
    pub fn sent(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.sent();
        }
    }

    /// The memory in the message that is to be sent now cannot be opened: the client
    /// is told this refusal in its place. A client that was joining and has not been
    /// told of everybody is no peer any more; which one it was.
    pub fn withhold<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
        refusal: Refusal,
    ) -> Option<PeerKey> {
        self.counters.refused.bump();
        let key = self.clients.get_mut(&client)?.withhold(refusal)?;
        // A key from this table is live until here: only this takes it out.
        let _ = board.gone(&key);
        Some(key)
    }

    /// The message could not go out: the client's buffer is full.
    pub fn blocked(&mut self, client: ClientId, now: Duration) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.blocked.get_or_insert(now);
        }
    }

    /// Whether the client has been sent that it speaks no common version, and is
    /// to be parted from.
    pub fn is_over(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_none_or(Client::is_over)
    }

    /// Takes a client out; its peer, if it was one, is gone.
    pub fn part<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
        why: Lost,
    ) -> Option<Departure> {
        let key = self.clients.remove(&client)?.key();
        if let Some(key) = &key {
            // A key from this table is live until here: only this takes it out.
            let _ = board.gone(key);
        }
        Some(Departure { key, why })
    }

    /// A client that has had its time, if there is one: it loses its place. Call
    /// again until `None`.
    pub fn overdue<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        now: Duration,
    ) -> Option<(ClientId, Departure)> {
        let Limits { hello, stall, .. } = self.limits;
        let late = |client: &Client<B>| {
            let silent = client.stage == Stage::Hello && now.saturating_sub(client.heard) >= hello;
            let stalled = client
                .blocked
                .is_some_and(|since| now.saturating_sub(since) >= stall);
            match (silent, stalled) {
                (true, _) => Some(Lost::Silent { limit: hello }),
                (false, true) => Some(Lost::Stalled { limit: stall }),
                (false, false) => None,
            }
        };
        let mut clients = self.clients.iter();
        let (id, why) = clients.find_map(|(id, client)| Some((*id, late(client)?)))?;
        self.counters.overdue.bump();
        let departure = self.part(board, id, why)?;
        Some((id, departure))
    }

    /// A peer whose grace is over, if there is one: it is gone. Call again until
    /// `None`.
    pub fn expired<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        now: Duration,
    ) -> Option<Departure> {
        let mut away = self.away.iter();
        let (at, key) = away.find_map(|(at, (key, a))| (now >= a.until).then_some((*at, *key)))?;
        self.away.remove(&at);
        self.counters.expired.bump();
        // The key was live when it was expected, and only this ends it.
        let _ = board.gone(&key);
        let why = Lost::Away {
            limit: self.limits.grace,
        };
        let key = Some(key);
        Some(Departure { key, why })
    }

    /// Whether somebody's time is running.
    pub fn time_runs(&self) -> bool {
        let running = |c: &Client<B>| c.stage == Stage::Hello || c.blocked.is_some();
        !self.away.is_empty() || self.clients.values().any(running)
    }

    /// Which life of which peer a client is.
    pub fn place(&self, client: ClientId) -> Option<PeerKey> {
        self.clients.get(&client)?.key()
    }

    /// The token of a client that is a peer.
    pub fn token(&self, client: ClientId) -> Option<Token> {
        self.clients.get(&client)?.token
    }

    /// The tree that `portal top` and `portal inspect` show.
    pub fn inspect(&self) -> Node {
        let members = self.clients.values().filter(|c| c.key().is_some()).count();
        Node::new()
            .with("members", members as u64)
            .with("visitors", (self.clients.len() - members) as u64)
            .with("away", self.away.len() as u64)
            .with("broke", self.counters.broke.get())
            .with("refused", self.counters.refused.get())
            .with("overdue", self.counters.overdue.get())
            .with("displaced", self.counters.displaced.get())
            .with("returned", self.counters.returned.get())
            .with("expired", self.counters.expired.get())
    }
}

fn info<M: SharedMem, B: Clone>(
    board: &Switchboard<M, B>,
    host: &impl Host<M, B>,
    name: Name,
) -> Option<RegionInfo> {
    let header = board.header(&name)?;
    let compatible = host.compatible(&name);
    Some(RegionInfo {
        name,
        uuid: header.uuid,
        size: header.layout.size,
        common: header.layout.common.end - header.layout.common.start,
        peers: header.layout.max_peers,
        live: u16::try_from(board.live(&name)).unwrap_or(u16::MAX),
        vectors: compatible.unwrap_or(VECTORS_MAX as u16),
        sectioned: header.sectioned(),
        compatible: compatible.is_some(),
    })
}
