//! Goals 9, 10 and 11: what waiting costs, and how rarely it has to ring.

use super::Bench;
use super::Measured;
use super::place;
use super::place::failed;
use crate::BenchError;
use crate::base::eventfd::Eventfds;
use crate::goal::GoalSpec;
use crate::harness::clock;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::EventFd;
use hv_shmem::mem::HeapMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingLayout;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waited;
use hv_shmem::wait::Waiter;
use std::time::Duration;

/// Longest wait for the other side before a sample fails.
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(5));

/// One direction of a conversation: a ring, and the eventfd that its receiver
/// hears.
struct Line {
    tx: Alone<InlineSender<HeapMem>>,
    rings: EventFd,
    rx: Alone<InlineReceiver<HeapMem>>,
    hears: EventFd,
}

impl Line {
    fn open() -> Result<Self, BenchError> {
        let at = place::fresh(RingLayout::Inline, 64, 64)?;
        let hears = EventFd::new().map_err(failed)?;
        Ok(Self {
            tx: Alone(InlineSender::new(at.clone()).map_err(failed)?),
            rings: hears.try_clone().map_err(failed)?,
            rx: Alone(InlineReceiver::new(at).map_err(failed)?),
            hears,
        })
    }
}

/// The sending end of a [`Line`].
struct Mouth<'a>(&'a mut InlineSender<HeapMem>, &'a EventFd);
/// The receiving end of a [`Line`].
struct Ear<'a>(&'a mut InlineReceiver<HeapMem>, &'a EventFd);

impl Mouth<'_> {
    /// Sends, and rings when the receiver sleeps.
    #[inline]
    fn say(&mut self, word: u64) -> Result<(), BenchError> {
        self.0.try_send(&word.to_le_bytes()).map_err(failed)?;
        if self.0.flush().must_ring {
            self.1.ring().map_err(failed)?;
        }
        Ok(())
    }
}

impl Ear<'_> {
    /// Waits the way `waiter` does.
    #[inline]
    fn hear(
        &mut self,
        waiter: &mut Waiter<MonotonicClock>,
        timeout: Option<Duration>,
    ) -> Result<u64, BenchError> {
        let mut word = [0; 8];
        while self.0.try_recv(&mut word).map_err(failed)?.is_none() {
            let waited = waiter.wait(self.0, self.1, timeout).map_err(failed)?;
            if waited == Waited::TimedOut {
                return Err(BenchError::Stuck("a message behind a doorbell"));
            }
        }
        Ok(u64::from_le_bytes(word))
    }
}

/// Goal 10: both sides wait adaptively (poll, arm, look again, sleep); the other
/// side is busy for up to 5 us before each answer, which is not counted.
pub(super) fn poll_then_block(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const TRIPS: usize = 4_000;
    let pair = bench.pair;
    let (mut there, mut back) = (Line::open()?, Line::open()?);
    let portal = Contender::new("Portal, adaptive", move || {
        let (mut mouth, mut ear) = (
            Mouth(&mut there.tx, &there.rings),
            Ear(&mut back.rx, &back.hears),
        );
        let (mut far_ear, mut far_mouth) = (
            Ear(&mut there.rx, &there.hears),
            Mouth(&mut back.tx, &back.rings),
        );
        let (trips, (), preempted) = pair.run(
            move |start| {
                let mut waiter = Waiter::new(WaitMode::Adaptive, MonotonicClock::new());
                let mut singles = rtt::empty();
                start.wait()?;
                for number in 0..TRIPS as u64 {
                    let begun = clock::ticks();
                    mouth.say(number)?;
                    let busy = ear.hear(&mut waiter, TIMEOUT)?;
                    let all = clock::ticks() - begun;
                    singles.saturating_record(all.saturating_sub(busy));
                }
                let ns = clock::to_ns(singles.value_at_quantile(0.5));
                Ok(rtt::Trips { ns, singles })
            },
            move |start| {
                let mut waiter = Waiter::new(WaitMode::Adaptive, MonotonicClock::new());
                let longest = (5_000.0 * clock::ticks_per_ns()) as u64;
                let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
                start.wait()?;
                for _ in 0..TRIPS {
                    far_ear.hear(&mut waiter, TIMEOUT)?;
                    let begun = clock::ticks();
                    // A xorshift generator: which delay comes is of no weight.
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    let until = begun + noise % longest;
                    let mut now = clock::ticks();
                    while now < until {
                        now = clock::ticks();
                    }
                    far_mouth.say(now - begun)?;
                }
                Ok(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    });
    bench.contest(spec, Against::C2, 1, vec![portal])
}

/// Goal 11: both sides sleep at once, as the bare eventfds do.
pub(super) fn blocking(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    /// Some 100 us each.
    const BATCHES: usize = 24;
    const SINGLES: usize = 96;
    let pair = bench.pair;
    let (mut there, mut back) = (Line::open()?, Line::open()?);
    let portal = Contender::new("Portal, sleeping", move || {
        let (mut mouth, mut ear) = (
            Mouth(&mut there.tx, &there.rings),
            Ear(&mut back.rx, &back.hears),
        );
        let (mut far_ear, mut far_mouth) = (
            Ear(&mut there.rx, &there.hears),
            Mouth(&mut back.tx, &back.rings),
        );
        let (trips, (), preempted) = pair.run(
            move |start| {
                let mut waiter = Waiter::new(WaitMode::Sleep, MonotonicClock::new());
                start.wait()?;
                rtt::time(BATCHES, SINGLES, || {
                    mouth.say(1)?;
                    ear.hear(&mut waiter, None).map(|_| ())
                })
            },
            move |start| {
                let mut waiter = Waiter::new(WaitMode::Sleep, MonotonicClock::new());
                start.wait()?;
                for _ in 0..rtt::total(BATCHES, SINGLES) {
                    let word = far_ear.hear(&mut waiter, None)?;
                    far_mouth.say(word)?;
                }
                Ok(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    });
    let eventfds = Eventfds::open()?;
    let bare = Contender::new("raw eventfd", move || {
        eventfds.sample(&pair, BATCHES, SINGLES)
    });
    bench.contest(spec, Against::Contender(1), 2, vec![portal, bare])
}

/// Goal 9: messages as fast as they go, in batches, to a receiver that sleeps
/// whenever spinning does not pay; how often had the sender to ring?
pub(super) fn saturated(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const COUNT: u64 = 2_000_000;
    const BATCH: usize = 32;
    let rate = |pair: Pair, batch: usize| -> Result<Contender<'static>, BenchError> {
        let at = place::fresh(RingLayout::Bulk, 64, 1024)?;
        let mut tx = Alone(BulkSender::new(at.clone()).map_err(failed)?);
        let mut rx = Alone(BulkReceiver::new(at).map_err(failed)?);
        let (data, space) = (
            EventFd::new().map_err(failed)?,
            EventFd::new().map_err(failed)?,
        );
        let name = format!("Portal, adaptive, batches of {batch}");
        Ok(Contender::new(name, move || {
            let (tx, rx, data, space) = (&mut *tx, &mut *rx, &data, &space);
            let (rung, answered, preempted) = pair.run(
                move |start| send_and_count(start, tx, data, space, COUNT, batch),
                move |start| {
                    let mut waiter = Waiter::new(WaitMode::Adaptive, MonotonicClock::new());
                    let (mut got, mut rung) = (0, 0);
                    let mut bytes = [0; 64 * BATCH];
                    start.wait()?;
                    while got < COUNT {
                        let came = rx.pop_batch(&mut bytes).map_err(failed)?;
                        got += came as u64;
                        if came > 0 && rx.flush().must_ring {
                            space.ring().map_err(failed)?;
                            rung += 1;
                        }
                        if came == 0
                            && waiter.wait(rx, data, TIMEOUT).map_err(failed)? == Waited::TimedOut
                        {
                            return Err(BenchError::Stuck("a saturated stream"));
                        }
                    }
                    Ok(rung)
                },
            )?;
            // Both directions count: "space is free" rings too.
            Ok(Sample::of(
                (rung + answered) as f64 / COUNT as f64,
                preempted,
            ))
        }))
    };
    let contenders = vec![rate(bench.pair, BATCH)?, rate(bench.pair, 1)?];
    bench.contest(spec, Against::Limit(1.0), 1, contenders)
}

fn send_and_count(
    start: &crate::harness::pair::Start,
    tx: &mut BulkSender<HeapMem>,
    data: &EventFd,
    space: &EventFd,
    count: u64,
    batch: usize,
) -> Result<u64, BenchError> {
    let mut waiter = Waiter::new(WaitMode::Adaptive, MonotonicClock::new());
    let mut patience = Patience::of("a saturated stream");
    let bytes = vec![7; 64 * batch];
    let (mut sent, mut rung) = (0, 0);
    start.wait()?;
    while sent < count {
        let wanted = (count - sent).min(batch as u64) as usize;
        let went = tx.push_batch(&bytes[..64 * wanted]).map_err(failed)?;
        sent += went as u64;
        if went > 0 && tx.flush().must_ring {
            data.ring().map_err(failed)?;
            rung += 1;
        }
        if went == 0 {
            patience.spin()?;
            if waiter.wait(tx, space, TIMEOUT).map_err(failed)? == Waited::TimedOut {
                return Err(BenchError::Stuck("space in a saturated stream"));
            }
        }
    }
    Ok(rung)
}
