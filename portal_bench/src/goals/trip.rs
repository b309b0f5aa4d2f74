//! Goals 5, 6, 17 and 18: a message and its answer, two threads of this process.

use super::Bench;
use super::Measured;
use super::place;
use super::place::failed;
use super::process;
use crate::BenchError;
use crate::base::socket;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use hv_shmem::mem::HeapMem;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingLayout;
use hv_shmem::wait;

/// A sample of polling round trips: 32,000 for the figure, 10 ms.
const BATCHES: usize = 2_000;
/// Round trips timed one by one, for the distribution.
const SINGLES: usize = 2_000;

/// The same where each round trip sleeps twice (some 100 us each).
const BLOCKING_BATCHES: usize = 16;
const BLOCKING_SINGLES: usize = 64;

/// Slots of the in-line rings: a round trip uses one at a time.
const SLOTS: u32 = 64;

/// Slots of the in-place ring: one call at a time, always in the same line.
const CALLS: u32 = 1;

/// Payload of one line with its sequence word.
const LINE: usize = 56;

type Inline = (Alone<InlineSender<HeapMem>>, Alone<InlineReceiver<HeapMem>>);

fn ring() -> Result<Inline, BenchError> {
    let at = place::fresh(RingLayout::Inline, 64, SLOTS)?;
    Ok((
        Alone(InlineSender::new(at.clone()).map_err(failed)?),
        Alone(InlineReceiver::new(at).map_err(failed)?),
    ))
}

/// Round trips of `PAYLOAD` bytes over two in-line rings, both sides polling.
fn polled<const PAYLOAD: usize>(pair: Pair) -> Result<Contender<'static>, BenchError> {
    let (mut there, mut asked) = ring()?;
    let (mut answer, mut answered) = ring()?;
    let name = format!("Portal in-line ring, {PAYLOAD} B");
    Ok(Contender::new(name, move || {
        let (there, asked) = (&mut *there, &mut *asked);
        let (answer, answered) = (&mut *answer, &mut *answered);
        let (trips, (), preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("the ring's answer");
                let (sent, mut got) = ([7; PAYLOAD], [0; PAYLOAD]);
                start.wait()?;
                let trips = rtt::time(BATCHES, SINGLES, || {
                    there.try_send(&sent).map_err(failed)?;
                    while answered.try_recv(&mut got).map_err(failed)?.is_none() {
                        patience.spin()?;
                    }
                    Ok(())
                })?;
                whole(&sent, &got)?;
                Ok(trips)
            },
            move |start| {
                let mut patience = Patience::of("the ring's request");
                let mut message = [0; PAYLOAD];
                start.wait()?;
                for _ in 0..rtt::total(BATCHES, SINGLES) {
                    while asked.try_recv(&mut message).map_err(failed)?.is_none() {
                        patience.spin()?;
                    }
                    answer.try_send(&message).map_err(failed)?;
                }
                Ok(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    }))
}

fn whole(sent: &[u8], got: &[u8]) -> Result<(), BenchError> {
    if sent == got {
        return Ok(());
    }
    Err(BenchError::Broken("the answer is not what was sent".into()))
}

/// Goal 5.
pub(super) fn inline(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let mut contenders = vec![polled::<LINE>(bench.pair)?, polled::<8>(bench.pair)?];
    contenders.push(process::contender(bench.pair, BATCHES, SINGLES)?);
    #[cfg(feature = "peers")]
    contenders.push(crate::peers::queues::rtrb_trips(
        bench.pair, BATCHES, SINGLES,
    ));
    bench.contest(spec, Against::C2, 1, contenders)
}

/// Goal 6: the answer overwrites the request in its own line.
///
/// Both sides look at one line, so that each look takes it away from the side
/// that writes. How long to wait before the first look and between two looks
/// depends on how far apart the cores are; a short trial before each sample finds
/// out.
pub(super) fn in_place(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    const TRIAL: usize = 100;
    let pair = bench.pair;
    let at = place::fresh(RingLayout::InPlace, 64, CALLS)?;
    let mut caller = Alone(InPlaceCaller::new(at.clone()).map_err(failed)?);
    let mut server = Alone(InPlaceServer::new(at).map_err(failed)?);
    let portal = Contender::new("Portal in-place ring", move || {
        let mut best = (f64::INFINITY, PACES[0]);
        for pace in PACES {
            let ns = calls(pair, &mut caller, &mut server, pace, (TRIAL, 0))?.value;
            if ns < best.0 {
                best = (ns, pace);
            }
        }
        calls(pair, &mut caller, &mut server, best.1, (BATCHES, SINGLES))
    });
    bench.contest(spec, Against::C2, 1, vec![portal])
}

/// How a side of goal 6 waits.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Steps of rest between writing and the first look.
    rest: u32,
    /// Spin hints between two looks.
    hints: u32,
}

/// What goal 6 tries.
const PACES: [Pace; 5] = [
    Pace { rest: 0, hints: 1 },
    Pace { rest: 8, hints: 1 },
    Pace { rest: 16, hints: 1 },
    Pace { rest: 24, hints: 1 },
    Pace { rest: 0, hints: 2 },
];

/// Calls answered in place.
fn calls(
    pair: Pair,
    caller: &mut InPlaceCaller<HeapMem>,
    server: &mut InPlaceServer<HeapMem>,
    Pace { rest, hints }: Pace,
    (batches, singles): (usize, usize),
) -> Result<Sample, BenchError> {
    let (trips, (), preempted) = pair.run(
        move |start| {
            let mut patience = Patience::of("the upcall's answer");
            let (sent, mut got) = ([7; LINE], [0; LINE]);
            start.wait()?;
            let trips = rtt::time(batches, singles, || {
                caller.try_call(&sent).map_err(failed)?;
                wait::rest(rest);
                while caller.poll_answer(&mut got).map_err(failed)?.is_none() {
                    for _ in 0..hints {
                        patience.spin()?;
                    }
                }
                Ok(())
            })?;
            whole(&sent, &got)?;
            Ok(trips)
        },
        move |start| {
            let mut patience = Patience::of("the upcall");
            let mut message = [0; LINE];
            start.wait()?;
            for _ in 0..rtt::total(batches, singles) {
                while server.try_recv(&mut message).map_err(failed)?.is_none() {
                    for _ in 0..hints {
                        patience.spin()?;
                    }
                }
                server.answer(&message).map_err(failed)?;
                wait::rest(rest);
            }
            Ok(())
        },
    )?;
    Ok(Sample::trips(trips, preempted))
}

/// Goal 17: half the round trip of 8 bytes, as iceoryx2 counts it.
pub(super) fn one_way(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let mut trips = polled::<8>(bench.pair)?;
    let portal = Contender::new("Portal in-line ring", move || {
        let sample = trips.sample()?;
        Ok(Sample {
            value: sample.value / 2.0,
            ..sample
        })
    });
    #[cfg(not(feature = "peers"))]
    {
        drop(portal);
        Err(super::needs_peers(spec))
    }
    #[cfg(feature = "peers")]
    {
        let peer = crate::peers::iceoryx::one_way(bench.pair, BATCHES, SINGLES);
        bench.contest(spec, Against::Contender(1), 2, vec![portal, peer])
    }
}

/// Goal 18.
pub(super) fn against_socket(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let pair = bench.pair;
    let portal = polled::<LINE>(pair)?;
    let socket = Contender::new("Unix stream socket", move || {
        socket::sample(&pair, LINE, BLOCKING_BATCHES, BLOCKING_SINGLES)
    });
    bench.contest(spec, Against::Contender(1), 2, vec![portal, socket])
}
