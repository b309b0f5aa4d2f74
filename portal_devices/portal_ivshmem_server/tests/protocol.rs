//! The protocol without sockets: what each client is sent, in which order, and
//! what clients that do not play along cost.

use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::name::Name;
use portal_ivshmem_server::ClientId;
use portal_ivshmem_server::Departure;
use portal_ivshmem_server::Departures;
use portal_ivshmem_server::Limits;
use portal_ivshmem_server::Lost;
use portal_ivshmem_server::Message;
use portal_ivshmem_server::Passed;
use portal_ivshmem_server::Refused;
use portal_ivshmem_server::Server;
use portal_switchboard::AdmissionError;
use portal_switchboard::PeerKey;
use portal_switchboard::Policy;
use portal_switchboard::Switchboard;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Owner and vector.
type Bell = Arc<(u32, usize)>;

/// A server with a switchboard of its own.
struct Lake {
    board: Switchboard<HeapMem, Bell>,
    server: Server<Bell>,
}

impl Lake {
    fn next(&mut self, client: ClientId) -> Option<&Message<Bell>> {
        self.server.next(&mut self.board, client)
    }

    fn closed(&mut self, client: ClientId) -> Option<Departure> {
        self.server.closed(&mut self.board, client)
    }

    fn spoke(&mut self, client: ClientId) -> Option<Departure> {
        self.server.spoke(&mut self.board, client)
    }

    fn overdue(&mut self, now: Duration) -> Option<(ClientId, Departure)> {
        self.server.overdue(&mut self.board, now)
    }

    fn connect<E>(
        &mut self,
        region: &Name,
        make: impl FnOnce() -> Result<Vec<Bell>, E>,
    ) -> Result<ClientId, Refused<E>> {
        self.server.connect(&mut self.board, region, START, make)
    }
}

impl std::ops::Deref for Lake {
    type Target = Server<Bell>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl std::ops::DerefMut for Lake {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.server
    }
}

const START: Duration = Duration::ZERO;

fn lake() -> Name {
    Name::new("lake").expect("a name")
}

fn server(peers: u16) -> Lake {
    server_with(peers, Departures::Announced)
}

fn server_with(peers: u16, departures: Departures) -> Lake {
    let spec = RegionSpec::new(lake(), 16 << 20, peers);
    let pages = HostPages::format(HeapMem::new(1 << 20), &spec, uuid::Uuid::from_u128(1));
    let mut board = Switchboard::new(Limits::default().board);
    board
        .add_region(pages.expect("host pages"), Policy::default())
        .expect("the first region");
    let mut server = Server::new(Limits::default());
    server.serve(lake(), departures);
    Lake { board, server }
}

fn bells(owner: u32, vectors: usize) -> Vec<Bell> {
    (0..vectors).map(|v| Arc::new((owner, v))).collect()
}

fn try_connect(
    server: &mut Lake,
    region: &Name,
    bells: Vec<Bell>,
) -> Result<ClientId, Refused<Infallible>> {
    server.connect(region, || Ok(bells))
}

fn connect(server: &mut Lake, owner: u32, vectors: usize) -> ClientId {
    try_connect(server, &lake(), bells(owner, vectors)).expect("there is room")
}

fn drain(server: &mut Lake, client: ClientId) -> Vec<Message<Bell>> {
    let mut got = Vec::new();
    while let Some(message) = server.next(client) {
        got.push(message.clone());
        server.sent(client);
    }
    got
}

/// Numbers, with the bell's owner and vector or `None`.
fn short(messages: &[Message<Bell>]) -> Vec<(i64, Option<(u32, usize)>)> {
    let bell = |m: &Message<Bell>| match &m.passed {
        Passed::Bell(bell) => Some(**bell),
        Passed::Nothing | Passed::Memory => None,
    };
    messages.iter().map(|m| (m.number, bell(m))).collect()
}

#[test]
fn the_first_client_is_id_0_and_hears_its_own_bells_last() {
    let mut server = server(4);
    let a = connect(&mut server, 10, 2);
    let got = drain(&mut server, a);
    let expect = [
        (0, None),
        (0, None),
        (-1, None),
        (0, Some((10, 0))),
        (0, Some((10, 1))),
    ];
    assert_eq!(short(&got), expect);
    let passed: Vec<_> = got.iter().map(|m| &m.passed).take(3).collect();
    assert_eq!(
        passed,
        [&Passed::Nothing, &Passed::Nothing, &Passed::Memory]
    );
    assert_eq!(got[2].bytes(), [0xff; 8], "-1, little-endian");
}

#[test]
fn a_second_client_hears_of_the_first_and_is_announced_to_it() {
    let mut server = server(4);
    let a = connect(&mut server, 10, 2);
    drain(&mut server, a);
    let b = connect(&mut server, 11, 2);
    assert_eq!(
        short(&drain(&mut server, b)),
        [
            (0, None),
            (1, None),
            (-1, None),
            (0, Some((10, 0))),
            (0, Some((10, 1))),
            (1, Some((11, 0))),
            (1, Some((11, 1))),
        ]
    );
    let announced = [(1, Some((11, 0))), (1, Some((11, 1)))];
    assert_eq!(short(&drain(&mut server, a)), announced);
    let gone = server.closed(a).expect("it was there");
    assert_eq!((gone.key.peer, gone.why), (PeerId(0), Lost::Closed));
    assert_eq!(short(&drain(&mut server, b)), [(0, None)], "0 is gone");
    let c = connect(&mut server, 12, 2);
    let PeerKey { peer, .. } = server.place(c).expect("it is there");
    assert_eq!(peer, PeerId(0), "the lowest free id");
}

#[test]
fn a_message_stays_until_it_is_sent() {
    let mut server = server(4);
    let a = connect(&mut server, 10, 1);
    for _ in 0..3 {
        assert_eq!(server.next(a).map(|m| m.number), Some(0));
    }
    server.sent(a);
    server.sent(a);
    assert_eq!(drain(&mut server, a).len(), 3, "id, memory, bell");
}

#[test]
fn a_client_that_never_reads_costs_the_same_whatever_the_others_do() {
    let mut server = server(8);
    let deaf = connect(&mut server, 1, 1);
    drain(&mut server, deaf);
    let bell: Bell = Arc::new((2, 0));
    for _ in 0..10_000 {
        let other = try_connect(&mut server, &lake(), vec![bell.clone(); 4]);
        let other = other.expect("there is room");
        drain(&mut server, other);
        server.next(deaf);
        server.closed(other);
    }
    // Beside the id's own 4: one message and the rest of one train.
    let held = Arc::strong_count(&bell);
    assert!(held <= 1 + 4 + 4, "{held}");
    assert!(drain(&mut server, deaf).len() <= 2 * 8 * 5);
    assert_eq!(
        Arc::strong_count(&bell),
        1 + 4,
        "only the id's own are left"
    );
}

#[test]
fn newcomers_get_their_own_bells_however_busy_the_others_are() {
    let mut server = server(4);
    let a = connect(&mut server, 1, 1);
    let mut seen = Vec::new();
    for round in 0..100 {
        let other = connect(&mut server, 100 + round, 1);
        drain(&mut server, other);
        if let Some(message) = server.next(a) {
            seen.push(message.clone());
            server.sent(a);
        }
        server.closed(other);
    }
    let own = short(&seen)
        .iter()
        .position(|m| *m == (0, Some((1, 0))))
        .expect("its own bell");
    assert!(own <= 3 + 2 * 4, "message {own}");
}

#[test]
fn a_client_that_speaks_is_out() {
    let mut server = server(2);
    let a = connect(&mut server, 1, 1);
    let b = connect(&mut server, 2, 1);
    drain(&mut server, b);
    let departure = server.spoke(a).expect("it was there");
    assert_eq!(departure.why, Lost::Spoke);
    assert_eq!(server.next(a), None);
    assert!(server.spoke(a).is_none(), "only once");
    assert_eq!(short(&drain(&mut server, b)), [(0, None)]);
}

#[test]
fn a_newcomer_has_limited_time_to_read() {
    let mut server = server(4);
    let limit = Limits::default().welcome;
    let (a, b) = (connect(&mut server, 1, 1), connect(&mut server, 2, 1));
    drain(&mut server, b);
    server.caught_up(b);
    server.caught_up(a);
    assert_eq!(server.running_out().collect::<Vec<_>>(), [a], "a: unsent");
    assert_eq!(server.overdue(limit - Duration::from_millis(1)), None);
    let (who, departure) = server.overdue(limit).expect("a is late");
    assert_eq!((who, departure.why), (a, Lost::Silent { limit }));
    assert_eq!(server.overdue(limit * 100), None, "b has read");
}

#[test]
fn one_message_waits_for_limited_time() {
    let mut server = server(4);
    let a = connect(&mut server, 1, 1);
    drain(&mut server, a);
    server.caught_up(a);
    let limit = Limits::default().stall;
    let _ = connect(&mut server, 2, 1);
    let second = Duration::from_secs(1);
    server.next(a);
    server.blocked(a, second);
    server.blocked(a, second * 2);
    assert!(server.running_out().any(|c| c == a));
    let late =
        |s: &mut Lake, now| std::iter::from_fn(|| s.overdue(now)).find(|(client, _)| *client == a);
    assert_eq!(late(&mut server, limit), None);
    let (_, departure) = late(&mut server, limit + second).expect("a is late");
    assert_eq!(departure.why, Lost::Stalled { limit });
}

#[test]
fn a_full_region_and_too_many_vectors_are_refused_and_change_nothing() {
    let mut server = server(2);
    let a = connect(&mut server, 1, 1);
    let _b = connect(&mut server, 2, 1);
    drain(&mut server, a);
    let full = try_connect(&mut server, &lake(), bells(3, 1));
    assert!(
        matches!(full, Err(Refused::Admission(AdmissionError::Full { .. }))),
        "{full:?}"
    );
    let nowhere = try_connect(&mut server, &Name::new("sea").expect("a name"), bells(3, 1));
    assert!(
        matches!(
            nowhere,
            Err(Refused::Admission(AdmissionError::NoSuchRegion { .. }))
        ),
        "{nowhere:?}"
    );
    assert_eq!(server.clients(), 2);
    let mut server = server_with(2, Departures::Silent);
    let greedy = try_connect(&mut server, &lake(), bells(3, 65));
    assert!(
        matches!(
            greedy,
            Err(Refused::Admission(AdmissionError::Vectors {
                limit: 64,
                ..
            }))
        ),
        "{greedy:?}"
    );
    let poor = server.connect(&lake(), || Err("no fds"));
    assert_eq!(poor, Err(Refused::Bells("no fds")));
    assert_eq!(server.clients(), 0);
}

#[test]
fn where_departures_are_silent_an_id_comes_back_unsaid_with_its_bells() {
    let mut server = server_with(4, Departures::Silent);
    let a = connect(&mut server, 10, 1);
    let b = connect(&mut server, 11, 1);
    assert!(short(&drain(&mut server, a)).contains(&(1, Some((11, 0)))));
    for life in 0..10 {
        server.closed(b);
        let again = connect(&mut server, 20 + life, 1);
        assert_eq!(drain(&mut server, a), [], "QEMU must not hear of it");
        let own = short(&drain(&mut server, again)).pop();
        assert_eq!(own, Some((1, Some((11, 0)))), "the bells that a has");
        server.closed(again);
    }
}

/// What one client knows from its messages, checked as it reads.
#[derive(Default)]
struct Listener {
    announced: bool,
    step: usize,
    me: i64,
    known: BTreeMap<i64, Vec<(u32, usize)>>,
}

impl Listener {
    fn hear(&mut self, message: &Message<Bell>) -> Result<(), TestCaseError> {
        let number = message.number;
        match (self.step, &message.passed) {
            (0, Passed::Nothing) => prop_assert_eq!(number, 0),
            (1, Passed::Nothing) => self.me = number,
            (2, Passed::Memory) => prop_assert_eq!(number, -1),
            (3.., Passed::Bell(bell)) => {
                let bells = self.known.entry(number).or_default();
                prop_assert!(bells.iter().all(|b| b.0 == bell.0), "one life at a time");
                prop_assert_eq!(bells.len(), bell.1, "vectors in order");
                bells.push(**bell);
            }
            (3.., Passed::Nothing) => {
                prop_assert!(self.announced, "a departure that should be silent");
                prop_assert_ne!(number, self.me);
                prop_assert!(
                    self.known.remove(&number).is_some(),
                    "gone, but never there"
                );
            }
            (step, passed) => prop_assert!(false, "message {step} passes {passed:?}"),
        }
        self.step += 1;
        Ok(())
    }
}

proptest! {
    /// Whatever order clients come, read and go in: once everybody has read
    /// everything, everybody knows exactly who is there, by the right bells.
    #[test]
    fn everybody_ends_with_the_same_truth(
        announced: bool,
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 1usize..12), 1..200)
    ) {
        let departures = if announced { Departures::Announced } else { Departures::Silent };
        let mut server = server_with(5, departures);
        // Who had an id first: bells stay with it.
        let mut first = BTreeMap::new();
        let mut here: BTreeMap<ClientId, Listener> = BTreeMap::new();
        let mut born = 0;
        for (what, who, count) in steps {
            let chosen = here.keys().nth(who.index(here.len().max(1))).copied();
            match (what, chosen) {
                (0, _) => {
                    born += 1;
                    if let Ok(client) = try_connect(&mut server, &lake(), bells(born, 2)) {
                        let PeerKey { peer, .. } = server.place(client).expect("it is here");
                        first.entry(i64::from(peer.0)).or_insert(born);
                        here.insert(client, Listener { announced, ..Listener::default() });
                    }
                }
                (1, Some(client)) => {
                    here.remove(&client);
                    prop_assert!(server.closed(client).is_some());
                }
                (_, Some(client)) => {
                    let listener = here.get_mut(&client).expect("chosen from here");
                    for _ in 0..count {
                        let Some(message) = server.next(client) else { break };
                        listener.hear(message)?;
                        server.sent(client);
                    }
                }
                (_, None) => {}
            }
        }
        let truth: BTreeMap<i64, u32> = here
            .keys()
            .map(|client| {
                let PeerKey { peer, .. } = server.place(*client).expect("it is here");
                (i64::from(peer.0), first[&i64::from(peer.0)])
            })
            .collect();
        for (client, listener) in &mut here {
            for message in drain(&mut server, *client) {
                listener.hear(&message)?;
            }
            let known: BTreeMap<i64, u32> = listener
                .known
                .iter()
                .map(|(peer, bells)| {
                    assert_eq!(bells.len(), 2);
                    (*peer, bells[0].0)
                })
                .collect();
            if announced {
                prop_assert_eq!(&known, &truth);
            } else {
                // Ids of the dead stay known.
                prop_assert!(truth.iter().all(|(peer, bell)| known.get(peer) == Some(bell)));
            }
        }
    }
}
