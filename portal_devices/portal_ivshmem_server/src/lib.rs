//! QEMU's ivshmem server protocol over a [`Switchboard`], as a state machine that
//! knows no socket: clients come and go, and for each there is a next message.
//!
//! Specification: QEMU, `docs/specs/ivshmem-spec`, "Interrupt via eventfd: the
//! client-server protocol", protocol version 0. The server sends, the client
//! listens: version, the client's id, the memory, the bells of every other peer,
//! its own bells; later the bells of newcomers, and the bare ids of those who are
//! gone, where that is wanted ([`Departures`]).
//!
//! The switchboard is shared with whoever else serves its regions: ids are the
//! region's, and peers that came another way are announced like any other.
//!
//! Where departures are silent, bells belong to ids: a client that gets an id which
//! somebody had before hears on the same bells, and other clients are told these
//! bells of the id whatever its peer hears on ([`Server::id_bells`]).
//!
//! Distrusted: clients. One that sends a byte breaks the protocol
//! ([`Server::spoke`]); one that does not read its welcome in time, or lets a
//! message wait too long, is overdue ([`Server::overdue`]). Both lose their place.
//! What a client costs is fixed when it is let in: nothing is queued for it
//! (its state is one message, the bells of one peer, and the
//! switchboard's inbox, which is bounded by the number of ids).
//!
//! Left out: sockets, fds (a bell is any `B`), the clock (times are durations
//! since a start that the caller chooses).
//!
//! # Example
//!
//! ```
//! use hv_shmem::host_pages::HostPages;
//! use hv_shmem::layout::RegionSpec;
//! use hv_shmem::mem::HeapMem;
//! use hv_shmem::name::Name;
//! use portal_ivshmem_server::{Departures, Limits, Server};
//! use portal_switchboard::{Policy, Switchboard};
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let name = Name::new("lake")?;
//! let spec = RegionSpec::new(name, 1 << 20, 4);
//! let pages = HostPages::format(HeapMem::new(1 << 20), &spec, uuid::Uuid::from_u128(7))?;
//! let mut board = Switchboard::new(Limits::default().board);
//! board.add_region(pages, Policy::default())?;
//! let mut server = Server::new(Limits::default());
//! server.serve(name, Departures::Silent);
//!
//! let make = || Ok::<_, Infallible>(vec!["its bell"]);
//! let client = server.connect(&mut board, &name, Duration::ZERO, make)?;
//! let mut numbers = Vec::new();
//! while let Some(message) = server.next(&mut board, client) {
//!     numbers.push(message.number);
//!     server.sent(client);
//! }
//! assert_eq!(numbers, [0, 0, -1, 0], "version, id, memory, its own bell");
//! # Ok(())
//! # }
//! ```

mod client;
mod message;

pub use message::MEMORY;
pub use message::Message;
pub use message::Passed;
pub use message::VERSION;

use client::Client;
use client::Welcome;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_device::Counter;
use portal_device::inspect::Node;
use portal_switchboard::Admission;
use portal_switchboard::AdmissionError;
use portal_switchboard::PeerKey;
use portal_switchboard::Switchboard;
use std::collections::BTreeMap;
use std::time::Duration;

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the switchboard may grow to.
    pub board: portal_switchboard::Limits,
    /// How long a newcomer may take to read what it is welcomed with. QEMU reads
    /// it within milliseconds, but emulated and on a busy machine it has needed
    /// more than 10 s; a client that connects and reads nothing must not keep an
    /// id for ever.
    pub welcome: Duration,
    /// How long one message may wait for a client to make room. A QEMU that is
    /// stopped in a debugger has its socket's buffer and then this long.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            board: portal_switchboard::Limits {
                // Peers times vectors at most: what ids and Windows' driver allow.
                vectors_per_region: 1024 * 64,
                ..portal_switchboard::Limits::default()
            },
            welcome: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// Whether clients are told that a peer is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departures {
    /// No. QEMU's device (seen in 7.2) frees a peer's table when it is told, and
    /// writes into the freed memory when the id comes back; so an id that comes
    /// back, as all do in a region, must not have been reported gone. Nothing is
    /// lost to a guest: the device has no way to tell it. The peer table says who
    /// is dead.
    #[default]
    Silent,
    /// Yes, for regions of host programs only.
    Announced,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused<E> {
    /// The switchboard says no.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Its bells cannot be made.
    #[error("cannot make its bells: {0}")]
    Bells(E),
}

/// Names a client; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Why a client lost its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It closed its end, or died.
    #[error("it left")]
    Closed,
    /// It sent something.
    #[error("it sent bytes, and the protocol has none from a client")]
    Spoke,
    /// It did not read its welcome.
    #[error("it did not read its first messages within {} ms", limit.as_millis())]
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// It let a message wait.
    #[error("it let a message wait for {} ms", limit.as_millis())]
    Stalled {
        /// How long it had.
        limit: Duration,
    },
}

/// A client that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The life that is over.
    pub key: PeerKey,
    /// Why it is gone.
    pub why: Lost,
}

#[derive(Debug, Default)]
struct Counters {
    spoke: Counter,
    overdue: Counter,
}

/// What stays of a region's ids between clients.
#[derive(Debug)]
pub(crate) struct Ids<B> {
    departures: Departures,
    /// By id; made when the id is first given.
    bells: BTreeMap<PeerId, Vec<B>>,
}

/// The clients of compatibility sockets.
#[derive(Debug)]
pub struct Server<B> {
    clients: BTreeMap<ClientId, Client<B>>,
    regions: BTreeMap<Name, Ids<B>>,
    born: u64,
    limits: Limits,
    counters: Counters,
}

impl<B: Clone> Server<B> {
    /// No clients.
    pub fn new(limits: Limits) -> Self {
        Server {
            clients: BTreeMap::new(),
            regions: BTreeMap::new(),
            born: 0,
            limits,
            counters: Counters::default(),
        }
    }

    /// Lets clients into a region of the switchboard.
    pub fn serve(&mut self, region: Name, departures: Departures) {
        let bells = BTreeMap::new();
        self.regions.insert(region, Ids { departures, bells });
    }

    /// Whether clients are let into a region, and how they hear of departures.
    pub fn departures(&self, region: &Name) -> Option<Departures> {
        self.regions.get(region).map(|ids| ids.departures)
    }

    /// The bells that belong to an id; `make` makes them if nobody had it before.
    /// For a peer that came another way and brings no bells of its own, or whose
    /// own bells somebody rings on when one of these is rung.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn id_bells<E>(
        &mut self,
        region: &Name,
        peer: PeerId,
        make: impl FnOnce() -> Result<Vec<B>, E>,
    ) -> Result<Vec<B>, Refused<E>> {
        let Some(ids) = self.regions.get_mut(region) else {
            return Err(AdmissionError::NoSuchRegion { region: *region }.into());
        };
        if let Some(bells) = ids.bells.get(&peer) {
            return Ok(bells.clone());
        }
        let bells = make().map_err(Refused::Bells)?;
        ids.bells.insert(peer, bells.clone());
        Ok(bells)
    }

    /// From now on these are the bells that belong to an id: those that its peer
    /// kept while the server was restarted.
    pub fn set_id_bells(&mut self, region: &Name, peer: PeerId, bells: Vec<B>) {
        if let Some(ids) = self.regions.get_mut(region) {
            ids.bells.insert(peer, bells);
        }
    }

    /// Lets a client into a region at the time `now`: it gets the lowest free id
    /// and its bells, which `make` makes if nobody had that id before. The others
    /// may have something to be sent from now on.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn connect<M: SharedMem, E>(
        &mut self,
        board: &mut Switchboard<M, B>,
        region: &Name,
        now: Duration,
        make: impl FnOnce() -> Result<Vec<B>, E>,
    ) -> Result<ClientId, Refused<E>> {
        let peer = board.vacancy(region)?;
        let Some(ids) = self.regions.get_mut(region) else {
            return Err(AdmissionError::NoSuchRegion { region: *region }.into());
        };
        let bells = match ids.bells.get(&peer) {
            Some(bells) => bells.clone(),
            None => make().map_err(Refused::Bells)?,
        };
        let id = ClientId(self.born);
        self.born = self.born.saturating_add(1);
        let admission = Admission {
            name: free_name(board, region, peer)?,
            kind: PeerKind::Partition,
            rights: Rights::ALL,
            id: Some(peer),
            bells: bells.clone(),
        };
        let key = board.admit(region, admission)?;
        ids.bells.entry(peer).or_insert_with(|| bells.clone());
        let until = now.saturating_add(self.limits.welcome);
        let client = Client::new(key, bells, ids.departures, until);
        self.clients.insert(id, client);
        Ok(id)
    }

    /// The message that this client is to be sent now, the same one until
    /// [`Self::sent`]; `None` when there is none.
    pub fn next<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
    ) -> Option<&Message<B>> {
        let client = self.clients.get_mut(&client)?;
        let ids = self.regions.get(&client.key.region)?;
        client.next(board, ids)
    }

    /// The message went out whole.
    pub fn sent(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.sent();
        }
    }

    /// The message could not go out: the client's buffer is full.
    pub fn blocked(&mut self, client: ClientId, now: Duration) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.blocked.get_or_insert(now);
        }
    }

    /// The client has read all that was sent to it.
    pub fn caught_up(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client)
            && client.is_settled()
        {
            client.welcome = Welcome::Taken;
        }
    }

    /// The client closed its end, or cannot be reached.
    pub fn closed<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
    ) -> Option<Departure> {
        self.part(board, client, Lost::Closed)
    }

    /// The client sent something: it loses its place.
    pub fn spoke<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
    ) -> Option<Departure> {
        self.counters.spoke.bump();
        self.part(board, client, Lost::Spoke)
    }

    /// A client that has had its time, if there is one: it loses its place. Call
    /// again until `None`.
    pub fn overdue<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        now: Duration,
    ) -> Option<(ClientId, Departure)> {
        let (welcome, stall) = (self.limits.welcome, self.limits.stall);
        let (id, why) = self.clients.iter().find_map(|(id, client)| {
            let silent = matches!(client.welcome, Welcome::Until(end) if now >= end);
            let stalled = client
                .blocked
                .is_some_and(|since| now.saturating_sub(since) >= stall);
            match (silent, stalled) {
                (true, _) => Some((*id, Lost::Silent { limit: welcome })),
                (false, true) => Some((*id, Lost::Stalled { limit: stall })),
                (false, false) => None,
            }
        })?;
        self.counters.overdue.bump();
        self.part(board, id, why).map(|departure| (id, departure))
    }

    /// Clients whose time is running: their welcome is not known to be read, or
    /// a message waits for them.
    pub fn running_out(&self) -> impl Iterator<Item = ClientId> {
        self.clients
            .iter()
            .filter(|(_, c)| c.welcome != Welcome::Taken || c.blocked.is_some())
            .map(|(id, _)| *id)
    }

    /// Which life of which peer a client is.
    pub fn place(&self, client: ClientId) -> Option<PeerKey> {
        Some(self.clients.get(&client)?.key)
    }

    /// Clients of all regions.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The tree that `portal top` and `portal inspect` show.
    pub fn inspect(&self) -> Node {
        Node::new()
            .with("clients", self.clients.len() as u64)
            .with("spoke", self.counters.spoke.get())
            .with("overdue", self.counters.overdue.get())
    }

    fn part<M: SharedMem>(
        &mut self,
        board: &mut Switchboard<M, B>,
        client: ClientId,
        why: Lost,
    ) -> Option<Departure> {
        let key = self.clients.remove(&client)?.key;
        // A key from this table is live until here: only this takes it out.
        let _ = board.gone(&key);
        Some(Departure { key, why })
    }
}

/// `client-ID`, or with a number behind it when a peer that came another way is
/// called that.
fn free_name<M: SharedMem, B: Clone>(
    board: &Switchboard<M, B>,
    region: &Name,
    peer: PeerId,
) -> Result<Name, AdmissionError> {
    let mut number = 0;
    loop {
        let text = match number {
            0 => format!("client-{peer}"),
            n => format!("client-{peer}-{n}"),
        };
        let full = AdmissionError::Full {
            region: *region,
            first: PeerId(0),
            last: u16::MAX,
        };
        let name = Name::new(&text).map_err(|_| full)?;
        let asked = Admission {
            name,
            kind: PeerKind::Partition,
            rights: Rights::ALL,
            id: Some(peer),
            bells: Vec::new(),
        };
        match board.consider(region, &asked, 0) {
            // Each name that is taken is a live peer's: there is an end.
            Err(AdmissionError::NameTaken { .. }) => number += 1,
            other => return other.map(|_| name),
        }
    }
}
