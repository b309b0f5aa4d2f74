//! From samples to what an operator wants to know: how fast, how full, what
//! stands still. Pure: time is in the samples.
//!
//! # Stalls
//!
//! A ring is *stalled* when messages wait in it, its receiver's cursor has not
//! moved for [`STALL_SAMPLES`] samples and [`STALL_TIME`], and meanwhile the
//! sender sent more or sleeps for want of space. When messages wait and nobody
//! moves, they are *held*: a receiver that looks once a minute does that too, and
//! so does one that has lost its doorbell while its sender waits for the answer.
//! Receivers that are busy publish their cursor in batches, so that fewer
//! messages than a batch ([`RingView::untold`]) are never a stall.
//!
//! A count that goes backwards (a peer that came again, or lies) gives no rate.

use crate::sample::Sample;
use hv_shmem::show::RegionView;
use hv_shmem::show::RingView;
use std::collections::HashMap;
use std::time::Duration;

/// Samples without movement before a ring is stalled or held.
pub const STALL_SAMPLES: u32 = 3;
/// Time without movement before a ring is stalled or held, however short the
/// samples' interval is.
pub const STALL_TIME: Duration = Duration::from_secs(2);

/// What goes on in a system: the newest sample and what it means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// When, since the observer began.
    pub at: Duration,
    /// Time since the sample before; `None` for the first.
    pub interval: Option<Duration>,
    /// Regions.
    pub regions: Vec<RegionRow>,
    /// Peers of all regions.
    pub peers: Vec<PeerRow>,
    /// Rings of all regions.
    pub rings: Vec<RingRow>,
    /// Rings beyond those listed.
    pub rings_left_out: u64,
    /// Partitions.
    pub partitions: Vec<PartitionRow>,
    /// What could not be looked at, and why.
    pub problems: Vec<String>,
}

/// A region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionRow {
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Peers by state: joining, ready, quiescing, dead.
    pub states: [u32; 4],
    /// Peers that it has room for.
    pub max_peers: u16,
    /// Rings that both ends can use.
    pub rings: u32,
    /// Messages sent a second, over all rings.
    pub sent: Option<f64>,
    /// Messages taken out a second, over all rings.
    pub taken: Option<f64>,
    /// Bytes of slots sent a second.
    pub bytes: Option<f64>,
    /// Doorbells a second that user space saw.
    pub doorbells: Option<f64>,
    /// Rings that are stalled.
    pub stalls: u32,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerRow {
    /// Name of its region.
    pub region: String,
    /// Number.
    pub id: u16,
    /// Name.
    pub name: String,
    /// `partition` or `host process`.
    pub kind: String,
    /// State in the peer table.
    pub state: String,
    /// Epoch.
    pub epoch: u32,
    /// Vectors.
    pub vectors: u32,
    /// Current rings that it sends on.
    pub outgoing: u32,
    /// Current rings that it receives on.
    pub incoming: u32,
    /// Messages sent a second.
    pub sent: Option<f64>,
    /// Messages taken out a second.
    pub taken: Option<f64>,
    /// Messages that wait for it.
    pub waiting: u64,
    /// Doorbells a second that it rang and user space saw.
    pub doorbells: Option<f64>,
    /// Doorbells that it rang and user space saw; `None` where nobody counts.
    pub doorbells_seen: Option<u64>,
    /// What cannot be read of it.
    pub problems: u32,
}

/// A ring.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RingRow {
    /// Name of its region.
    pub region: String,
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// Ring id.
    pub id: u32,
    /// What it carries.
    pub kind: String,
    /// How its slots lie.
    pub layout: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Slots.
    pub slots: u32,
    /// Messages sent, as its sender says.
    pub sent_total: u64,
    /// Messages taken out, as its receiver says.
    pub taken_total: Option<u64>,
    /// Events lost for want of space, as its sender says.
    pub lost_total: u64,
    /// Messages sent a second.
    pub sent: Option<f64>,
    /// Messages taken out a second.
    pub taken: Option<f64>,
    /// Bytes of slots sent a second.
    pub bytes: Option<f64>,
    /// What it does.
    pub state: RingState,
    /// What is wrong with its words.
    pub problem: Option<String>,
}

/// What a ring does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingState {
    /// Of an epoch that is over.
    LeftOver,
    /// Nothing waits and nothing moved since the sample before.
    #[default]
    Idle,
    /// The receiver has not accepted it yet.
    Unaccepted,
    /// Messages move.
    Moving,
    /// Messages wait, nobody moves, and the receiver has not for this time.
    Held(Duration),
    /// Messages wait, the receiver has not moved for this time and the sender
    /// did or wants to.
    Stalled(Duration),
    /// Its words cannot be meant.
    Broken,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionRow {
    /// Name.
    pub name: String,
    /// What it does.
    pub state: String,
    /// vCPUs.
    pub vcpus: u64,
    /// Exits to user space, since it started.
    pub exits_total: u64,
    /// Exits to user space a second.
    pub exits: Option<f64>,
    /// Interrupts injected by the kernel, since it started.
    pub interrupts_total: Option<u64>,
    /// Interrupts a second that the kernel injected.
    pub interrupts: Option<f64>,
    /// Doorbells that left the guest by an exit, since it started.
    pub doorbells_total: u64,
    /// Doorbells a second that left the guest by an exit.
    pub doorbells: Option<f64>,
    /// Stores to someone else's section that were dropped.
    pub dropped_stores: u64,
}

/// Which ring, in which life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RingKey {
    region: String,
    from: u16,
    to: u16,
    id: u32,
    instance: u32,
}

/// Since when a ring's cursor stands.
#[derive(Clone, Copy, Debug)]
struct Still {
    taken: Option<u64>,
    since: Duration,
    samples: u32,
    /// Messages sent when it stopped.
    sent_then: u64,
    /// Messages sent at the newest sample.
    sent: u64,
    /// Whether anything moved between the newest sample and the one before.
    moved: bool,
}

/// The samples so far, as far as they matter.
#[derive(Debug, Default)]
pub struct Model {
    before: Option<Sample>,
    still: HashMap<RingKey, Still>,
}

/// Counts a second; `None` when there is no time between them or the count went
/// backwards.
fn rate(before: Option<u64>, now: Option<u64>, interval: Option<Duration>) -> Option<f64> {
    let seconds = interval?.as_secs_f64();
    let delta = now?.checked_sub(before?)?;
    (seconds > 0.0).then(|| delta as f64 / seconds)
}

/// Adds rates; unknown ones count as nothing, unless all are unknown.
fn add(sum: &mut Option<f64>, rate: Option<f64>) {
    if let Some(rate) = rate {
        *sum = Some(sum.unwrap_or(0.0) + rate);
    }
}

fn waiting(ring: &RingView) -> u64 {
    let waiting = ring.sent.saturating_sub(ring.taken.unwrap_or(0));
    // A sender may claim any number; no more than the slots can wait.
    waiting.min(ring.slots.into())
}

impl Model {
    /// No samples yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the newest sample.
    pub fn take(&mut self, sample: Sample) -> Picture {
        let before = self.before.take();
        let earlier = before.as_ref().map(|b| b.at);
        let mut picture = Picture {
            at: sample.at,
            interval: earlier.and_then(|at| sample.at.checked_sub(at)),
            problems: sample.problems.clone(),
            ..Picture::default()
        };
        let mut still = HashMap::new();
        for region in &sample.regions {
            let same =
                |b: &&RegionView| (&b.name, b.generation) == (&region.name, region.generation);
            let old = before.as_ref().and_then(|b| b.regions.iter().find(same));
            let rung = |peer| {
                let key = (region.name.clone(), peer);
                let now = sample.doorbells.get(&key).copied();
                let then = before.as_ref().and_then(|b| b.doorbells.get(&key).copied());
                (then, now)
            };
            self.region(region, old, rung, &mut picture, &mut still);
        }
        self.still = still;
        for partition in &sample.partitions {
            let old = before.as_ref().and_then(|b| {
                let mut found = b.partitions.iter();
                found.find(|p| p.name == partition.name)
            });
            let per_second = |then: Option<u64>, now| rate(then, now, picture.interval);
            let row = PartitionRow {
                name: partition.name.clone(),
                state: partition.state.clone(),
                vcpus: partition.vcpus,
                exits_total: partition.exits,
                exits: per_second(old.map(|p| p.exits), Some(partition.exits)),
                interrupts_total: partition.interrupts,
                interrupts: per_second(old.and_then(|p| p.interrupts), partition.interrupts),
                doorbells_total: partition.doorbells,
                doorbells: per_second(old.map(|p| p.doorbells), Some(partition.doorbells)),
                dropped_stores: partition.dropped_stores,
            };
            picture.partitions.push(row);
        }
        self.before = Some(sample);
        picture
    }

    fn region(
        &self,
        region: &RegionView,
        old: Option<&RegionView>,
        rung: impl Fn(u16) -> (Option<u64>, Option<u64>),
        picture: &mut Picture,
        still: &mut HashMap<RingKey, Still>,
    ) {
        let interval = picture.interval;
        let mut row = RegionRow {
            name: region.name.clone(),
            size: region.size,
            max_peers: region.max_peers,
            ..RegionRow::default()
        };
        let mut peers: HashMap<u16, PeerRow> = HashMap::new();
        for peer in &region.peers {
            let state = match peer.state.as_str() {
                "joining" => Some(0),
                "ready" => Some(1),
                "quiescing" => Some(2),
                "dead" => Some(3),
                _ => None,
            };
            if let Some(count) = state.and_then(|index: usize| row.states.get_mut(index)) {
                *count += 1;
            }
            let (then, now) = rung(peer.id);
            let doorbells = rate(then, now, interval);
            add(&mut row.doorbells, doorbells);
            let shown = PeerRow {
                region: region.name.clone(),
                id: peer.id,
                name: peer.name.clone(),
                kind: peer.kind.clone(),
                state: peer.state.clone(),
                epoch: peer.epoch,
                vectors: peer.vectors,
                doorbells,
                doorbells_seen: now,
                // At most a few dozen.
                problems: peer.problems.len() as u32,
                ..PeerRow::default()
            };
            peers.insert(peer.id, shown);
        }
        let old_rings: HashMap<_, _> = old
            .into_iter()
            .flat_map(|view| &view.rings)
            .map(|ring| ((ring.from, ring.to, ring.id, ring.instance), ring))
            .collect();
        for ring in &region.rings {
            let key = (ring.from, ring.to, ring.id, ring.instance);
            let was = old_rings.get(&key).copied();
            let shown = self.ring(region, ring, was, picture, still);
            if ring.current {
                row.rings += 1;
                row.stalls += u32::from(matches!(shown.state, RingState::Stalled(_)));
                add(&mut row.sent, shown.sent);
                add(&mut row.taken, shown.taken);
                add(&mut row.bytes, shown.bytes);
                if let Some(from) = peers.get_mut(&ring.from) {
                    from.outgoing += 1;
                    add(&mut from.sent, shown.sent);
                }
                if let Some(to) = peers.get_mut(&ring.to) {
                    to.incoming += 1;
                    add(&mut to.taken, shown.taken);
                    to.waiting = to.waiting.saturating_add(shown.waiting);
                }
            }
            picture.rings.push(shown);
        }
        let mut peers: Vec<_> = peers.into_values().collect();
        peers.sort_by_key(|peer| peer.id);
        picture.peers.extend(peers);
        let more = picture.rings_left_out.saturating_add(region.rings_left_out);
        picture.rings_left_out = more;
        picture.regions.push(row);
    }

    fn ring(
        &self,
        region: &RegionView,
        ring: &RingView,
        old: Option<&RingView>,
        picture: &Picture,
        still: &mut HashMap<RingKey, Still>,
    ) -> RingRow {
        let key = RingKey {
            region: region.name.clone(),
            from: ring.from,
            to: ring.to,
            id: ring.id,
            instance: ring.instance,
        };
        let fresh = Still {
            taken: ring.taken,
            since: picture.at,
            samples: 0,
            sent_then: ring.sent,
            sent: ring.sent,
            moved: false,
        };
        let now = match self.still.get(&key) {
            None => fresh,
            Some(then) if then.taken == ring.taken => Still {
                samples: then.samples.saturating_add(1),
                sent: ring.sent,
                moved: then.sent != ring.sent,
                ..*then
            },
            Some(_) => Still {
                moved: true,
                ..fresh
            },
        };
        let state = state(ring, &now, picture.at);
        still.insert(key, now);
        let sent = rate(old.map(|r| r.sent), Some(ring.sent), picture.interval);
        RingRow {
            region: region.name.clone(),
            from: ring.from,
            to: ring.to,
            id: ring.id,
            kind: ring.kind.clone(),
            layout: ring.layout.clone(),
            waiting: waiting(ring),
            slots: ring.slots,
            sent_total: ring.sent,
            taken_total: ring.taken,
            lost_total: ring.lost,
            sent,
            taken: rate(old.and_then(|r| r.taken), ring.taken, picture.interval),
            bytes: sent.map(|n| n * f64::from(ring.slot_size)),
            state,
            problem: ring.problem.clone(),
        }
    }
}

fn state(ring: &RingView, still: &Still, at: Duration) -> RingState {
    if ring.problem.is_some() {
        return RingState::Broken;
    }
    if !ring.current {
        return RingState::LeftOver;
    }
    if ring.taken.is_none() {
        return RingState::Unaccepted;
    }
    let waiting = waiting(ring);
    let stands = at.saturating_sub(still.since);
    let long = still.samples >= STALL_SAMPLES && stands >= STALL_TIME;
    let sender_goes_on = ring.sent > still.sent_then || ring.sender_waits;
    if long && waiting > ring.untold && sender_goes_on {
        return RingState::Stalled(stands);
    }
    match (still.moved, waiting) {
        (true, _) => RingState::Moving,
        (false, 0) => RingState::Idle,
        (false, _) => RingState::Held(stands),
    }
}
