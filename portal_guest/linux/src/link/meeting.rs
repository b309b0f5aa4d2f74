//! How two sides find each other: whom to greet, and how long to wait for an answer.
//!
//! Distrusted: every peer of the region. One that does not answer, or answers wrongly,
//! costs others that wait [`CANDIDATE`] and no more; they get their turn.

use super::LINK_RING;
use super::LinkOptions;
use super::greeting::Greeting;
use super::greeting::Step;
use crate::Attachment;
use crate::GuestBell;
use crate::GuestError;
use hv_shmem::doorbell::Bell as _;
use hv_shmem::layout::PeerId;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use std::fmt;
use std::time::Duration;
use std::time::Instant;

/// How long a server gives a peer whose ring it has found while others wait: the ring
/// may be one that was left by a process that is dead. Where nobody else waits, a slow
/// peer has all the time that the server has: to give it up and greet it anew would tell
/// it that the server has started again.
const CANDIDATE: Duration = Duration::from_secs(1);
/// The same before the link is up, when no ring wakes anybody.
const MEET: Duration = Duration::from_millis(5);

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

/// Meets a peer that accepts.
pub(super) fn connect(
    at: &mut Attachment,
    to: &Target,
    options: &LinkOptions,
) -> Result<Greeting, GuestError> {
    let until = Instant::now() + options.patience;
    let mut greeting: Option<Greeting> = None;
    loop {
        at.check()?;
        if greeting.is_none()
            && let Some(peer) = choose(at, to)?
        {
            greeting = Some(Greeting::open(at, &peer, options.service)?);
        }
        if let Some(mut under_way) = greeting.take() {
            match under_way.step(at, options.service)? {
                Step::Up => return Ok(under_way),
                Step::Pending => greeting = Some(under_way),
                // Its successor is greeted anew.
                Step::Lost => {}
                Step::Other(found) => {
                    return Err(GuestError::OtherService {
                        peer: under_way.peer(),
                        found,
                        expected: options.service,
                    });
                }
            }
        }
        late(until, &format!("{to} to answer"), options.patience)?;
        nap(at)?;
    }
}

/// Meets the first peer that connects.
pub(super) fn accept(
    at: &mut Attachment,
    from: &Target,
    options: &LinkOptions,
) -> Result<Greeting, GuestError> {
    let until = Instant::now() + options.patience;
    let mut last = None;
    loop {
        at.check()?;
        if let Some(peer) = candidate(at, from, last) {
            last = Some(peer.id);
            if let Some(up) = try_candidate(at, from, &peer, options.service, until)? {
                return Ok(up);
            }
        }
        late(until, &format!("{from} to connect"), options.patience)?;
        nap(at)?;
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
    from: &Target,
    peer: &PeerRecord,
    service: u32,
    until: Instant,
) -> Result<Option<Greeting>, GuestError> {
    let turn = Instant::now() + CANDIDATE;
    let mut greeting = Greeting::open(at, peer, service)?;
    loop {
        at.check()?;
        match greeting.step(at, service) {
            Ok(Step::Up) => return Ok(Some(greeting)),
            // A client that wants something else learns from the greeting what runs
            // here.
            Ok(Step::Pending | Step::Other(_)) if goes_on(at, from, peer, turn, until) => nap(at)?,
            Ok(_) | Err(_) => {
                greeting.abandon(at);
                return Ok(None);
            }
        }
    }
}

/// Whether a peer that has not answered yet is waited for.
fn goes_on(
    at: &Attachment,
    from: &Target,
    peer: &PeerRecord,
    turn: Instant,
    until: Instant,
) -> bool {
    let now = Instant::now();
    let other = || candidate(at, from, Some(peer.id)).filter(|other| other.id != peer.id);
    now < until && (now < turn || other().is_none())
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
