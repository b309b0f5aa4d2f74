//! Spans between the peers of a region: over the heap, over a flat memfd, and
//! over a sectioned one, where the others' sections are mapped read-only.
#![cfg(target_os = "linux")]

use hv_shmem::arena::ArenaError;
use hv_shmem::arena::Magazine;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::Access;
use hv_shmem::span::COMMON_SECTION;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SpanError;
use uuid::Uuid;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const C: PeerId = PeerId(2);

fn spec(sectioned: bool) -> RegionSpec {
    RegionSpec::new(Name::new("spans").expect("short"), 4 << 20, 4)
        .common(64 << 10)
        .sectioned(sectioned)
}

/// What each peer maps, and what the host maps.
fn memfd(sectioned: bool) -> [hv_shmem::backing::MappedMem; 4] {
    let backing = Backing::create(&spec(sectioned), &BackingConfig::default()).expect("memory");
    [View::peer(A), View::peer(B), View::peer(C), View::OWNER]
        .map(|view| backing.map(view).expect("mapped").mem())
}

fn heap() -> [HeapMem; 4] {
    let mem = HeapMem::new(4 << 20);
    [mem.clone(), mem.clone(), mem.clone(), mem]
}

struct Peers<M> {
    host: HostPages<M>,
    a: OwnSection<M>,
    b: OwnSection<M>,
    c: OwnSection<M>,
    mem: [M; 3],
}

fn join<M: SharedMem>(host: &mut HostPages<M>, mem: &M, id: PeerId) -> OwnSection<M> {
    let name = Name::new("p").expect("short");
    let epoch = host
        .admit(id, name, PeerKind::HostProcess, Rights::ALL, 1)
        .expect("vacant");
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).expect("a region");
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 16 << 10,
    };
    region.join(id, epoch, config).expect("admitted")
}

fn peers<M: SharedMem>([a, b, c, host]: [M; 4], sectioned: bool) -> Peers<M> {
    let mut host = HostPages::format(host, &spec(sectioned), Uuid::from_u128(7)).expect("room");
    Peers {
        a: join(&mut host, &a, A),
        b: join(&mut host, &b, B),
        c: join(&mut host, &c, C),
        host,
        mem: [a, b, c],
    }
}

fn hand_over<M: SharedMem + std::fmt::Debug>(mut peers: Peers<M>) {
    let arena = peers.a.arena().expect("room");
    assert!(matches!(peers.a.arena(), Err(ArenaError::Taken)));
    let mut home = peers.b.create_return_ring(A, 64).expect("room");
    let mut taker = peers.a.accept_return_ring(B).expect("made");
    let line = peers.b.cursor(A, hv_shmem::arena::RETURN_RING);
    let line = line.expect("made").expect("accepted");
    home.ring().set_cursor(line).expect("a line");
    let mut of_b = peers.b.resolver().expect("admitted");
    let mut of_c = peers.c.resolver().expect("admitted");
    let mut magazine = Magazine::new(&arena);
    for round in 0..300u64 {
        let len = round * round % 20_000;
        let span = magazine.alloc(len).expect("room");
        let data: Vec<u8> = (0..len).map(|i| (i ^ round) as u8).collect();
        let own = arena.view(&span).expect("ours");
        own.write(0, &data).expect("inside");
        arena.grant(&span, B).expect("ours");

        let claim = PortalSpan::from_bytes(&span.to_bytes());
        let seen = of_b.resolve(&claim, Access::Read).expect("granted");
        let mut found = vec![0; seen.len() as usize];
        seen.read(0, &mut found).expect("its length");
        assert_eq!(found, data);
        assert!(seen.write(0, b"").is_err());
        let refused = of_c.resolve(&claim, Access::Read);
        assert!(matches!(
            refused,
            Err(SpanError::NotGranted { peer: 2, .. })
        ));
        let refused = of_b.resolve(&claim, Access::ReadWrite);
        assert!(matches!(refused, Err(SpanError::ReadOnly { .. })));

        home.give_back(&span).expect("room");
        let _ = home.flush();
        let returned = arena.take_returns(&mut taker).expect("honest");
        assert_eq!((returned.spans, returned.refused), (1, 0));
        // Stale, or not even a slab page any more.
        let refused = of_b.resolve(&claim, Access::Read);
        assert!(matches!(
            refused,
            Err(SpanError::StaleGeneration { .. } | SpanError::NotABlock { .. })
        ));
    }

    // A dies: stale at once, by the host's table alone.
    let span = magazine.alloc(100).expect("room");
    arena.grant(&span, B).expect("ours");
    assert!(of_b.resolve(&span, Access::Read).is_ok());
    peers.host.retire(A).expect("alive");
    let refused = of_b.resolve(&span, Access::Read);
    assert!(matches!(
        refused,
        Err(SpanError::NoSuchSection { section: 0 })
    ));
    let mut successor = join(&mut peers.host, &peers.mem[0], A);
    let refused = of_b.resolve(&span, Access::Read);
    assert!(
        matches!(refused, Err(SpanError::StaleEpoch { .. })),
        "{refused:?}"
    );
    let arena = successor.arena().expect("room");
    let span = arena.alloc(100).expect("room");
    arena.grant(&span, B).expect("ours");
    assert!(of_b.resolve(&span, Access::Read).is_ok());
}

fn common<M: SharedMem>(peers: Peers<M>) {
    let region = peers.a.region().header().region_id();
    let span = PortalSpan {
        region,
        section: COMMON_SECTION,
        offset: 4096,
        length: 100,
        ..PortalSpan::NONE
    };
    let mut of_a = peers.a.resolver().expect("admitted");
    let mut of_b = peers.b.resolver().expect("admitted");
    let view = of_a.resolve(&span, Access::ReadWrite).expect("rights");
    view.write(3, b"common").expect("inside");
    let seen = of_b.resolve(&span, Access::Read).expect("rights");
    let mut found = [0; 6];
    seen.read(3, &mut found).expect("inside");
    assert_eq!(&found, b"common");
    for (offset, length) in [(65536 - 96, 100), (u64::MAX, 1), (0, u64::MAX), (1, 1)] {
        let span = PortalSpan {
            offset,
            length,
            ..span
        };
        let refused = of_b.resolve(&span, Access::Read);
        assert!(matches!(refused, Err(SpanError::OutOfBounds { .. })));
    }
}

#[test]
fn spans_over_the_heap() {
    hand_over(peers(heap(), false));
    common(peers(heap(), false));
}

#[test]
fn spans_over_a_flat_memfd() {
    hand_over(peers(memfd(false), false));
    common(peers(memfd(false), false));
}

#[test]
fn spans_over_a_sectioned_memfd() {
    hand_over(peers(memfd(true), true));
    common(peers(memfd(true), true));
}

#[test]
fn a_section_that_lies_about_itself_does_not_resolve() {
    let mut peers = peers(heap(), false);
    let arena = peers.a.arena().expect("room");
    let span = arena.alloc(64).expect("room");
    arena.grant(&span, B).expect("ours");
    let section = peers.a.region().section_mem(A).expect("there");
    // Any one byte of the section header's static part changed.
    for at in 0..128 {
        let mut byte = [0];
        section.read(at, &mut byte);
        section.write(at, &[byte[0] ^ 0x10]);
        let mut of_b = peers.b.resolver().expect("admitted");
        let refused = of_b.resolve(&span, Access::Read);
        assert!(
            matches!(refused, Err(SpanError::NoSuchSection { .. })),
            "{at:#x}"
        );
        section.write(at, &byte);
    }
    let mut of_b = peers.b.resolver().expect("admitted");
    assert!(of_b.resolve(&span, Access::Read).is_ok());
}
