//! Goal 14: handing over a span costs the same whatever its length.

use super::Bench;
use super::Measured;
use super::place;
use super::place::failed;
use crate::BenchError;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use hv_shmem::arena::Arena;
use hv_shmem::arena::ArenaView;
use hv_shmem::mem::SharedMem;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteReceiver;
use hv_shmem::ring::CompleteSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;

/// Spans in turn, so that none is handed over twice in a row.
const SPANS: usize = 8;
/// Round trips a sample: 16,000 for the figure.
const BATCHES: usize = 1_000;
const SINGLES: usize = 1_000;
/// Slots of the rings.
const SLOTS: u32 = 64;

/// Goal 14.
pub(super) fn handover(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let long = handing_over(bench.pair, "Portal span, 1 MiB", 1 << 20)?;
    let short = handing_over(bench.pair, "Portal span, 64 B", 64)?;
    bench.contest(spec, Against::Contender(1), 2, vec![long, short])
}

fn of<M>(kind: RingKind, at: RingPlace<M>) -> RingPlace<M> {
    RingPlace { kind, ..at }
}

/// The owner submits a lent span; the receiver resolves it (bounds, rights,
/// epoch, generation), reads its first word and answers with that. Nanoseconds
/// from submission to answer.
fn handing_over(pair: Pair, name: &str, len: u64) -> Result<Contender<'static>, BenchError> {
    let place = place::arena_place((2 * SPANS as u64 * len).max(1 << 20));
    let arena = Arena::format_boxed(place.clone()).map_err(failed)?;
    let view = ArenaView::new(place).map_err(failed)?;
    let mut spans = [PortalSpan::NONE; SPANS];
    for (number, span) in (0u64..).zip(&mut spans) {
        *span = arena.alloc(len).map_err(failed)?;
        let bytes = arena.view(span).map_err(failed)?;
        bytes.write(0, &number.to_le_bytes()).map_err(failed)?;
        arena.grant(span, place::RECEIVER).map_err(failed)?;
    }
    let requests = of(
        RingKind::Submit,
        place::fresh(RingLayout::Inline, 64, SLOTS)?,
    );
    let answers = of(
        RingKind::Complete,
        place::fresh(RingLayout::Inline, 64, SLOTS)?,
    );
    let mut submit = Alone(SubmitSender::new(requests.clone()).map_err(failed)?);
    let mut submitted = Alone(SubmitReceiver::new(requests).map_err(failed)?);
    let mut complete = Alone(CompleteSender::new(answers.clone()).map_err(failed)?);
    let mut completed = Alone(CompleteReceiver::new(answers).map_err(failed)?);
    Ok(Contender::new(name, move || {
        let (submit, completed) = (&mut *submit, &mut *completed);
        let (submitted, complete, view) = (&mut *submitted, &mut *complete, &view);
        let (trips, (), preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("the answer to a span");
                let mut turn = 0;
                start.wait()?;
                rtt::time(BATCHES, SINGLES, || {
                    let number = turn % SPANS;
                    turn += 1;
                    let request = SubmitEntry {
                        span: spans[number],
                        ..Default::default()
                    };
                    submit.try_send(&request).map_err(failed)?;
                    let answer = loop {
                        match completed.try_recv().map_err(failed)? {
                            Some(answer) => break answer,
                            None => patience.spin()?,
                        }
                    };
                    if answer.result != number as u64 {
                        return Err(BenchError::Broken("the span held another word".into()));
                    }
                    Ok(())
                })
            },
            move |start| {
                let mut patience = Patience::of("a span");
                start.wait()?;
                for _ in 0..rtt::total(BATCHES, SINGLES) {
                    let request = loop {
                        match submitted.try_recv().map_err(failed)? {
                            Some(request) => break request,
                            None => patience.spin()?,
                        }
                    };
                    let bytes = view
                        .resolve(&request.span, place::RECEIVER, Access::Read)
                        .map_err(failed)?;
                    let answer = CompleteEntry {
                        result: bytes.mem().load_u64(0, hv_shmem::mem::Ordering::Relaxed),
                        ..Default::default()
                    };
                    complete.try_send(&answer).map_err(failed)?;
                }
                Ok(())
            },
        )?;
        Ok(Sample::trips(trips, preempted))
    }))
}
