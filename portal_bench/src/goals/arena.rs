//! Goals 15 and 16: what a small span costs to allocate and free.

use super::Bench;
use super::Measured;
use super::place;
use super::place::failed;
use crate::BenchError;
use crate::base::arena::Tally;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::peers::allocator;
use hv_shmem::arena::Arena;
use hv_shmem::arena::Magazine;
use hv_shmem::arena::PageState;
use hv_shmem::arena::RETURN_SLOT;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::arena::ReturnSender;
use hv_shmem::mem::HeapMem;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SPAN_BYTES;

/// Bytes of a span.
const SIZE: u64 = 64;
/// Pairs of operations a sample.
const COUNT: u64 = 500_000;
/// Slots of the rings that carry spans there and back.
const SLOTS: u32 = 1024;
/// Bytes of the arena: what the other allocator's pool has.
const ARENA_BYTES: u64 = 4 << 20;
/// Spans allocated between two looks at what came home.
const LOOK_EVERY: u64 = 32;

/// A fresh arena in memory of its own.
fn arena() -> Result<Arena<HeapMem, Box<[PageState]>>, BenchError> {
    Arena::format_boxed(place::arena_place(ARENA_BYTES)).map_err(failed)
}

/// Goal 15.
pub(super) fn same_core(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let pair = bench.pair;
    let arena = arena()?;
    let portal = |name, zeroed: bool| {
        let mut magazine = Magazine::new(&arena);
        Contender::new(name, move || {
            let magazine = &mut magazine;
            let (ns, preempted) = pair.alone(move || {
                let tally = Tally::begin(COUNT);
                for _ in 0..COUNT {
                    let span = match zeroed {
                        true => magazine.alloc(SIZE),
                        false => magazine.alloc_unfilled(SIZE),
                    };
                    let span = std::hint::black_box(span.map_err(failed)?);
                    magazine.free(&span).map_err(failed)?;
                }
                Ok(tally.ns_each())
            })?;
            Ok(Sample::of(ns, preempted))
        })
    };
    let contenders = vec![
        portal("Portal arena, zeroed", true),
        allocator::same_core(pair, SIZE as usize, COUNT),
        portal("Portal arena, unfilled", false),
    ];
    bench.contest(spec, Against::Contender(1), 2, contenders)
}

/// Goal 16.
pub(super) fn across(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let portal = lend_and_return(bench.pair)?;
    let other = allocator::across(bench.pair, SIZE as usize, SLOTS as usize, COUNT);
    bench.contest(spec, Against::Contender(1), 2, vec![portal, other])
}

/// The first core allocates, lends and sends; the second gives back; the first
/// takes back, in batches. Nanoseconds a span.
fn lend_and_return(pair: Pair) -> Result<Contender<'static>, BenchError> {
    let arena = Alone(arena()?);
    let spans = place::fresh(RingLayout::Bulk, SPAN_BYTES as u32, SLOTS)?;
    let home = place::fresh(RingLayout::Bulk, RETURN_SLOT, SLOTS)?;
    let mut tx = Alone(BulkSender::new(spans.clone()).map_err(failed)?);
    let mut rx = Alone(BulkReceiver::new(spans).map_err(failed)?);
    let mut back = Alone(ReturnSender::new(home.clone(), place::OWNER).map_err(failed)?);
    let mut returns = Alone(ReturnReceiver::new(home, place::RECEIVER).map_err(failed)?);
    Ok(Contender::new("Portal arena", move || {
        let (arena, tx, rx) = (&*arena, &mut *tx, &mut *rx);
        let (back, returns) = (&mut *back, &mut *returns);
        let (home, ns, preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("space for a span");
                let mut magazine = Magazine::new(arena);
                let mut home = 0;
                start.wait()?;
                for number in 1..=COUNT {
                    let span = magazine.alloc(SIZE).map_err(failed)?;
                    arena.grant(&span, place::RECEIVER).map_err(failed)?;
                    let bytes = span.to_bytes();
                    loop {
                        match tx.stage(&bytes) {
                            Ok(()) => break,
                            Err(SendError::Full) => {
                                home += magazine.take_returns(returns).map_err(failed)?.spans;
                                patience.spin()?;
                            }
                            Err(e) => return Err(failed(e)),
                        }
                    }
                    if number % LOOK_EVERY == 0 {
                        tx.publish();
                        home += magazine.take_returns(returns).map_err(failed)?.spans;
                    }
                }
                tx.publish();
                while home < COUNT {
                    home += magazine.take_returns(returns).map_err(failed)?.spans;
                    patience.spin()?;
                }
                Ok(home)
            },
            move |start| {
                let mut patience = Patience::of("a span");
                let mut bytes = [0; SPAN_BYTES];
                start.wait()?;
                let tally = Tally::begin(COUNT);
                for _ in 0..COUNT {
                    while rx.try_recv(&mut bytes).map_err(failed)?.is_none() {
                        patience.spin()?;
                    }
                    let span = PortalSpan::from_bytes(&bytes);
                    while let Err(e) = back.give_back(&span) {
                        if !matches!(e, hv_shmem::arena::ReturnError::Ring(SendError::Full)) {
                            return Err(failed(e));
                        }
                        patience.spin()?;
                    }
                }
                // The last, incomplete batch; the owner polls.
                let _ = back.flush();
                Ok(tally.ns_each())
            },
        )?;
        if home != COUNT {
            return Err(BenchError::Broken(format!(
                "{home} of {COUNT} spans came home"
            )));
        }
        Ok(Sample::of(ns, preempted))
    }))
}
