//! Goal 109: what it costs a busy ring that somebody looks.
//!
//! The observer does what `portal top` does at each interval: it glances at the
//! region through a read-only mapping of its own and makes a picture of what has
//! changed. It runs on the two cores that the ring keeps busy, as it must on a
//! machine that has no third one.

use super::Bench;
use super::Measured;
use super::place::failed;
use super::shared::TwoPeers;
use super::stream;
use crate::BenchError;
use crate::goal::GoalSpec;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Alone;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use portal_observe::model::Model;
use portal_observe::source::FileSource;
use portal_observe::source::Source;
use std::cell::RefCell;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

/// Size of the region in bytes: two sections with room for the ring.
const REGION_BYTES: u64 = 4 << 20;
/// Number of the ring.
const RING: u32 = 1;
/// Between two looks. `portal top` waits for a second; a sample does not last so
/// long, and what a look costs shows better.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a sample is to last.
const SAMPLE: Duration = Duration::from_millis(125);
/// Messages from which the rate is taken that says how many make a sample.
const TRIAL: u64 = 1 << 20;

/// A message of a whole line.
type Message = [u64; 8];

struct Ends {
    tx: Alone<BulkSender<MappedMem>>,
    rx: Alone<BulkReceiver<MappedMem>>,
    // What the ends lie in.
    _sections: [OwnSection<MappedMem>; 2],
}

fn join(shared: &TwoPeers, me: PeerId) -> Result<OwnSection<MappedMem>, BenchError> {
    let region = shared.attach()?;
    let epoch = region.peer(me).map_err(failed)?.epoch;
    let config = SectionConfig {
        directory: 4,
        ring_bytes: 512 << 10,
    };
    region.join(me, epoch, config).map_err(failed)
}

fn ends(shared: &TwoPeers) -> Result<Ends, BenchError> {
    let [from, to] = TwoPeers::PEERS;
    let (mut sending, mut receiving) = (join(shared, from)?, join(shared, to)?);
    let spec = RingSpec {
        id: RING,
        to,
        kind: RingKind::Stream,
        layout: RingLayout::Bulk,
        slot_size: size_of::<Message>() as u32,
        slots: stream::SLOTS,
    };
    let mut tx = BulkSender::new(sending.create_ring(spec).map_err(failed)?).map_err(failed)?;
    let rx = receiving.accept_ring(from, RING).map_err(failed)?;
    let rx = BulkReceiver::new(rx).map_err(failed)?;
    let cursor = sending.cursor(to, RING).map_err(failed)?;
    let cursor = cursor.ok_or_else(|| BenchError::Broken("the ring was not accepted".into()))?;
    tx.set_cursor(cursor).map_err(failed)?;
    Ok(Ends {
        tx: Alone(tx),
        rx: Alone(rx),
        _sections: [sending, receiving],
    })
}

/// Does `work` while somebody looks; gives how long each look took too.
fn looked_at<T: Send>(
    shared: &TwoPeers,
    work: impl FnOnce() -> Result<T, BenchError>,
) -> Result<(T, Vec<Duration>), BenchError> {
    let mut source = FileSource::open(shared.path()).map_err(failed)?;
    let mut model = Model::new();
    model.take(source.sample().map_err(failed)?);
    let (done, over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let observer = scope.spawn(move || {
            let mut looks = Vec::new();
            while over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let begun = Instant::now();
                let picture = model.take(source.sample().map_err(failed)?);
                looks.push(begun.elapsed());
                if picture.rings.is_empty() {
                    return Err(BenchError::Broken("the observer saw no ring".into()));
                }
            }
            Ok(looks)
        });
        let worked = work();
        drop(done);
        let looks = observer
            .join()
            .map_err(|_| BenchError::Broken("the observer panicked".into()))??;
        Ok((worked?, looks))
    })
}

/// Goal 109.
pub(super) fn stream(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let pair = bench.pair;
    let shared = TwoPeers::create(REGION_BYTES, ["sender", "receiver"])?;
    let ends = RefCell::new(ends(&shared)?);
    let run = |count| {
        let Ends { tx, rx, .. } = &mut *ends.borrow_mut();
        stream::singly::<Message, _>(&pair, count, tx, rx)
    };
    // Millions of messages a second are messages a microsecond.
    let count = (run(TRIAL)?.value * SAMPLE.as_micros() as f64) as u64;
    let count = count.max(TRIAL);
    let looks = RefCell::new(Vec::new());
    let observed = Contender::new("looked at", || {
        let (sample, seen) = looked_at(&shared, || run(count))?;
        looks.borrow_mut().extend(seen);
        Ok::<Sample, _>(sample)
    });
    let alone = Contender::new("nobody looking", || run(count));
    let mut measured = bench.contest(spec, Against::Contender(1), 2, vec![observed, alone])?;
    let mut looks = looks.into_inner();
    looks.sort();
    let Some(typical) = looks.get(looks.len() / 2) else {
        return Err(BenchError::Broken("nobody looked".into()));
    };
    measured.goal.notes.push(format!(
        "{} looks, one every {} ms; the median took {:.0} us, on one of the two cores",
        looks.len(),
        INTERVAL.as_millis(),
        typical.as_secs_f64() * 1e6
    ));
    Ok(measured)
}
