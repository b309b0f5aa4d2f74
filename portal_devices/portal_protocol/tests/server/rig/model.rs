//! What must hold, from what clients asked and were told: ids are given to one at a
//! time, epochs grow, rights and quotas hold, only a peer hears of peers, of its own
//! region, in an order that one true history has, and who has heard everything knows
//! exactly who is there.

use super::Bell;
use super::Held;
use super::Key;
use super::may_write;
use super::place;
use super::policy;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_protocol::Join;
use portal_protocol::Reattach;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::Token;
use portal_protocol::VERSION;
use portal_protocol::server::ClientId;
use portal_protocol::server::Done;
use portal_protocol::server::Limits;
use portal_protocol::server::Passed;
use portal_switchboard::PeerKey;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) fn ensure(holds: bool, what: &str) -> Held {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Joined,
    Ready,
    Quiescing,
}

/// A peer.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: PeerKey,
    pub(crate) token: Token,
    pub(crate) vectors: usize,
    /// What it hears on.
    pub(crate) bells: Vec<u64>,
    /// Until when it may come back.
    pub(crate) away: Option<Duration>,
    name: Name,
    kind: PeerKind,
    rights: Rights,
    phase: Phase,
}

/// What a peer was told of another one.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    epoch: u32,
    phase: Phase,
    bells: Vec<u64>,
}

/// What a client that is a peer has been told.
#[derive(Debug)]
struct Ear {
    key: PeerKey,
    others: BTreeMap<u16, Told>,
    current: bool,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Known {
    /// It has not said hello, or not one that was taken.
    pub(crate) is_new: bool,
    /// Which peer it is for the server.
    pub(crate) member: Option<PeerKey>,
    pub(crate) heard: Duration,
    blocked: Option<Duration>,
    /// Its next message was made some time ago.
    stale: bool,
    asked: Option<Request>,
    ear: Option<Ear>,
}

impl Known {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            is_new: true,
            member: None,
            heard: now,
            blocked: None,
            stale: false,
            asked: None,
            ear: None,
        }
    }

    pub(crate) fn is_overdue(&self, now: Duration, limits: &Limits) -> bool {
        let stalled = self
            .blocked
            .is_some_and(|since| now - since >= limits.stall);
        stalled || (self.is_new && now - self.heard >= limits.hello)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) clients: BTreeMap<ClientId, Known>,
    pub(crate) members: BTreeMap<Key, Member>,
    /// The last epoch that each id had.
    epochs: BTreeMap<Key, u32>,
}

impl Model {
    pub(crate) fn blocked(&mut self, client: ClientId, now: Duration) {
        if let Some(known) = self.clients.get_mut(&client) {
            known.blocked.get_or_insert(now);
            known.stale = true;
        }
    }

    /// A client is no more, and the peer that it was.
    pub(crate) fn lose(&mut self, client: ClientId, key: Option<PeerKey>) -> Held {
        let known = self.clients.remove(&client).ok_or("nobody was lost")?;
        ensure(
            known.member == key,
            "another peer was lost than the client was",
        )?;
        self.gone(key)
    }

    fn gone(&mut self, key: Option<PeerKey>) -> Held {
        let Some(key) = key else { return Ok(()) };
        let member = self.members.remove(&place(&key));
        ensure(
            member.is_some_and(|m| m.key == key),
            "nobody of this key was there",
        )
    }

    pub(crate) fn expired(&mut self, key: PeerKey, now: Duration) -> Held {
        let member = self.members.get(&place(&key));
        let due = member.is_some_and(|m| m.away.is_some_and(|until| until <= now));
        ensure(due, "a peer was given up before its grace was over")?;
        self.gone(Some(key))
    }

    /// All clients are gone, all peers are away; returns what they come back with.
    pub(crate) fn away(
        &mut self,
        region: &Name,
        expected: &[PeerKey],
        until: Duration,
    ) -> Result<Vec<(PeerKey, Token)>, String> {
        let own = self
            .members
            .values_mut()
            .filter(|m| m.key.region == *region);
        let mut tokens = Vec::new();
        for member in own {
            member.away = Some(until);
            member.bells.clear();
            tokens.push((member.key, member.token));
        }
        let same = tokens.iter().map(|(key, _)| key).eq(expected);
        ensure(same, "other peers are expected than there were")?;
        Ok(tokens)
    }

    /// A request was carried out, or refused. `brought` came with it, `given` are bells
    /// that the carrier made for it.
    pub(crate) fn done(
        &mut self,
        client: ClientId,
        request: Request,
        done: Done,
        brought: &[u64],
        given: &[u64],
    ) -> Held {
        let known = self
            .clients
            .get_mut(&client)
            .ok_or("a stranger was heard")?;
        known.asked = Some(request);
        if let Request::Hello { oldest, newest } = request {
            known.is_new = !(oldest..=newest).contains(&VERSION);
        }
        let member = known.member;
        match (request, done) {
            (_, Done::Quiet) => Ok(()),
            (Request::Join(join), Done::Joined(key)) => {
                ensure(member.is_none(), "a peer joined again")?;
                known.member = Some(key);
                let bells = if join.own { brought } else { given };
                self.join(&join, key, bells)
            }
            (Request::Reattach(back), Done::Returned(key)) => {
                ensure(member.is_none(), "a peer came back as another")?;
                known.member = Some(key);
                self.come_back(&back, key, brought)
            }
            (Request::Leave, Done::Left(key)) => {
                ensure(member == Some(key), "another peer left")?;
                known.member = None;
                self.gone(Some(key))
            }
            (step, Done::Stepped(key)) => {
                ensure(member == Some(key), "another peer stepped")?;
                let found = self.members.get_mut(&place(&key)).ok_or("nobody stepped")?;
                match step {
                    Request::Ready => found.phase = Phase::Ready,
                    Request::Quiesce => found.phase = Phase::Quiescing,
                    Request::HearOn { vectors } => {
                        ensure(found.vectors == vectors.into(), "other bells than vectors")?;
                        found.bells = brought.to_vec();
                    }
                    other => return Err(format!("{other:?} was a step")),
                }
                Ok(())
            }
            (request, done) => Err(format!("{request:?} became {done:?}")),
        }
    }

    fn join(&mut self, join: &Join, key: PeerKey, bells: &[u64]) -> Held {
        ensure(key.region == join.region, "joined another region")?;
        ensure(
            join.id.is_none_or(|id| id == key.peer) && key.peer.0 < super::PEERS,
            "another id than was asked for",
        )?;
        ensure(
            !self.members.contains_key(&place(&key)),
            "an id was given twice",
        )?;
        let last = self.epochs.insert(place(&key), key.epoch);
        ensure(last < Some(key.epoch), "an epoch did not grow")?;
        let policy = policy(key.region.as_str());
        let limit = match join.kind {
            PeerKind::Partition => policy.partitions,
            PeerKind::HostProcess => policy.host_processes,
        };
        ensure(
            limit.is_some_and(|limit| limit.has(join.rights)),
            "more rights than the region gives",
        )?;
        let mut others = self.members.values().filter(|m| m.key.region == key.region);
        ensure(
            others.all(|m| m.name != join.name),
            "a name was given twice",
        )?;
        ensure(
            bells.len() == join.vectors.into(),
            "other bells than vectors",
        )?;
        let member = Member {
            key,
            token: Token([0; 16]),
            vectors: join.vectors.into(),
            bells: bells.to_vec(),
            away: None,
            name: join.name,
            kind: join.kind,
            rights: join.rights,
            phase: Phase::Joined,
        };
        self.members.insert(place(&key), member);
        Ok(())
    }

    fn come_back(&mut self, back: &Reattach, key: PeerKey, brought: &[u64]) -> Held {
        let member = self
            .members
            .get_mut(&place(&key))
            .ok_or("nobody came back")?;
        let asked = (back.region, back.peer, back.epoch);
        ensure(
            asked == (key.region, key.peer, key.epoch),
            "came back as another",
        )?;
        ensure(member.key == key, "came back to a life that is over")?;
        ensure(member.away.take().is_some(), "came back and was not away")?;
        ensure(
            back.token.matches(&member.token),
            "came back without its token",
        )?;
        let bells = brought
            .get(..member.vectors)
            .ok_or("came back with fewer bells")?;
        member.bells = bells.to_vec();
        Ok(())
    }

    /// The token of a client that is a peer from now on.
    pub(crate) fn admitted(&mut self, client: ClientId, key: PeerKey, token: Token) -> Held {
        let known = self.clients.get(&client).and_then(|c| c.member);
        ensure(known == Some(key), "another client joined")?;
        let member = self.members.get_mut(&place(&key)).ok_or("nobody joined")?;
        member.token = token;
        Ok(())
    }

    /// In the place of its memory the client gets a refusal.
    pub(crate) fn withheld(&mut self, client: ClientId, gone: Option<PeerKey>) -> Held {
        let known = self
            .clients
            .get_mut(&client)
            .ok_or("a stranger was refused")?;
        known.stale = false;
        if gone.is_some() {
            ensure(known.member == gone, "another peer was refused its memory")?;
            known.member = None;
            known.ear = None;
        }
        self.gone(gone)
    }

    /// The client was sent this. `listens`: it may ask the next thing now.
    pub(crate) fn heard(
        &mut self,
        client: ClientId,
        reply: &Reply,
        passed: &[Passed<Bell>],
        listens: bool,
    ) -> Held {
        let known = self.clients.get_mut(&client).ok_or("a stranger was told")?;
        let stale = std::mem::take(&mut known.stale);
        known.blocked = None;
        let asked = known.asked;
        if listens {
            known.asked = None;
        }
        let out_of_place = || Err(format!("{reply:?} to who asked {asked:?}"));
        match (reply, asked) {
            (Reply::Welcome { version: VERSION }, Some(Request::Hello { .. }))
            | (Reply::Region(_) | Reply::EndOfList, Some(Request::List))
            | (Reply::Tree { .. }, Some(Request::Inspect))
            | (Reply::Watching { .. }, Some(Request::Watch { .. }))
            | (Reply::Refused(_), Some(_)) => Ok(()),
            (
                Reply::Done,
                Some(
                    Request::Ready
                    | Request::Quiesce
                    | Request::HearOn { .. }
                    | Request::Publish { .. },
                ),
            ) => Ok(()),
            (Reply::Done, Some(Request::Leave)) => {
                known.ear = None;
                Ok(())
            }
            (Reply::Admitted(admitted), Some(Request::Join(_) | Request::Reattach(_))) => {
                let key = known.member.ok_or("admitted, and no peer")?;
                let member = self.members.get(&place(&key)).ok_or("admitted nobody")?;
                let told = (admitted.peer, admitted.epoch, admitted.rights);
                let same = told == (key.peer, key.epoch, member.rights);
                ensure(
                    same && admitted.token == member.token,
                    "admitted as another",
                )?;
                let others = BTreeMap::new();
                let current = false;
                known.ear = Some(Ear {
                    key,
                    others,
                    current,
                });
                Ok(())
            }
            (Reply::Memory(_), Some(Request::Watch { region })) => {
                memory(passed, region, Rights::OBSERVER, None)
            }
            (Reply::Memory(_), Some(Request::Join(join))) => {
                let own = known.member.map(|key| key.peer);
                memory(passed, join.region, join.rights, own)
            }
            (
                Reply::Joined { .. }
                | Reply::Ready { .. }
                | Reply::Quiescing { .. }
                | Reply::Gone { .. }
                | Reply::Current,
                _,
            ) => {
                // Until it has heard that it left.
                let ear = known.ear.as_mut().ok_or("a stranger was told of a peer")?;
                let now = (!stale && known.member == Some(ear.key)).then_some(&self.members);
                event(ear, reply, passed, now)
            }
            _ => out_of_place(),
        }
    }

    /// The client was sent everything.
    pub(crate) fn caught_up(&self, client: ClientId) -> Held {
        let Some(known) = self.clients.get(&client) else {
            return Ok(());
        };
        ensure(
            known.asked.is_none() || known.is_new,
            "a request without an answer",
        )?;
        let Some(key) = known.member else {
            return Ok(());
        };
        let ear = known.ear.as_ref().ok_or("a peer that was never told so")?;
        ensure(
            ear.current,
            "a peer that was not told that it knows everybody",
        )?;
        let own = self
            .members
            .get(&place(&key))
            .ok_or("a peer that is none")?;
        let others = self.members.values();
        let others = others.filter(|m| m.key.region == key.region && m.key.peer != key.peer);
        let same = others.eq_by_told(ear, own.rights.has(Rights::RING));
        ensure(same, "who has heard everything knows others than there are")
    }
}

trait EqByTold {
    fn eq_by_told(self, ear: &Ear, rings: bool) -> bool;
}

impl<'a, I: Iterator<Item = &'a Member>> EqByTold for I {
    fn eq_by_told(mut self, ear: &Ear, rings: bool) -> bool {
        let mut told = ear.others.iter();
        let each = self.by_ref().all(|member| {
            let bells: &[u64] = if rings { &member.bells } else { &[] };
            told.next().is_some_and(|(peer, told)| {
                (*peer, told.epoch, told.phase)
                    == (member.key.peer.0, member.key.epoch, member.phase)
                    && told.bells == bells
            })
        });
        each && told.next().is_none()
    }
}

fn memory(passed: &[Passed<Bell>], region: Name, rights: Rights, own: Option<PeerId>) -> Held {
    for each in passed {
        let Passed::Memory(of, _, write) = each else {
            return Err("a bell in the place of memory".to_owned());
        };
        ensure(*of == region, "memory of another region")?;
        ensure(
            *write == may_write(each, rights, own),
            "memory with other rights",
        )?;
    }
    Ok(())
}

/// A peer is told of another one. `now`: the peers, when the message is of this moment.
fn event(
    ear: &mut Ear,
    reply: &Reply,
    passed: &[Passed<Bell>],
    now: Option<&BTreeMap<Key, Member>>,
) -> Held {
    let at = |peer: PeerId| (ear.key.region, peer.0);
    match *reply {
        Reply::Current => {
            ensure(!ear.current, "told twice that it knows everybody")?;
            ear.current = true;
        }
        Reply::Joined {
            peer,
            epoch,
            name,
            kind,
            ..
        } => {
            ensure(peer != ear.key.peer, "told of itself")?;
            let bells = passed.iter().map(|passed| match passed {
                Passed::Bell(bell) => Ok(bell.number),
                Passed::Memory(..) => Err("memory in the place of a bell"),
            });
            let bells = bells.collect::<Result<Vec<_>, _>>()?;
            if let Some(now) = now {
                let other = now.get(&at(peer)).filter(|m| m.key.epoch == epoch);
                let other = other.ok_or("told of a peer that is not there")?;
                ensure(
                    (other.name, other.kind) == (name, kind),
                    "told of another peer",
                )?;
                let own = now.get(&at(ear.key.peer)).ok_or("told, and is no peer")?;
                let expected: &[u64] = match own.rights.has(Rights::RING) {
                    true => &other.bells,
                    false => &[],
                };
                ensure(bells == expected, "given bells of another")?;
            }
            let phase = match ear.others.get(&peer.0) {
                Some(told) if told.epoch == epoch => told.phase,
                Some(_) => return Err("told of a successor before the end".to_owned()),
                None => Phase::Joined,
            };
            let told = Told {
                epoch,
                phase,
                bells,
            };
            ear.others.insert(peer.0, told);
        }
        Reply::Ready { peer } => {
            let told = ear
                .others
                .get_mut(&peer.0)
                .ok_or("ready before it joined")?;
            told.phase = Phase::Ready;
        }
        Reply::Quiescing { peer } => {
            let told = ear
                .others
                .get_mut(&peer.0)
                .ok_or("quiescing before it joined")?;
            told.phase = Phase::Quiescing;
        }
        Reply::Gone { peer, epoch } => {
            if let Some(now) = now {
                let lives = now.get(&at(peer)).is_some_and(|m| m.key.epoch == epoch);
                ensure(!lives, "told that a peer is gone that lives")?;
            }
            let told = ear.others.remove(&peer.0);
            ensure(
                told.is_some_and(|t| t.epoch == epoch),
                "gone, and never was",
            )?;
        }
        _ => return Err(format!("{reply:?} is no event")),
    }
    Ok(())
}
