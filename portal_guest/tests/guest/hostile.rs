//! Agents against a peer that breaks every rule: each job ends with a status that
//! says so, and the agent serves on.
//!
//! Holds "a violation poisons that ring with a typed error for this peer; it never
//! panics, spins without bound, or reads outside the mapping" (`DESIGN.md`) for
//! the code that runs inside a partition (T2 and T4 of `TRUST.md`).

use crate::pair::PATIENCE;
use crate::pair::Pair;
use crate::pair::Plan;
use crate::pair::hypervisor;
use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::RETURN_RING;
use hv_shmem::arena::RETURN_SLOT;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RingError;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::PortalSpan;
use portal_agent_abi::Command;
use portal_agent_abi::PING_RING;
use portal_agent_abi::STREAM_RING;
use portal_agent_abi::Status;
use portal_agent_abi::command::Drain;
use portal_agent_abi::command::Fill;
use portal_agent_abi::command::Listen;
use portal_agent_abi::stream;
use portal_host::HostError;
use std::time::Duration;
use std::time::Instant;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const MALLORY: PeerId = PeerId(3);
/// Long enough for an honest step, short enough for a test.
const IDLE: Duration = Duration::from_millis(300);

/// A host process that joined the region and does as it likes in its section.
struct Mallory {
    own: OwnSection<MappedMem>,
    arena: BoxedArena<MappedMem>,
}

impl Mallory {
    fn join(pair: &mut Pair) -> Self {
        let name = Name::new("mallory").unwrap();
        let epoch = pair
            .pages
            .admit(MALLORY, name, PeerKind::HostProcess, Rights::ALL, 0)
            .unwrap();
        let mem = pair.region.mapping().mem();
        let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
        let config = SectionConfig {
            directory: 64,
            ring_bytes: 256 << 10,
        };
        let mut own = region.join(MALLORY, epoch, config).unwrap();
        let arena = own.arena().unwrap();
        Self { own, arena }
    }

    fn ring(&mut self, to: PeerId, id: u32, kind: RingKind, slots: u32) -> RingPlace<MappedMem> {
        let spec = RingSpec {
            id,
            to,
            kind,
            layout: RingLayout::Inline,
            slot_size: 64,
            slots,
        };
        self.own.create_ring(spec).unwrap()
    }

    fn accept(&mut self, from: PeerId, id: u32) -> RingPlace<MappedMem> {
        let begin = Instant::now();
        loop {
            match self.own.accept_ring(from, id) {
                Ok(place) => return place,
                Err(
                    RingError::NotThere { .. } | RingError::Accepted { .. } | RingError::Region(_),
                ) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(begin.elapsed() < PATIENCE, "no ring {id} from {from}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn span(&self, len: u64, to: PeerId) -> PortalSpan {
        let span = self.arena.alloc(len).unwrap();
        self.arena.grant(&span, to).unwrap();
        span
    }
}

/// What the agent answers; then a `Nop` to see that it serves on.
fn status(pair: &mut Pair, agent: PeerId) -> Status {
    let status = match pair.host.answer(agent, PATIENCE) {
        Ok(_) => Status::Done,
        Err(HostError::Command {
            status: Ok(status), ..
        }) => status,
        Err(error) => panic!("{error}\n{}", pair.story()),
    };
    pair.host.send(agent, &Command::Nop, IDLE).unwrap();
    if let Err(error) = pair.host.answer(agent, PATIENCE) {
        panic!("after {status:?}: {error}\n{}", pair.story());
    }
    status
}

/// Has B take a stream from Mallory, who sends `entries`; gives B's answer.
fn sink(pair: &mut Pair, mallory: &mut Mallory, entries: &[SubmitEntry]) -> Status {
    let place = mallory.ring(B, STREAM_RING, RingKind::Submit, 64);
    let mut sender = SubmitSender::new(place).unwrap();
    let command = Command::Sink {
        from: MALLORY,
        drain: Drain::Hash,
    };
    pair.host.send(B, &command, IDLE).unwrap();
    for entry in entries {
        sender.try_send(entry).unwrap();
    }
    let _ = sender.flush();
    let _ = mallory.own.accept_return_ring(B);
    let status = status(pair, B);
    mallory.own.close_ring(B, STREAM_RING);
    status
}

#[test]
fn a_sink_refuses_what_does_not_check_out() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let mut mallory = Mallory::join(&mut pair);
    let good = mallory.span(4096, B);
    let freed = {
        let span = mallory.span(4096, B);
        mallory.arena.revoke(&span).unwrap();
        span
    };
    let kept = mallory.arena.alloc(4096).unwrap();
    let spans = [
        (
            "past the section",
            PortalSpan {
                offset: 1 << 40,
                ..good
            },
        ),
        (
            "length that wraps",
            PortalSpan {
                length: u64::MAX,
                ..good
            },
        ),
        (
            "longer than its block",
            PortalSpan {
                length: 1 << 20,
                ..good
            },
        ),
        (
            "inside a block",
            PortalSpan {
                offset: good.offset + 8,
                ..good
            },
        ),
        (
            "another generation",
            PortalSpan {
                generation: good.generation ^ 2,
                ..good
            },
        ),
        (
            "another epoch",
            PortalSpan {
                epoch: good.epoch + 1,
                ..good
            },
        ),
        (
            "another region",
            PortalSpan {
                region: !good.region,
                ..good
            },
        ),
        (
            "A's section",
            PortalSpan {
                section: A.0,
                ..good
            },
        ),
        (
            "B's own section",
            PortalSpan {
                section: B.0,
                ..good
            },
        ),
        (
            "a section of nobody",
            PortalSpan {
                section: 900,
                ..good
            },
        ),
        ("an unknown flag", PortalSpan { flags: 1, ..good }),
        ("freed", freed),
        ("not granted", kept),
        ("none", PortalSpan::NONE),
    ];
    for (what, span) in spans {
        let found = sink(&mut pair, &mut mallory, &[stream::data(0, span)]);
        assert_eq!(found, Status::Span, "{what}");
    }
    let entries = [
        ("a number that is not next", vec![stream::data(1, good)]),
        ("the same number twice", vec![stream::data(0, good); 2]),
        ("an end that counts wrong", vec![stream::end(0, 1)]),
        (
            "an unknown opcode",
            vec![SubmitEntry {
                opcode: 77,
                ..stream::end(0, 0)
            }],
        ),
    ];
    for (what, entries) in entries {
        // The first entry of "twice" is good and is given back: lend it again.
        let found = sink(&mut pair, &mut mallory, &entries);
        assert_eq!(found, Status::Violation, "{what}");
    }
    // The control: the same path with nothing wrong.
    let span = mallory.span(100, B);
    let entries = [stream::data(0, span), stream::end(1, 100)];
    assert_eq!(sink(&mut pair, &mut mallory, &entries), Status::Done);
}

#[test]
fn garbage_in_a_ring_poisons_it_and_nothing_else() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let mut mallory = Mallory::join(&mut pair);
    for garbage in [2_u64, 0x41, u64::MAX, 1 << 63] {
        let place = mallory.ring(B, STREAM_RING, RingKind::Submit, 64);
        let command = Command::Sink {
            from: MALLORY,
            drain: Drain::Count,
        };
        pair.host.send(B, &command, PATIENCE).unwrap();
        place.storage.store_u64(0, garbage, Ordering::Release);
        assert_eq!(status(&mut pair, B), Status::Violation, "{garbage:#x}");
    }
    // A ring of another kind under the stream's number.
    mallory.ring(B, STREAM_RING, RingKind::Stream, 64);
    let command = Command::Sink {
        from: MALLORY,
        drain: Drain::Count,
    };
    pair.host.send(B, &command, PATIENCE).unwrap();
    assert_eq!(status(&mut pair, B), Status::Region);
}

#[test]
fn a_source_refuses_returns_of_what_it_did_not_lend() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let mut mallory = Mallory::join(&mut pair);
    let order = Command::Source {
        to: MALLORY,
        fill: Fill::Pattern,
        span_bytes: 4096,
        window: 2,
        total: 1 << 20,
    };
    // What Mallory gives back for each span: nothing, something that was never
    // lent, the span twice, an index beyond the ring.
    for (what, expected) in [
        ("nothing", Status::TimedOut),
        ("never lent", Status::Violation),
        ("twice", Status::Violation),
        ("an index from nowhere", Status::Violation),
    ] {
        let place = mallory
            .own
            .create_ring(RingSpec {
                id: RETURN_RING,
                to: A,
                kind: RingKind::Return,
                layout: RingLayout::Bulk,
                slot_size: RETURN_SLOT,
                slots: 64,
            })
            .unwrap();
        let index = place.produced.clone();
        let mut returns = BulkSender::new(place).unwrap();
        pair.host.send(A, &order, IDLE).unwrap();
        let mut spans = SubmitReceiver::new(mallory.accept(A, STREAM_RING)).unwrap();
        let begin = Instant::now();
        let entry = loop {
            if let Some(entry) = spans.try_recv().unwrap() {
                break entry;
            }
            assert!(begin.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_micros(100));
        };
        let claim = (entry.span.offset / 64) | u64::from(entry.span.generation) << 32;
        match what {
            "never lent" => returns.try_send(&(claim + 640).to_le_bytes()).unwrap(),
            "twice" => {
                returns.try_send(&claim.to_le_bytes()).unwrap();
                returns.try_send(&claim.to_le_bytes()).unwrap();
            }
            "an index from nowhere" => index.store_u64(0, 1 << 40, Ordering::Release),
            _ => {}
        }
        assert_eq!(status(&mut pair, A), expected, "{what}");
        mallory.own.close_ring(A, RETURN_RING);
    }
    // Nothing of that is lost: the arena still holds what one stream needs.
    let sink = Command::Sink {
        from: A,
        drain: Drain::Hash,
    };
    let source = Command::Source {
        to: B,
        fill: Fill::Pattern,
        span_bytes: 1 << 20,
        window: 8,
        total: 32 << 20,
    };
    let (_, taken) = pair.host.pair((A, source), (B, sink), PATIENCE).unwrap();
    assert_eq!(taken.report.bytes, 32 << 20);
}

#[test]
fn a_pong_that_lies_is_told() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let mut mallory = Mallory::join(&mut pair);
    let place = mallory.ring(A, PING_RING, RingKind::Stream, 64);
    let mut sender = InlineSender::new(place).unwrap();
    let ping = Command::Ping {
        peer: MALLORY,
        rounds: 10,
    };
    pair.host.send(A, &ping, PATIENCE).unwrap();
    let _heard = InlineReceiver::new(mallory.accept(A, PING_RING)).unwrap();
    sender.try_send(&[0xEE; 56]).unwrap();
    assert_eq!(status(&mut pair, A), Status::Violation);
}

#[test]
fn commands_outside_their_limits_are_refused() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    for command in [
        Command::Ping { peer: B, rounds: 0 },
        Command::Source {
            to: B,
            fill: Fill::Pattern,
            span_bytes: 0,
            window: 1,
            total: 1,
        },
        Command::Source {
            to: B,
            fill: Fill::Pattern,
            span_bytes: 4096,
            window: 200,
            total: 1,
        },
        Command::DoorbellPing {
            peer: B,
            rounds: 0,
            listen: Listen::Halt,
        },
    ] {
        pair.host.send(A, &command, IDLE).unwrap();
        assert_eq!(status(&mut pair, A), Status::BadCommand, "{command:?}");
    }
}

#[test]
fn a_span_larger_than_the_arena_is_no_room() {
    let Some(hypervisor) = hypervisor() else {
        return;
    };
    let mut pair = Pair::start(&hypervisor, Plan::default());
    let sink = Command::Sink {
        from: A,
        drain: Drain::Count,
    };
    let source = Command::Source {
        to: B,
        fill: Fill::Nothing,
        span_bytes: 1 << 28,
        window: 1,
        total: 1 << 28,
    };
    pair.host.send(B, &sink, IDLE).unwrap();
    pair.host.send(A, &source, IDLE).unwrap();
    assert_eq!(status(&mut pair, A), Status::NoRoom);
    assert_eq!(status(&mut pair, B), Status::TimedOut);
}
