//! T5: resource exhaustion at the switchboard.
//!
//! A case is one request, good or bad, of any verb, in a region with small
//! quotas. The region never holds more bells than its quota, no inbox ever
//! waits for more ids than there are, a key of an earlier life does nothing;
//! and whenever everybody has left, nothing is held and the whole quota is free.

use crate::board::Bell;
use crate::board::Board;
use crate::board::admission;
use crate::board::bells;
use crate::board::lake;
use crate::board::pages;
use hv_shmem::layout::PeerId;
use portal_device::inspect::Value;
use portal_switchboard::Admission;
use portal_switchboard::Limits;
use portal_switchboard::PeerKey;
use portal_switchboard::Policy;
use portal_switchboard::Switchboard;
use std::sync::Arc;

const PEERS: u16 = 8;
const QUOTA: usize = 20;
const WHAT: &str = "requests of every verb to a switchboard with quotas";

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

struct Crowd {
    board: Board,
    live: Vec<(PeerKey, usize)>,
    old: Vec<PeerKey>,
    bell: Bell,
    number: u64,
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Crowd {
    fn new() -> Self {
        let limits = Limits {
            regions: 1,
            vectors_per_peer: 6,
            vectors_per_region: QUOTA,
        };
        let mut board = Switchboard::new(limits);
        board
            .add_region(pages("lake", PEERS).0, Policy::default())
            .expect("the first region");
        Crowd {
            board,
            live: Vec::new(),
            old: Vec::new(),
            bell: Arc::new("bell"),
            number: 0,
        }
    }

    fn number_at(&self, path: &str) -> u64 {
        match self.board.inspect().get(path) {
            Some(Value::Number(n)) => *n,
            other => panic!("{path} is {other:?}"),
        }
    }

    fn key(&self, random: &mut Random) -> PeerKey {
        let live = self.live.len() as u64;
        let all = live + self.old.len() as u64;
        match random.below(all + 1) {
            at if at < live => self.live[at as usize].0,
            at if at < all => self.old[(at - live) as usize],
            _ => PeerKey {
                region: lake(),
                peer: PeerId(99),
                epoch: 1,
            },
        }
    }

    fn admit(&mut self, random: &mut Random) -> Result<(), String> {
        self.number += 1;
        let vectors = random.below(8) as usize;
        let request = Admission {
            id: (random.below(3) == 0).then(|| PeerId(random.below(10) as u16)),
            ..admission(
                &format!("p{}", self.number),
                &vec![self.bell.clone(); vectors],
            )
        };
        let used: usize = self.live.iter().map(|(_, vectors)| vectors).sum();
        let fits = vectors <= 6 && used + vectors <= QUOTA && self.live.len() < PEERS.into();
        let asked = request.id;
        match self.board.admit(&lake(), request) {
            Ok(key) => {
                self.live.push((key, vectors));
                ensure(fits, "admitted beyond a quota")
            }
            Err(error) => ensure(
                !fits || asked.is_some(),
                &format!("refused with room left: {error}"),
            ),
        }
    }

    fn gone(&mut self, key: PeerKey) -> Result<(), String> {
        let at = self.live.iter().position(|(live, _)| *live == key);
        let result = self.board.gone(&key);
        ensure(
            result.is_ok() == at.is_some(),
            "a stale key had an effect, or a live one none",
        )?;
        if let Some(at) = at {
            self.live.swap_remove(at);
            if self.old.len() < 16 {
                self.old.push(key);
            }
        }
        Ok(())
    }

    fn case(&mut self, index: u64, random: &mut Random) -> Result<(), String> {
        let key = self.key(random);
        let live = self.live.iter().any(|(each, _)| *each == key);
        match random.below(8) {
            0 | 1 => self.admit(random)?,
            2 => ensure(
                live || self.board.ready(&key).is_err(),
                "a stale key was ready",
            )?,
            3 => {
                let stepped = self.board.ready(&key).is_ok() | self.board.quiesce(&key).is_ok();
                ensure(live || !stepped, "a stale key stepped")?;
            }
            4 => ensure(
                self.board.next_event(&key).is_ok() == live,
                "events of a stale key",
            )?,
            5 => {
                let to = PeerId(random.below(10) as u16);
                let found = self.board.bell(&key, to, random.below(8) as u16).is_ok();
                ensure(found == live, "a stale key rang")?;
            }
            6 => self.gone(key)?,
            _ => {
                let pages = pages("lake", PEERS).0;
                let again = self.board.add_region(pages, Policy::default());
                ensure(again.is_err(), "a region beyond the limit")?;
                ensure(
                    self.live.is_empty() || self.board.remove_region(&lake()).is_err(),
                    "a region in use was removed",
                )?;
                if self.live.is_empty() {
                    // It was there, so it was removed: put it back.
                    let _ = self
                        .board
                        .remove_region(&lake())
                        .map(|pages| self.board.add_region(pages, Policy::default()));
                }
            }
        }
        self.bounded()?;
        if index % 1000 == 999 {
            self.leave_all()
        } else {
            Ok(())
        }
    }

    fn bounded(&self) -> Result<(), String> {
        let held = Arc::strong_count(&self.bell) - 1;
        let vectors: usize = self.live.iter().map(|(_, vectors)| vectors).sum();
        ensure(
            held == vectors && held <= QUOTA,
            &format!("{held} bells are held"),
        )?;
        for (key, _) in &self.live {
            let path = format!("regions/lake/peers/{}/events_waiting", key.peer);
            ensure(self.number_at(&path) <= PEERS.into(), "an inbox grew")?;
        }
        Ok(())
    }

    fn leave_all(&mut self) -> Result<(), String> {
        for (key, _) in self.live.clone() {
            self.gone(key)?;
        }
        ensure(
            Arc::strong_count(&self.bell) == 1,
            "bells are held of nobody",
        )?;
        ensure(
            self.number_at("regions/lake/vectors") == 0,
            "the quota did not come back",
        )
    }
}

fn run(control: Option<&str>) -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let cases = number("PORTAL_CASES").unwrap_or(3000);
    let seed = number("PORTAL_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let mut crowd = Crowd::new();
    let mut failures = 0;
    for index in 0..cases {
        if let Err(why) = crowd.case(index, &mut random) {
            if control.is_none() {
                println!("case {index}: {why}");
            }
            failures += 1;
            crowd = Crowd::new();
        }
    }
    let control = control.map_or(String::new(), |name| format!("\"control\":\"{name}\","));
    println!(
        "evidence: {{\"threat\":\"T5\",\"what\":\"{WHAT}\",{control}\"cases\":{cases},\
         \"failures\":{failures},\"seed\":{seed}}}"
    );
    failures
}

#[test]
fn t5_requests_of_every_verb() {
    assert_eq!(run(None), 0);
}

#[test]
fn one_hundred_kills_and_rejoins_leave_nothing() {
    let mut crowd = Crowd::new();
    for round in 0..100 {
        for peer in 0..4 {
            let request = admission(&format!("p{peer}"), &bells(5));
            let key = crowd
                .board
                .admit(&lake(), request)
                .expect("the quota is free");
            crowd.board.ready(&key).expect("joined");
            assert_eq!(key.epoch, round + 1, "one life a round");
            crowd.live.push((key, 0));
        }
        crowd.leave_all().expect("everything came back");
    }
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_switchboard::guard::Guard;

    #[test]
    fn control_t5_vectors_return() {
        let name = "the vectors of a peer that is gone are given back";
        assert!(without(Guard::VectorsReturn, || run(Some(name))) > 0);
    }

    #[test]
    fn control_t5_epoch() {
        let name = "a key of an earlier life has no effect";
        assert!(without(Guard::Epoch, || run(Some(name))) > 0);
    }
}
