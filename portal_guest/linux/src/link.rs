//! Two processes in two machines that find each other, in any order.
//!
//! A link is a pair of in-line rings with one id, one in each peer's section, and a
//! greeting in which both sides learn that the other one is there *now*: sections keep
//! the rings of processes that were killed, and several processes of one machine live
//! in one epoch.
//!
//! ```text
//!   client                                   server
//!   ring, Hello{session C, echo 0}  ──────▶  finds a ring that it has not accepted
//!   accepts, sees echo C: up        ◀──────  ring, Hello{session S, echo C}
//!   Hello{session C, echo S}        ──────▶  sees echo S: up
//! ```
//!
//! Session numbers are random. A side that comes again has another one, and rings of
//! another instance, which is how a side in the middle of its work notices.
//!
//! # Messages
//!
//! 56 bytes. Byte 0 is the tag: 1 Hello (version in byte 1, service as u32 at 4,
//! session as u64 at 8, echo as u64 at 16), 2 Bye, from [`FIRST_TAG`] the program's.
//! Little-endian.
//!
//! Distrusted: every peer of the region. Whatever one writes costs a bounded number of
//! looks, ends in an error that names it, or leaves this side waiting for no longer
//! than it said. Left out: what the messages mean.

use crate::Attachment;
use crate::GuestBell;
use crate::GuestDoorbell;
use crate::GuestError;
use crate::Loss;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::Bell as _;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::section::SectionState;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::Source;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waited;
use hv_shmem::wait::Waiter;
use std::fmt;
use std::hash::BuildHasher as _;
use std::hash::Hasher as _;
use std::time::Duration;
use std::time::Instant;

/// Id of the rings of a link, in both directions.
pub const LINK_RING: u32 = 100;
/// Bytes of a message.
pub const LINK_PAYLOAD: usize = 56;
/// First tag that programs may use.
pub const FIRST_TAG: u8 = 16;

const SLOT: u32 = 64;
const SLOTS: u32 = 32;
const HELLO: u8 = 1;
const BYE: u8 = 2;
const VERSION: u8 = 1;
/// Greetings read in a row before looking at anything else.
const GREETINGS: u32 = 8;
/// How long a server gives a peer whose ring it has found: it may be one that was
/// left by a process that is dead, and others wait.
const CANDIDATE: Duration = Duration::from_secs(1);
/// How often a side that waits looks whether the other one is still there.
const LOOK: Duration = Duration::from_millis(50);
/// The same before the link is up, when no ring wakes anybody.
const MEET: Duration = Duration::from_millis(5);

/// One message.
pub type Message = [u8; LINK_PAYLOAD];

/// Whom to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Whoever comes first; when connecting, the only other machine, or the only other
    /// peer where there is none.
    Any,
    /// A peer by number.
    Peer(PeerId),
    /// A peer by its name in the peer table.
    Name(String),
}

impl Target {
    fn is(&self, record: &PeerRecord) -> bool {
        match self {
            Self::Any => true,
            Self::Peer(peer) => record.id == *peer,
            Self::Name(name) => record.who.is_some_and(|w| w.name.as_str() == name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("another peer"),
            Self::Peer(peer) => write!(f, "peer {peer}"),
            Self::Name(name) => write!(f, "peer {name}"),
        }
    }
}

/// How to meet and how to wait.
#[derive(Debug, Clone, Copy)]
pub struct LinkOptions {
    /// What the two sides do with each other: both have to say the same number.
    pub service: u32,
    /// How long to wait for the other side to come.
    pub patience: Duration,
    /// How long to wait for it to do something, later.
    pub stall: Duration,
    /// How to wait.
    pub mode: WaitMode,
}

/// A link that is up.
#[derive(Debug)]
pub struct Link<'a> {
    /// The own place in the region.
    pub at: &'a mut Attachment,
    tx: InlineSender<MappedMem>,
    rx: InlineReceiver<MappedMem>,
    watch: Watch,
    theirs: u64,
    doorbell: GuestDoorbell,
    waiter: Waiter<MonotonicClock>,
    mode: WaitMode,
    stall: Duration,
}

/// Ready when either is.
struct Either<'a, A, B>(&'a mut A, &'a mut B);

impl<A: Source, B: Source> Source for Either<'_, A, B> {
    fn ready(&mut self) -> Result<bool, hv_shmem::Violation> {
        Ok(self.0.ready()? || self.1.ready()?)
    }

    fn arm(&mut self) {
        self.0.arm();
        self.1.arm();
    }
}

impl<'a> Link<'a> {
    /// Meets a peer that accepts, waiting for it to come.
    ///
    /// # Errors
    /// [`GuestError::TooSlow`] when it does not come, [`GuestError::NoSuchPeer`] when
    /// it is this very peer or several could be meant, [`GuestError::OtherService`].
    pub fn connect(
        at: &'a mut Attachment,
        to: &Target,
        options: &LinkOptions,
    ) -> Result<Self, GuestError> {
        let until = Instant::now() + options.patience;
        let mut greeting: Option<Greeting> = None;
        let greeting = loop {
            at.check()?;
            if greeting.is_none()
                && let Some(peer) = choose(at, to)?
            {
                greeting = Some(Greeting::open(at, &peer, options.service)?);
            }
            if let Some(mut under_way) = greeting.take() {
                match under_way.step(at, options.service)? {
                    Step::Up => break under_way,
                    Step::Pending => greeting = Some(under_way),
                    // Its successor is greeted anew.
                    Step::Lost => {}
                    Step::Other(found) => {
                        return Err(GuestError::OtherService {
                            peer: under_way.watch.peer,
                            found,
                            expected: options.service,
                        });
                    }
                }
            }
            late(until, &format!("{to} to answer"), options.patience)?;
            nap(at)?;
        };
        greeting.finish(at, options)
    }

    /// Meets the first peer that connects, waiting for one to come.
    ///
    /// # Errors
    /// [`GuestError::TooSlow`] when none comes, [`GuestError::Evicted`].
    pub fn accept(
        at: &'a mut Attachment,
        from: &Target,
        options: &LinkOptions,
    ) -> Result<Self, GuestError> {
        let until = Instant::now() + options.patience;
        let mut last = None;
        let greeting = loop {
            at.check()?;
            if let Some(peer) = candidate(at, from, last) {
                last = Some(peer.id);
                if let Some(up) = try_candidate(at, &peer, options.service, until)? {
                    break up;
                }
            }
            late(until, &format!("{from} to connect"), options.patience)?;
            nap(at)?;
        };
        greeting.finish(at, options)
    }

    /// The other side's number.
    pub fn peer(&self) -> PeerId {
        self.watch.peer
    }

    /// How waits ended so far: spinning, sleeping.
    pub fn waits(&self) -> hv_shmem::wait::WaitCounters {
        self.waiter.counters()
    }

    /// Waits in another way from now on.
    pub fn set_mode(&mut self, mode: WaitMode) {
        self.mode = mode;
        self.waiter = Waiter::new(mode, MonotonicClock::new());
    }

    /// Sends a message whose tag is [`FIRST_TAG`] or more.
    ///
    /// # Errors
    /// [`GuestError::PeerLost`], [`GuestError::TooSlow`], [`GuestError::Send`].
    pub fn send(&mut self, message: &Message) -> Result<(), GuestError> {
        loop {
            match self.tx.try_send(message) {
                Ok(()) => break,
                Err(SendError::Full) => self.watch.wait(
                    self.at,
                    &mut self.waiter,
                    &mut self.tx,
                    "room for a message",
                    self.stall,
                )?,
                Err(e) => return Err(e.into()),
            }
        }
        if self.tx.flush().must_ring {
            self.ring()?;
        }
        Ok(())
    }

    /// The next message, if one is there.
    ///
    /// # Errors
    /// [`GuestError::PeerLost`] when the other side has said good-bye or started
    /// again, [`GuestError::Receive`].
    pub fn try_recv(&mut self) -> Result<Option<Message>, GuestError> {
        let mut message = [0; LINK_PAYLOAD];
        // Greetings that crossed are skipped; more of them are no link.
        for _ in 0..GREETINGS {
            if self.rx.try_recv(&mut message)?.is_none() {
                return Ok(None);
            }
            let peer = self.watch.peer;
            let lost = |how| GuestError::PeerLost { peer, how };
            match message.first() {
                Some(&BYE) => return Err(lost(Loss::Left)),
                Some(&HELLO) if word(&message, 8) == self.theirs => {}
                Some(&HELLO) => return Err(lost(Loss::StartedAgain)),
                Some(&tag) if tag >= FIRST_TAG => return Ok(Some(message)),
                _ => break,
            }
        }
        Err(GuestError::Misbehaved {
            peer: self.watch.peer,
            what: format!("a message with tag {}", message[0]),
        })
    }

    /// The next message, waiting for it.
    ///
    /// # Errors
    /// As [`Self::try_recv`]; [`GuestError::TooSlow`], [`GuestError::Evicted`].
    pub fn recv(&mut self, what: &str) -> Result<Message, GuestError> {
        loop {
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            if self.mode != WaitMode::Spin && self.rx.flush().must_ring {
                self.ring()?;
            }
            let (at, waiter) = (&*self.at, &mut self.waiter);
            self.watch
                .wait(at, waiter, &mut self.rx, what, self.stall)?;
        }
    }

    /// Waits until `source` is ready or a message is there.
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub fn wait(&mut self, source: &mut impl Source, what: &str) -> Result<(), GuestError> {
        let mut both = Either(source, &mut self.rx);
        let (at, waiter) = (&*self.at, &mut self.waiter);
        self.watch.wait(at, waiter, &mut both, what, self.stall)
    }

    /// Rings the other side's doorbell.
    ///
    /// # Errors
    /// [`GuestError::Doorbell`].
    pub fn ring(&self) -> Result<(), GuestError> {
        Ok(self.doorbell.ring()?)
    }

    /// Makes a bulk ring to the other side. To be told to it, and completed with
    /// [`Self::opened`] when it has accepted.
    ///
    /// # Errors
    /// [`GuestError::Ring`].
    pub fn open_bulk(
        &mut self,
        id: u32,
        slot_size: u32,
        slots: u32,
    ) -> Result<BulkSender<MappedMem>, GuestError> {
        let place = self.at.own.create_ring(RingSpec {
            id,
            to: self.watch.peer,
            kind: RingKind::Stream,
            layout: RingLayout::Bulk,
            slot_size,
            slots,
        })?;
        Ok(BulkSender::new(place)?)
    }

    /// Takes over the receiver's cursor of a bulk ring that it says it has accepted.
    ///
    /// # Errors
    /// [`GuestError::Misbehaved`] when it has not.
    pub fn opened(&self, sender: &mut BulkSender<MappedMem>, id: u32) -> Result<(), GuestError> {
        let peer = self.watch.peer;
        match self.at.own.cursor(peer, id)? {
            Some(line) => Ok(sender.set_cursor(line)?),
            None => Err(GuestError::Misbehaved {
                peer,
                what: format!("it says that it has accepted ring {id}, and has not"),
            }),
        }
    }

    /// Accepts a bulk ring that the other side says it has made.
    ///
    /// # Errors
    /// [`GuestError::Ring`], [`GuestError::Place`].
    pub fn accept_bulk(&mut self, id: u32) -> Result<BulkReceiver<MappedMem>, GuestError> {
        let place = self.at.own.accept_ring(self.watch.peer, id)?;
        Ok(BulkReceiver::new(place)?)
    }

    /// Says good-bye and takes the link's rings away; the place in the region stays.
    pub fn close(mut self) {
        let mut bye = [0; LINK_PAYLOAD];
        bye[0] = BYE;
        // The other side may be gone already; it notices the rest by itself.
        let _ = self.send(&bye);
        let _ = self.ring();
        self.at.own.close_ring(self.watch.peer, LINK_RING);
        self.at.own.leave_ring(self.watch.peer, LINK_RING);
    }
}

/// The other side, as this one knew it when the link came up.
#[derive(Debug, Clone, Copy)]
struct Watch {
    peer: PeerId,
    epoch: u32,
}

impl Watch {
    /// Whether the other side is still the one that was met.
    fn check(&self, at: &Attachment) -> Result<(), GuestError> {
        at.check()?;
        let peer = self.peer;
        let lost = |how| Err(GuestError::PeerLost { peer, how });
        if at.region().live_epoch(peer) != Some(self.epoch) {
            return lost(Loss::Died);
        }
        match at.region().find_ring(peer, at.me(), LINK_RING) {
            Ok(Some(place)) if place.cursor.is_some() => Ok(()),
            Ok(_) => lost(Loss::StartedAgain),
            Err(RingError::Region(RegionError::NotReady { state, .. })) => match state {
                SectionState::Closed => lost(Loss::Left),
                _ => lost(Loss::StartedAgain),
            },
            Err(RingError::Region(
                RegionError::StaleEpoch { .. } | RegionError::NotLive { .. },
            )) => lost(Loss::Died),
            Err(e) => Err(e.into()),
        }
    }

    fn wait(
        &self,
        at: &Attachment,
        waiter: &mut Waiter<MonotonicClock>,
        source: &mut impl Source,
        what: &str,
        stall: Duration,
    ) -> Result<(), GuestError> {
        let mut left = stall;
        loop {
            let slice = left.min(LOOK);
            if waiter.wait(source, &at.bell, Some(slice))? == Waited::Ready {
                return Ok(());
            }
            if let Err(lost) = self.check(at) {
                // What it said before it went still counts.
                return if source.ready().is_ok_and(|ready| ready) {
                    Ok(())
                } else {
                    Err(lost)
                };
            }
            left = left.saturating_sub(slice);
            if left.is_zero() {
                return Err(GuestError::TooSlow {
                    what: format!("{what} (peer {})", self.peer),
                    limit: stall,
                });
            }
        }
    }
}

/// A link that is coming up.
struct Greeting {
    watch: Watch,
    session: u64,
    tx: InlineSender<MappedMem>,
    rx: Option<InlineReceiver<MappedMem>>,
    theirs: Option<u64>,
    doorbell: GuestDoorbell,
}

enum Step {
    Pending,
    Up,
    /// The peer lives in another epoch by now, or not at all.
    Lost,
    /// It runs this service instead.
    Other(u32),
}

impl Greeting {
    /// Makes the ring to a peer and greets it.
    fn open(at: &mut Attachment, peer: &PeerRecord, service: u32) -> Result<Self, GuestError> {
        let watch = Watch {
            peer: peer.id,
            epoch: peer.epoch,
        };
        let mut this = Self {
            watch,
            session: random(),
            tx: link_ring(at, watch.peer)?,
            rx: None,
            theirs: None,
            doorbell: at.doorbell(watch.peer),
        };
        this.greet(at, service, 0)?;
        Ok(this)
    }

    fn greet(&mut self, at: &mut Attachment, service: u32, echo: u64) -> Result<(), GuestError> {
        let mut hello = [0; LINK_PAYLOAD];
        hello[0] = HELLO;
        hello[1] = VERSION;
        hello[4..8].copy_from_slice(&service.to_le_bytes());
        hello[8..16].copy_from_slice(&self.session.to_le_bytes());
        hello[16..24].copy_from_slice(&echo.to_le_bytes());
        if let Err(SendError::Full) = self.tx.try_send(&hello) {
            // As many processes have come and gone on the other side.
            self.tx = link_ring(at, self.watch.peer)?;
            self.tx.try_send(&hello)?;
        }
        // The other side has armed nothing yet.
        let _ = self.tx.flush();
        Ok(self.doorbell.ring()?)
    }

    /// Looks once what the other side has to say.
    fn step(&mut self, at: &mut Attachment, service: u32) -> Result<Step, GuestError> {
        let peer = self.watch.peer;
        if at.region().live_epoch(peer) != Some(self.watch.epoch) {
            return Ok(Step::Lost);
        }
        if matches!(self.doorbell, GuestDoorbell::Silent) {
            // A switchboard may tell of a peer's bells later than of the peer.
            self.doorbell = at.doorbell(peer);
        }
        match at.own.accept_ring(peer, LINK_RING) {
            Ok(place) => {
                let rx = InlineReceiver::new(place)?;
                if rx.payload() != LINK_PAYLOAD {
                    return Err(GuestError::Misbehaved {
                        peer,
                        what: format!("its link has messages of {} bytes", rx.payload()),
                    });
                }
                self.rx = Some(rx);
            }
            Err(RingError::Accepted { .. } | RingError::NotThere { .. }) => {}
            Err(RingError::Region(
                RegionError::NotReady { .. }
                | RegionError::StaleEpoch { .. }
                | RegionError::NotLive { .. },
            )) => {}
            Err(e) => return Err(e.into()),
        }
        for _ in 0..GREETINGS {
            let Some(rx) = &mut self.rx else {
                break;
            };
            let mut message = [0; LINK_PAYLOAD];
            match rx.try_recv(&mut message) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    // A ring that a dead process has used for longer than one lap.
                    self.rx = None;
                    at.own.leave_ring(peer, LINK_RING);
                    break;
                }
            }
            if message[0] != HELLO || message[1] != VERSION {
                continue;
            }
            let found = word(&message, 4) as u32;
            if found != service {
                return Ok(Step::Other(found));
            }
            let (theirs, echo) = (word(&message, 8), word(&message, 16));
            if self.theirs != Some(theirs) {
                self.theirs = Some(theirs);
                self.greet(at, service, theirs)?;
            }
            if echo == self.session
                && let Some(line) = at.own.cursor(peer, LINK_RING)?
            {
                self.tx.set_cursor(line)?;
                return Ok(Step::Up);
            }
        }
        Ok(Step::Pending)
    }

    /// Takes the rings away again.
    fn abandon(self, at: &mut Attachment) {
        at.own.close_ring(self.watch.peer, LINK_RING);
        at.own.leave_ring(self.watch.peer, LINK_RING);
    }

    fn finish<'a>(
        self,
        at: &'a mut Attachment,
        options: &LinkOptions,
    ) -> Result<Link<'a>, GuestError> {
        let peer = self.watch.peer;
        let (Some(rx), Some(theirs)) = (self.rx, self.theirs) else {
            let how = Loss::Left;
            return Err(GuestError::PeerLost { peer, how });
        };
        Ok(Link {
            at,
            tx: self.tx,
            rx,
            watch: self.watch,
            theirs,
            doorbell: self.doorbell,
            waiter: Waiter::new(options.mode, MonotonicClock::new()),
            mode: options.mode,
            stall: options.stall,
        })
    }
}

/// The peer to connect to, when it is there.
fn choose(at: &Attachment, to: &Target) -> Result<Option<PeerRecord>, GuestError> {
    let others = at.others();
    let mut matching: Vec<_> = others.iter().filter(|r| to.is(r)).collect();
    let partition = |r: &&PeerRecord| r.who.is_some_and(|w| w.kind == PeerKind::Partition);
    if *to == Target::Any && matching.iter().any(partition) {
        // The host itself may be a peer: the other machine is meant.
        matching.retain(partition);
    }
    let mut matching = matching.into_iter();
    let first = matching.next().copied();
    let told = |why: &str| GuestError::NoSuchPeer {
        region: at.region().header().name.as_str().to_owned(),
        wanted: to.to_string(),
        seen: why.to_owned(),
    };
    if first.is_some() && matching.next().is_some() {
        let names = others.iter().map(|r| match r.who {
            Some(who) => format!("{} ({})", r.id, who.name.as_str()),
            None => r.id.to_string(),
        });
        let names: Vec<_> = names.collect();
        return Err(told(&format!("choose one of {}", names.join(", "))));
    }
    match to {
        Target::Peer(peer) if *peer == at.me() => Err(told("that is this peer itself")),
        Target::Peer(peer) if !at.region().layout().has(*peer) => {
            let last = at.region().layout().max_peers - 1;
            Err(told(&format!("the last one is {last}")))
        }
        _ => Ok(first),
    }
}

/// The next peer behind `last` that has a link ring for this one.
fn candidate(at: &Attachment, from: &Target, last: Option<PeerId>) -> Option<PeerRecord> {
    let mut others = at.others();
    others.retain(|r| from.is(r));
    let behind = |r: &PeerRecord| last.is_none_or(|last| r.id.0 > last.0);
    let split = others.iter().position(behind).unwrap_or(0);
    others.rotate_left(split);
    others.into_iter().find(|r| {
        let ring = at.region().find_ring(r.id, at.me(), LINK_RING);
        // One that breaks the rules is left alone; others may come.
        matches!(ring, Ok(Some(_)))
    })
}

/// Greets a peer whose ring was found; `None` when it does not answer, answers
/// wrongly, or wants something else.
fn try_candidate(
    at: &mut Attachment,
    peer: &PeerRecord,
    service: u32,
    until: Instant,
) -> Result<Option<Greeting>, GuestError> {
    let until = until.min(Instant::now() + CANDIDATE);
    let mut greeting = Greeting::open(at, peer, service)?;
    loop {
        at.check()?;
        match greeting.step(at, service) {
            Ok(Step::Up) => return Ok(Some(greeting)),
            // A client that wants something else learns from the greeting what runs
            // here.
            Ok(Step::Pending | Step::Other(_)) if Instant::now() < until => nap(at)?,
            Ok(_) | Err(_) => {
                greeting.abandon(at);
                return Ok(None);
            }
        }
    }
}

fn link_ring(at: &mut Attachment, to: PeerId) -> Result<InlineSender<MappedMem>, GuestError> {
    let place = at.own.create_ring(RingSpec {
        id: LINK_RING,
        to,
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: SLOT,
        slots: SLOTS,
    })?;
    Ok(InlineSender::new(place)?)
}

/// Sleeps until something may have happened, before rings can wake.
fn nap(at: &Attachment) -> Result<(), GuestError> {
    match &at.bell {
        GuestBell::Polling => std::thread::sleep(MEET / 5),
        bell => {
            bell.wait(Some(MEET))?;
        }
    }
    Ok(())
}

fn late(until: Instant, what: &str, limit: Duration) -> Result<(), GuestError> {
    if Instant::now() < until {
        return Ok(());
    }
    let what = what.to_owned();
    Err(GuestError::TooSlow { what, limit })
}

fn word(message: &Message, at: usize) -> u64 {
    let bytes = message.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// A number that no other process has, from the system's randomness; not 0.
fn random() -> u64 {
    let hasher = std::hash::RandomState::new().build_hasher();
    hasher.finish() | 1
}
