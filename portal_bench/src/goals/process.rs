//! Round trips between two host processes over a region: the baseline of goal
//! 7, and the child's side of it.
//!
//! The region is real (header, peer table, sections, directory); this process
//! is its host and peer 0, the child is peer 1.

use super::place::failed;
use super::shared::TwoPeers;
use crate::BenchError;
use crate::harness::child::Child;
use crate::harness::child::Job;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use hv_shmem::backing::Backing;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::View;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use std::path::Path;

/// Size of the region in bytes.
const REGION_BYTES: u64 = 1 << 20;
/// The parent.
const PARENT: PeerId = TwoPeers::PEERS[0];
/// The child.
const CHILD: PeerId = TwoPeers::PEERS[1];
/// Number of the ring in either direction.
const RING: u32 = 1;
/// Payload bytes of a message.
const PAYLOAD: usize = 56;

/// What both sides hold.
struct Ends {
    tx: InlineSender<MappedMem>,
    rx: InlineReceiver<MappedMem>,
    own: OwnSection<MappedMem>,
}

fn join(region: &PortalRegion<MappedMem>, me: PeerId) -> Result<OwnSection<MappedMem>, BenchError> {
    let epoch = region.peer(me).map_err(failed)?.epoch;
    let config = SectionConfig {
        directory: 4,
        ring_bytes: 64 << 10,
    };
    region.join(me, epoch, config).map_err(failed)
}

fn create(
    own: &mut OwnSection<MappedMem>,
    to: PeerId,
) -> Result<InlineSender<MappedMem>, BenchError> {
    let ring = own
        .create_ring(RingSpec {
            id: RING,
            to,
            kind: RingKind::Stream,
            layout: RingLayout::Inline,
            slot_size: 64,
            slots: 64,
        })
        .map_err(failed)?;
    InlineSender::new(ring).map_err(failed)
}

impl Ends {
    /// Gives the sender the other side's cursor, once that is there.
    fn pair_up(&mut self, to: PeerId) -> Result<(), BenchError> {
        if let Some(cursor) = self.own.cursor(to, RING).map_err(failed)? {
            self.tx.set_cursor(cursor).map_err(failed)?;
            return Ok(());
        }
        Err(BenchError::Broken(
            "the other process did not accept its ring".into(),
        ))
    }
}

/// The child's side.
pub(crate) struct Echo(Ends);

impl Echo {
    /// Attaches to the region in the file at `path`, and to the parent's ring.
    pub(crate) fn attach(path: &str) -> Result<Self, BenchError> {
        let backing = Backing::open_file(Path::new(path), OpenAs::Peer).map_err(failed)?;
        let mapping = backing.map(View::peer(CHILD)).map_err(failed)?;
        let region =
            PortalRegion::attach(mapping.mem(), AttachOptions::default()).map_err(failed)?;
        let mut own = join(&region, CHILD)?;
        let tx = create(&mut own, PARENT)?;
        let rx = own.accept_ring(PARENT, RING).map_err(failed)?;
        let rx = InlineReceiver::new(rx).map_err(failed)?;
        Ok(Self(Ends { tx, rx, own }))
    }

    /// Answers `count` messages.
    pub(crate) fn answer(&mut self, count: usize) -> Result<(), BenchError> {
        self.0.pair_up(PARENT)?;
        let mut patience = Patience::of("the parent's message");
        for _ in 0..count {
            let mut message = [0; PAYLOAD];
            while self.0.rx.try_recv(&mut message).map_err(failed)?.is_none() {
                patience.spin()?;
            }
            self.0.tx.try_send(&message).map_err(failed)?;
        }
        Ok(())
    }
}

/// Round trips to a second process, both polling.
pub(super) fn contender(
    pair: Pair,
    batches: usize,
    singles: usize,
) -> Result<Contender<'static>, BenchError> {
    let shared = TwoPeers::create(REGION_BYTES, ["parent", "child"])?;
    let mut own = join(&shared.attach()?, PARENT)?;
    let tx = create(&mut own, CHILD)?;
    let mut child = Child::start(&Job::Echo {
        core: pair.cores[1],
        region: shared.path().to_string_lossy().into(),
    })?;
    let rx = own.accept_ring(CHILD, RING).map_err(failed)?;
    let rx = InlineReceiver::new(rx).map_err(failed)?;
    let mut ends = Ends { tx, rx, own };
    ends.pair_up(CHILD)?;
    Ok(Contender::new("two host processes", move || {
        // All that the ends lie in lives as long as they do.
        let _ = &shared;
        let (ends, child) = (&mut ends, &mut child);
        let (trips, preempted) = pair.alone(move || {
            child.ask(rtt::total(batches, singles))?;
            let mut patience = Patience::of("the child's answer");
            let (mut round, mut sent) = (0u64, [0; PAYLOAD]);
            // Numbered and compared, as the agents of goal 7 do.
            let trips = rtt::time(batches, singles, || {
                sent[..8].copy_from_slice(&round.to_le_bytes());
                round += 1;
                ends.tx.try_send(&sent).map_err(failed)?;
                let mut got = [0; PAYLOAD];
                while ends.rx.try_recv(&mut got).map_err(failed)?.is_none() {
                    patience.spin()?;
                }
                if got != sent {
                    return Err(BenchError::Broken(
                        "the child answered something else".into(),
                    ));
                }
                Ok(())
            })?;
            child.done()?;
            Ok(trips)
        })?;
        Ok(Sample::trips(trips, preempted))
    }))
}

/// The same, each round trip timed by itself.
pub(super) fn each_timed(pair: Pair, rounds: usize) -> Result<Contender<'static>, BenchError> {
    let mut trips = contender(pair, 0, rounds)?;
    Ok(Contender::new("two host processes", move || {
        let sample = trips.sample()?;
        let singles = sample.singles.unwrap_or_else(rtt::empty);
        Ok(Sample::one_by_one(singles, sample.preempted))
    }))
}
