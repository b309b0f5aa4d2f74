//! TRUST.md, T4 (span forgery, stale generation): an arena, its owner and two
//! receivers against an interval model. Whatever is forged, replayed, returned
//! twice or by the wrong peer, no live span overlaps another, and nothing
//! resolves but what is lent to the peer that asks; also at the end of the
//! generations, which the run forces.
//!
//! Three settings: one mapping for all (nothing enforced), a sectioned memfd
//! whose receivers map the section read-only, and a flat one in which a hostile
//! peer writes into the section itself: then the owner's own records must still
//! hold, and nothing may lead outside the section.

mod harness;
mod model;
#[path = "harness/random.rs"]
mod random;

#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use model::Op;
use model::World;
use random::Random;

/// Bytes of the section: an arena of a dozen pages, so that blocks are used
/// again at once.
const SECTION: u64 = 64 << 10;
const WHAT: &str = "spans and returns forged, stale and repeated; generations run out";
const WHAT_READ_ONLY: &str = "the same, receivers map the section read-only";
const WHAT_SCRIBBLED: &str = "the same, a peer writes into the section";

/// Steps of one life of the arena, before and after its generations are nearly
/// used up.
const YOUTH: u64 = 1500;
const AGE: u64 = 2500;

/// Runs `cases` steps; says how many disagreements there were.
fn run<M: SharedMem, R: SharedMem>(world: &mut World<M, R>, cases: u64, scribbled: bool) -> u64 {
    let mut random = Random(harness::seed());
    let mut scribbler = Random(harness::seed() ^ 0xBAD);
    for case in 0..cases {
        let op = match case % (YOUTH + AGE) {
            0 => Op::Restart,
            YOUTH => Op::FastForward {
                left: random.below(4),
            },
            // Ever fewer lives are left.
            n if n > YOUTH && n % 97 == 0 => Op::FastForward { left: 2 },
            _ => Op::random(&mut random),
        };
        world.apply(op);
        if scribbled && scribbler.below(4) == 0 {
            world.scribble(&mut scribbler);
        }
    }
    world.failures
}

fn flat(cases: u64) -> u64 {
    let mem = HeapMem::new(SECTION);
    run(&mut World::new(mem.clone(), mem, false), cases, false)
}

#[cfg(target_os = "linux")]
fn read_only(cases: u64) -> u64 {
    use hv_shmem::backing::Backing;
    use hv_shmem::backing::BackingConfig;
    use hv_shmem::backing::Part;
    use hv_shmem::backing::View;
    use hv_shmem::layout::RegionSpec;
    use hv_shmem::name::Name;
    let spec = RegionSpec::new(Name::new("model").expect("short"), 1 << 20, 4).sectioned(true);
    let backing = Backing::create(&spec, &BackingConfig::default()).expect("memory");
    let section = backing.range(Part::Section(model::OWNER));
    let section = |view| {
        let mem = backing.map(view).expect("mapped").mem();
        mem.window(section.start, SECTION).expect("inside")
    };
    let own = section(View::peer(model::OWNER));
    let seen = section(View::peer(model::PEERS[0]));
    run(&mut World::new(own, seen, false), cases, false)
}

fn scribbled(cases: u64) -> u64 {
    let mem = HeapMem::new(SECTION);
    let mut world = World::new(mem.clone(), mem, true);
    let failures = run(&mut world, cases, true);
    assert!(world.taken > 0, "no return was ever taken");
    failures
}

mod whole {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t4_spans_of_one_mapping() {
        let cases = harness::cases(20_000);
        harness::report("T4", WHAT, None, cases, flat(cases));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn t4_spans_of_read_only_sections() {
        let cases = harness::cases(20_000);
        harness::report("T4", WHAT_READ_ONLY, None, cases, read_only(cases));
    }

    #[test]
    fn t4_a_section_that_a_peer_scribbles_into() {
        let cases = harness::cases(20_000);
        harness::report("T4", WHAT_SCRIBBLED, None, cases, scribbled(cases));
    }

    fn lengths() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..300, 0u64..5000, 0u64..30_000]
    }

    fn ops() -> impl Strategy<Value = Op> {
        let peer = 0usize..2;
        prop_oneof![
            8 => lengths().prop_map(|len| Op::Alloc { len }),
            3 => (lengths(), any::<u64>())
                .prop_map(|(len, n)| Op::Draft { len, filled: n % (len + 1) }),
            5 => any::<u64>().prop_map(|pick| Op::Free { pick }),
            1 => any::<u64>().prop_map(|pick| Op::FreeStale { pick }),
            6 => (any::<u64>(), peer.clone()).prop_map(|(pick, to)| Op::Grant { pick, to }),
            4 => (any::<u64>(), peer.clone()).prop_map(|(pick, by)| Op::Return { pick, by }),
            2 => (any::<u64>(), peer.clone()).prop_map(|(pick, by)| Op::ReturnStale { pick, by }),
            1 => (0u32..2000, 0u32..9, peer.clone())
                .prop_map(|(granule, generation, by)| Op::ReturnForged { granule, generation, by }),
            1 => any::<u64>().prop_map(|pick| Op::Revoke { pick }),
            1 => peer.clone().prop_map(|peer| Op::Reclaim { peer }),
            2 => (any::<u64>(), peer.clone()).prop_map(|(pick, by)| Op::Resolve { pick, by }),
            2 => (any::<u64>(), peer.clone()).prop_map(|(pick, by)| Op::ResolveStale { pick, by }),
            2 => (any::<u64>(), 0u8..8, any::<u64>(), 0u32..64, peer)
                .prop_map(|(pick, field, value, shift, by)| {
                    Op::ResolveForged { pick, field, value: value >> shift, by }
                }),
            1 => Just(Op::EmptyMagazine),
            1 => (0u64..4).prop_map(|left| Op::FastForward { left }),
            1 => Just(Op::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn any_sequence_agrees_with_the_model(ops in prop::collection::vec(ops(), 0..400)) {
            let mem = HeapMem::new(SECTION);
            let mut world = World::new(mem.clone(), mem, false);
            for op in ops {
                world.apply(op);
                prop_assert_eq!(world.failures, 0, "{:?}", op);
            }
        }
    }
}

/// Without the end of the generations, a span from before the wrap resolves.
#[cfg(feature = "negative_control")]
#[test]
fn control_t4_generation() {
    let cases = harness::cases(20_000);
    let guard = Some("retiring blocks whose generations have run out");
    let failures = without(Guard::Generation, || flat(cases));
    harness::report("T4", WHAT, guard, cases, failures);
}

/// Without the generation check, every freed span still resolves.
#[cfg(all(feature = "negative_control", target_os = "linux"))]
#[test]
fn control_t4_stale() {
    let cases = harness::cases(20_000);
    let guard = Some("generation check");
    let failures = without(Guard::Stale, || read_only(cases));
    harness::report("T4", WHAT_READ_ONLY, guard, cases, failures);
}

/// Without the check of claims, a return from the wrong hands is taken.
#[cfg(feature = "negative_control")]
#[test]
fn control_t4_returns() {
    let cases = harness::cases(20_000);
    let guard = Some("check of what is returned");
    let failures = without(Guard::Returns, || scribbled(cases));
    harness::report("T4", WHAT_SCRIBBLED, guard, cases, failures);
}
