//! A server over two regions with small quotas, clients that do whatever numbers say,
//! and after each step what must hold ([`model`]).

mod host;
mod model;
pub(crate) mod source;

use host::Bell;
use host::Carrier;
use host::LAKE_VECTORS;
use host::numbers;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use model::Known;
use model::Member;
use model::Model;
use model::ensure;
use portal_protocol::Join;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Reattach;
use portal_protocol::Refusal;
use portal_protocol::RefusalCode;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::Token;
use portal_protocol::VERSION;
use portal_protocol::server::ClientId;
use portal_protocol::server::Done;
use portal_protocol::server::Limits;
use portal_protocol::server::Lost;
use portal_protocol::server::Passed;
use portal_protocol::server::Server;
use portal_switchboard::PeerKey;
use portal_switchboard::Policy;
use portal_switchboard::Switchboard;
use source::Source;
use std::time::Duration;

pub(crate) const LAKE: &str = "lake";
pub(crate) const POND: &str = "pond";
/// Ids of each region.
pub(crate) const PEERS: u16 = 6;
/// Vectors of all peers of a region.
const QUOTA: usize = 12;
const LIMITS: Limits = Limits {
    hello: Duration::from_millis(100),
    stall: Duration::from_millis(200),
    grace: Duration::from_millis(2000),
    visitors: 5,
    inspections: 2,
};
/// What the kernel passes at once.
const FDS_MAX: u8 = 253;
/// Longest run of messages that a reader takes in one step.
const ALL: u32 = 10_000;

type Board = Switchboard<HeapMem, Bell>;
type Held = Result<(), String>;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// Everybody into the lake; into the pond only partitions, and who looks.
fn policy(region: &str) -> Policy {
    match region {
        LAKE => Policy::default(),
        _ => Policy {
            partitions: Some(Rights::READ.and(Rights::WRITE_OWN).and(Rights::RING)),
            host_processes: Some(Rights::OBSERVER),
            first_id: PeerId(1),
        },
    }
}

fn empty_board() -> Board {
    Switchboard::new(portal_switchboard::Limits {
        regions: 2,
        vectors_per_peer: 6,
        vectors_per_region: QUOTA,
    })
}

#[derive(Debug)]
pub(crate) struct World {
    board: Board,
    server: Server<Bell>,
    carrier: Carrier,
    /// The memory of each region, which outlives a server.
    memory: Vec<(&'static str, HeapMem)>,
    now: Duration,
    model: Model,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut board = empty_board();
        let mut memory = Vec::new();
        for (number, region) in [LAKE, POND].into_iter().enumerate() {
            let spec = RegionSpec::new(name(region), 1 << 20, PEERS);
            let mem = HeapMem::new(64 << 10);
            let uuid = uuid::Uuid::from_u128(number as u128 + 1);
            let pages = HostPages::format(mem.clone(), &spec, uuid).expect("host pages fit");
            board.add_region(pages, policy(region)).expect("room");
            memory.push((region, mem));
        }
        Self {
            board,
            server: Server::new(LIMITS),
            carrier: Carrier::default(),
            memory,
            now: Duration::ZERO,
            model: Model::default(),
        }
    }

    /// One step, of a client, of the clock or of the switchboard's own fate.
    pub(crate) fn act(&mut self, source: &mut impl Source) -> Held {
        match source.below(32) {
            0..4 => self.connect()?,
            4..18 => {
                let client = self.pick(source);
                self.say(client, source)?;
            }
            18..26 => {
                let client = self.pick(source);
                let messages = 1 + u32::from(source.below(12));
                self.hear(client, messages, source)?;
            }
            26 => {
                let client = self.pick(source);
                self.part(client, Lost::Closed)?;
            }
            27 => {
                let client = self.pick(source);
                let _ = self.server.next(&mut self.board, client);
                self.server.blocked(client, self.now);
                self.model.blocked(client, self.now);
            }
            28 | 29 => self.wait(source.byte().into())?,
            30 => self.carrier.short = source.below(4) == 0,
            _ if source.below(4) == 0 => self.restart()?,
            _ => self.settle(source)?,
        }
        self.bounded()
    }

    /// A client that is there, or now and then one that is not.
    fn pick(&self, source: &mut impl Source) -> ClientId {
        let count = self.model.clients.len();
        let at = usize::from(source.byte()) % (count + 1);
        let found = self.model.clients.keys().nth(at);
        found.copied().unwrap_or(ClientId(u64::MAX))
    }

    fn connect(&mut self) -> Held {
        let (id, displaced) = self.server.connect(self.now);
        if let Some((other, departure)) = displaced {
            ensure(departure.key.is_none(), "a peer was displaced")?;
            self.model.lose(other, None)?;
        }
        let known = Known::new(self.now);
        let again = self.model.clients.insert(id, known);
        ensure(again.is_none(), "a client's number was used twice")
    }

    /// What a client says: a request, nearly one, or anything; and what comes with it.
    fn message(&self, client: ClientId, source: &mut impl Source) -> (Vec<u8>, usize) {
        let request = self.request(client, source);
        let (mut bytes, mut bells) = (request.encode(), request.fds());
        match source.below(96) {
            0 => {
                let long = MESSAGE_MAX + 100;
                let len = match source.below(16) {
                    0 => usize::from(source.word()) % long,
                    _ => usize::from(source.byte()) % 64,
                };
                bytes = (0..len).map(|_| source.byte()).collect();
            }
            1 => {
                let at = usize::from(source.byte()) % bytes.len();
                bytes[at] ^= 1 << source.below(8);
            }
            2 => {
                let len = 8 + usize::from(source.byte()) % 120;
                bytes.resize(len, 0);
                bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            }
            3 => bells = source.below(FDS_MAX + 1).into(),
            _ => {}
        }
        (bytes, bells)
    }

    fn request(&self, client: ClientId, source: &mut impl Source) -> Request {
        let (oldest, newest) = (VERSION, VERSION);
        let is_new = self.model.clients.get(&client).is_some_and(|c| c.is_new);
        if is_new && source.below(16) != 0 {
            return Request::Hello { oldest, newest };
        }
        let mut members = self.model.members.values();
        let awaited = members.any(|m| m.away.is_some());
        let is_peer = self.server.place(client).is_some();
        if awaited && !is_peer && source.below(4) != 0 {
            return Request::Reattach(self.reattach(name(LAKE), source));
        }
        let region = match source.below(16) {
            0 => "puddle",
            1..9 => LAKE,
            _ => POND,
        };
        let region = name(region);
        let asks = match is_peer {
            true => source.below(24),
            // Who is no peer mostly asks to be one.
            false => source.below(64),
        };
        match asks {
            0 => Request::Hello {
                oldest: source.below(3).into(),
                newest: source.below(3).into(),
            },
            1 => Request::List,
            2 => Request::Inspect,
            3 => Request::Watch { region },
            4 | 5 => Request::Ready,
            6 | 7 => Request::Quiesce,
            8 => Request::Leave,
            9 => Request::Publish {
                state: source.word().into(),
            },
            10 | 11 => Request::HearOn {
                vectors: source.below(5).into(),
            },
            12 => Request::Reattach(self.reattach(region, source)),
            _ => {
                let kind = match source.below(3) {
                    0 => PeerKind::HostProcess,
                    _ => PeerKind::Partition,
                };
                let mut bits = source.below(16) | u8::from(source.below(8) != 0);
                if region.as_str() == POND && source.below(8) != 0 {
                    bits &= !(Rights::WRITE_COMMON.bits() as u8);
                }
                Request::Join(Join {
                    region,
                    name: name(&format!("peer-{}", source.below(12))),
                    kind,
                    rights: Rights::from_bits(bits.into()).expect("four bits"),
                    id: (source.below(6) == 0).then(|| PeerId(source.below(8).into())),
                    vectors: (source.below(8) & source.below(8)).into(),
                    own: source.below(2) == 0,
                })
            }
        }
    }

    /// As a peer that is away would ask, or as one that is not.
    fn reattach(&self, region: Name, source: &mut impl Source) -> Reattach {
        let mut away = self.model.members.values().filter(|m| m.away.is_some());
        let mut back = match away.nth(source.below(4).into()) {
            Some(member) => Reattach {
                region: member.key.region,
                uuid: self
                    .board
                    .header(&member.key.region)
                    .expect("is there")
                    .uuid,
                peer: member.key.peer,
                epoch: member.key.epoch,
                token: member.token,
                vectors: member.vectors as u16,
                passed_on: source.below(LAKE_VECTORS as u8 + 2).into(),
            },
            None => Reattach {
                region,
                uuid: uuid::Uuid::from_u128(source.below(4).into()),
                peer: PeerId(source.below(8).into()),
                epoch: source.below(4).into(),
                token: Token([source.byte(); 16]),
                vectors: source.below(8).into(),
                passed_on: 0,
            },
        };
        match source.below(8) {
            0 => back.token.0[0] ^= 1 + source.below(255),
            1 => back.epoch ^= 1,
            2 => back.vectors = source.below(8).into(),
            _ => {}
        }
        back
    }

    fn say(&mut self, client: ClientId, source: &mut impl Source) -> Held {
        // Mostly after the answer to what it said last, or peers would never live long.
        let waits = self.model.clients.contains_key(&client) && !self.server.listens(client);
        if waits && source.below(16) != 0 {
            return self.hear(client, ALL, source);
        }
        let (bytes, bells) = self.message(client, source);
        let decoded = Request::decode(&bytes, bells);
        let brought = self.carrier.new_bells(bells);
        let brought_numbers = numbers(&brought);
        let listens = self.server.listens(client);
        let heard = self.server.receive(
            &mut self.board,
            &mut self.carrier,
            client,
            &bytes,
            brought,
            self.now,
        );
        let request = match decoded {
            Ok(request) => request,
            Err(malformed) => {
                ensure(
                    heard == Err(Lost::Broke(malformed)),
                    "what is no message was taken",
                )?;
                return self.part(client, Lost::Closed);
            }
        };
        let Some(known) = self.model.clients.get_mut(&client) else {
            return ensure(heard == Err(Lost::Closed), "a stranger was heard");
        };
        let in_turn = listens && known.is_new == matches!(request, Request::Hello { .. });
        if !in_turn {
            ensure(heard == Err(Lost::OutOfTurn), "a client spoke out of turn")?;
            return self.part(client, Lost::OutOfTurn);
        }
        known.heard = self.now;
        ensure(!self.server.listens(client), "a request without an answer")?;
        let done = heard.map_err(|lost| format!("an honest request cost the place: {lost}"))?;
        let given = std::mem::take(&mut self.carrier.given);
        self.model
            .done(client, request, done, &brought_numbers, &given)?;
        if let Done::Joined(key) | Done::Returned(key) = done {
            let token = self.server.token(client);
            let token = token.ok_or("a peer without a token")?;
            self.model.admitted(client, key, token)?;
        }
        Ok(())
    }

    /// The client takes at most so many messages.
    fn hear(&mut self, client: ClientId, most: u32, source: &mut impl Source) -> Held {
        for _ in 0..most {
            let Some(message) = self.server.next(&mut self.board, client) else {
                if self.model.clients.contains_key(&client) && self.server.is_over(client) {
                    return self.part(client, Lost::Closed);
                }
                return self.model.caught_up(client);
            };
            let message = message.clone();
            let again = self.server.next(&mut self.board, client);
            ensure(
                again == Some(&message),
                "another message in the place of one not sent",
            )?;
            ensure(message.bytes.len() <= MESSAGE_MAX, "a message too long")?;
            let reply = Reply::decode(&message.bytes, message.passed.len())
                .map_err(|error| format!("the server said what is no message: {error}"))?;
            let is_memory = matches!(reply, Reply::Memory(_));
            if is_memory && source.below(8) == 0 {
                let refusal = Refusal::new(RefusalCode::Resources, "no descriptor is left");
                let gone = self.server.withhold(&mut self.board, client, refusal);
                self.model.withheld(client, gone)?;
                continue;
            }
            self.server.sent(client);
            let listens = self.server.listens(client);
            self.model.heard(client, &reply, &message.passed, listens)?;
        }
        Ok(())
    }

    fn part(&mut self, client: ClientId, why: Lost) -> Held {
        match self.server.part(&mut self.board, client, why) {
            Some(departure) => self.model.lose(client, departure.key),
            None => ensure(
                !self.model.clients.contains_key(&client),
                "a client was lost",
            ),
        }
    }

    fn wait(&mut self, ms: u64) -> Held {
        self.now += Duration::from_millis(ms);
        while let Some((client, departure)) = self.server.overdue(&mut self.board, self.now) {
            let known = self.model.clients.get(&client);
            let due = known.is_some_and(|c| c.is_overdue(self.now, &LIMITS));
            ensure(due, "a client lost its place before its time")?;
            self.model.lose(client, departure.key)?;
        }
        let mut clients = self.model.clients.values();
        ensure(
            !clients.any(|c| c.is_overdue(self.now, &LIMITS)),
            "a client keeps its place beyond its time",
        )?;
        while let Some(departure) = self.server.expired(&mut self.board, self.now) {
            let key = departure.key.ok_or("nobody's grace was over")?;
            self.model.expired(key, self.now)?;
        }
        let mut members = self.model.members.values();
        ensure(
            !members.any(|m| m.away.is_some_and(|until| until <= self.now)),
            "a peer stays away beyond its grace",
        )
    }

    /// The server ends, and another one takes up what was kept.
    fn restart(&mut self) -> Held {
        let mut board = empty_board();
        self.server = Server::new(LIMITS);
        self.carrier = Carrier::default();
        self.model.clients.clear();
        for (region, mem) in &self.memory {
            let region_name = name(region);
            let ids = (0..PEERS).filter_map(|id| self.board.record(&region_name, PeerId(id)));
            let records: Vec<_> = ids.collect();
            let header = self.board.header(&region_name).expect("is there").clone();
            let pages = HostPages::resume(mem.clone(), header, records.iter().copied());
            let pages = pages.map_err(|error| error.to_string())?;
            let expected = board
                .restore_region(pages, policy(region), &records)
                .map_err(|error| error.to_string())?;
            let until = self.now + LIMITS.grace;
            for (key, token) in self.model.away(&region_name, &expected, until)? {
                self.server.expect(key, token, self.now);
            }
        }
        self.board = board;
        Ok(())
    }

    /// Everybody reads all there is: then each knows who is there, and no bell is held
    /// but those that peers hear on.
    fn settle(&mut self, source: &mut impl Source) -> Held {
        let clients: Vec<_> = self.model.clients.keys().copied().collect();
        for _ in 0..2 {
            for client in &clients {
                // Twice: who loses its place meanwhile is missed by those before it.
                self.hear(*client, ALL, source)?;
            }
        }
        let members = self.model.members.values();
        let expected: usize = members.map(|m| m.bells.len()).sum();
        let held = self.carrier.held();
        ensure(
            held == expected,
            &format!("{held} bells are held, {expected} heard on"),
        )
    }

    /// Everybody goes, and nothing is left.
    pub(crate) fn leave_all(&mut self) -> Held {
        let clients: Vec<_> = self.model.clients.keys().copied().collect();
        for client in clients {
            self.part(client, Lost::Closed)?;
        }
        self.wait(LIMITS.grace.as_millis() as u64)?;
        ensure(self.model.members.is_empty(), "a peer without a client")?;
        let held = self.carrier.held();
        ensure(held == 0, &format!("{held} bells are held of nobody"))?;
        self.bounded()
    }

    fn bounded(&self) -> Held {
        // Those who leave become visitors, beyond the limit until somebody comes.
        let most = LIMITS.visitors + self.memory.len() * usize::from(PEERS);
        ensure(self.model.clients.len() <= most, "too many clients")?;
        for (region, _) in &self.memory {
            let region = name(region);
            let members = self
                .model
                .members
                .values()
                .filter(|m| m.key.region == region);
            let (mut count, mut vectors) = (0, 0);
            for Member { vectors: each, .. } in members {
                count += 1;
                vectors += each;
            }
            ensure(
                self.board.live(&region) == count,
                "peers are not those that were let in",
            )?;
            ensure(vectors <= QUOTA, "more vectors than the quota")?;
        }
        let mut clients = self.model.clients.iter();
        let same = clients.all(|(id, known)| self.server.place(*id) == known.member);
        ensure(same, "a client is not the peer that it was made")
    }
}

/// Whether a piece of memory may be written by who has these rights; `own` is the peer
/// that it is.
fn may_write(passed: &Passed<Bell>, rights: Rights, own: Option<PeerId>) -> bool {
    use hv_shmem::backing::Part;
    match passed {
        Passed::Memory(_, None, _) => {
            rights.has(Rights::WRITE_OWN) || rights.has(Rights::WRITE_COMMON)
        }
        Passed::Memory(_, Some(Part::Section(peer)), _) => {
            own == Some(*peer) && rights.has(Rights::WRITE_OWN)
        }
        Passed::Memory(_, Some(Part::Common), _) => rights.has(Rights::WRITE_COMMON),
        _ => false,
    }
}

type Key = (Name, u16);

fn place(key: &PeerKey) -> Key {
    (key.region, key.peer.0)
}
