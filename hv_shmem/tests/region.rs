//! The life of a region over the heap: format, admit, attach, join, rings,
//! death and successor.

use hv_shmem::header::HeaderError;
use hv_shmem::host_pages::HostError;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::LayoutError;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use hv_shmem::section::SectionState;
use uuid::Uuid;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 16 << 10,
};

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn spec() -> RegionSpec {
    RegionSpec::new(name("test"), 1 << 20, 4).common(64 << 10)
}

fn format(spec: &RegionSpec) -> (HeapMem, HostPages<HeapMem>) {
    let mem = HeapMem::new(spec.size);
    let host = HostPages::format(mem.clone(), spec, Uuid::from_u128(0x1234_5678)).unwrap();
    (mem, host)
}

fn admit(host: &mut HostPages<HeapMem>, peer: PeerId) -> u32 {
    let kind = PeerKind::HostProcess;
    host.admit(peer, name("p"), kind, Rights::ALL, 2).unwrap()
}

fn join(mem: &HeapMem, host: &mut HostPages<HeapMem>, peer: PeerId) -> OwnSection<HeapMem> {
    let epoch = admit(host, peer);
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    region.join(peer, epoch, CONFIG).unwrap()
}

fn ring(to: PeerId, id: u32, layout: RingLayout) -> RingSpec {
    RingSpec {
        id,
        to,
        kind: RingKind::Stream,
        layout,
        slot_size: 64,
        slots: 16,
    }
}

/// Sends one message over the ring and takes it out at the other end.
fn exchange(from: &mut OwnSection<HeapMem>, to: &mut OwnSection<HeapMem>, id: u32, text: &[u8]) {
    let place = from
        .create_ring(ring(to.me(), id, RingLayout::Inline))
        .unwrap();
    let mut sender = InlineSender::new(place).unwrap();
    let place = to.accept_ring(from.me(), id).unwrap();
    let mut receiver = InlineReceiver::new(place).unwrap();
    sender.try_send(text).unwrap();
    let mut got = [0; 56];
    let len = receiver.try_recv(&mut got).unwrap().unwrap();
    assert_eq!(&got[..text.len()], text);
    assert!(len >= text.len());
    assert!(from.cursor(to.me(), id).unwrap().is_some());
}

#[test]
fn two_peers_exchange_a_message() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    let mut b = join(&mem, &mut host, B);
    exchange(&mut a, &mut b, 1, b"to b");
    exchange(&mut b, &mut a, 1, b"to a");
}

#[test]
fn the_smallest_and_the_fullest_region_work() {
    let smallest = RegionSpec::new(name("s"), 64 << 10, 2);
    let (mem, mut host) = format(&smallest);
    let mut a = join_small(&mem, &mut host, A);
    let mut b = join_small(&mem, &mut host, B);
    exchange(&mut a, &mut b, 1, b"small");

    let fullest = RegionSpec::new(name("f"), 32 << 20, 1024);
    assert!(matches!(
        hv_shmem::layout::Layout::compute(&fullest),
        Err(LayoutError::Sections { peers: 1024, .. })
    ));
    let (mem, mut host) = format(&RegionSpec::new(name("f"), 16 << 20, 512));
    let mut a = join_small(&mem, &mut host, PeerId(0));
    let mut b = join_small(&mem, &mut host, PeerId(511));
    exchange(&mut a, &mut b, 9, b"first to last");
}

fn join_small(mem: &HeapMem, host: &mut HostPages<HeapMem>, peer: PeerId) -> OwnSection<HeapMem> {
    let epoch = admit(host, peer);
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let config = SectionConfig {
        directory: 4,
        ring_bytes: 4096,
    };
    region.join(peer, epoch, config).unwrap()
}

#[test]
fn parts_are_whole_pages_inside_the_region_and_apart() {
    for size in [64 << 10, 1 << 20, 16 << 20, 32 << 20, 1 << 30] {
        for peers in [1, 2, 3, 7, 64, 1024] {
            let spec = RegionSpec::new(name("l"), size, peers);
            let Ok(l) = hv_shmem::layout::Layout::compute(&spec) else {
                continue;
            };
            let huge = size > 16 << 20;
            assert_eq!(l.page, if huge { 2 << 20 } else { 4096 });
            let mut end = l.common.end;
            for peer in l.peers() {
                let s = l.section(peer);
                assert_eq!(s.start, end);
                assert!(s.start % l.page == 0 && s.end % l.page == 0 && s.end <= size);
                end = s.end;
            }
            assert!(l.section(PeerId(peers)).is_empty());
        }
    }
}

#[test]
fn a_header_with_any_byte_changed_is_refused() {
    let (mem, _host) = format(&spec());
    for at in 0..256 {
        let mut byte = [0];
        mem.read(HEADER_AT + at, &mut byte);
        mem.write(HEADER_AT + at, &[byte[0] ^ 0x10]);
        assert!(
            PortalRegion::attach(mem.clone(), AttachOptions::default()).is_err(),
            "byte {at}"
        );
        mem.write(HEADER_AT + at, &byte);
    }
    PortalRegion::attach(mem, AttachOptions::default()).unwrap();
}

#[test]
fn features_decide_who_may_attach_and_write() {
    let (mem, mut host) = format(&spec());
    let epoch = admit(&mut host, A);
    let mut header = host.header().clone();
    let put = |header: &hv_shmem::header::Header| mem.write(HEADER_AT, &header.to_bytes());

    header.compat |= 1 << 40;
    put(&header);
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    region.join(A, epoch, CONFIG).unwrap();

    header.ro_compat = 1 << 3;
    put(&header);
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let refused = region.join(A, epoch, CONFIG).unwrap_err();
    assert_eq!(refused, RegionError::ReadOnly { unknown: 1 << 3 });

    header.incompat = 1 << 5;
    put(&header);
    let refused = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap_err();
    let unknown = 1 << 5;
    assert_eq!(
        refused,
        RegionError::Header(HeaderError::Incompatible { unknown })
    );
}

#[test]
fn only_the_admitted_epoch_joins() {
    let (mem, mut host) = format(&spec());
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    assert!(matches!(
        region.join(A, 1, CONFIG),
        Err(RegionError::NotLive { .. })
    ));
    let epoch = admit(&mut host, A);
    assert!(matches!(
        region.join(A, epoch + 1, CONFIG),
        Err(RegionError::StaleEpoch { .. })
    ));
    assert!(matches!(
        region.join(PeerId(4), epoch, CONFIG),
        Err(RegionError::Peer(_))
    ));
    region.join(A, epoch, CONFIG).unwrap();
}

#[test]
fn a_dead_peer_takes_its_rings_with_it_and_a_successor_starts_clean() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    let mut b = join(&mem, &mut host, B);
    exchange(&mut a, &mut b, 1, b"first life");
    exchange(&mut b, &mut a, 2, b"first life");

    let next = host.retire(B).unwrap();
    assert_eq!(next, 2);
    assert!(!b.is_current());
    assert!(a.is_current());
    assert_eq!(a.region().live_epoch(B), None);
    assert!(matches!(
        a.region().section(B),
        Err(RegionError::NotLive { .. })
    ));
    assert!(a.region().find_ring(A, B, 1).is_err());

    // Admitted, not joined: the predecessor's section is stale.
    let epoch = admit(&mut host, B);
    assert_eq!(epoch, next);
    assert!(matches!(
        a.region().section(B),
        Err(RegionError::StaleEpoch {
            found: 1,
            current: 2,
            ..
        })
    ));
    let mut b2 = b.region().join(B, epoch, CONFIG).unwrap();
    // The ring was for the first life; the sender has to renew it.
    assert!(matches!(
        b2.accept_ring(A, 1),
        Err(RingError::NotThere { epoch: 2, .. })
    ));
    assert!(matches!(
        a.accept_ring(B, 2),
        Err(RingError::NotThere { .. })
    ));
    exchange(&mut a, &mut b2, 1, b"second life");
    exchange(&mut b2, &mut a, 2, b"second life");
}

#[test]
fn renewing_a_ring_reuses_its_storage_and_makes_a_new_instance() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    let mut b = join(&mem, &mut host, B);
    exchange(&mut a, &mut b, 1, b"one");
    let left = a.ring_bytes_left();
    assert!(matches!(
        b.accept_ring(A, 1),
        Err(RingError::Accepted { .. })
    ));
    for _ in 0..100 {
        exchange(&mut a, &mut b, 1, b"again");
    }
    assert_eq!(a.ring_bytes_left(), left);
    // A closed ring's storage serves another one.
    a.close_ring(B, 1);
    b.leave_ring(A, 1);
    assert!(a.region().find_ring(A, B, 1).unwrap().is_none());
    exchange(&mut a, &mut b, 77, b"other id");
    assert_eq!(a.ring_bytes_left(), left);
}

/// "instance: counts up with every renewal of the ring": also when another process
/// of the same partition, in the same epoch, formats the section again.
#[test]
fn a_section_formatted_twice_in_an_epoch_has_new_rings() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    let mut b = join(&mem, &mut host, B);
    exchange(&mut a, &mut b, 1, b"one");
    let again = a.region().join(A, a.epoch(), CONFIG).unwrap();
    drop(a);
    let mut a = again;
    a.create_ring(ring(B, 1, RingLayout::Inline)).unwrap();
    assert!(
        a.cursor(B, 1).unwrap().is_none(),
        "what B consumes is the predecessor's ring"
    );
    b.accept_ring(A, 1).expect("not the one accepted before");
    assert!(a.cursor(B, 1).unwrap().is_some());
    exchange(&mut a, &mut b, 1, b"two");
}

#[test]
fn directory_and_storage_have_limits_that_are_errors() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    for id in 0..8 {
        a.create_ring(ring(B, id, RingLayout::Bulk)).unwrap();
    }
    assert!(matches!(
        a.create_ring(ring(B, 8, RingLayout::Bulk)),
        Err(RingError::DirectoryFull { limit: 8 })
    ));
    let mut b = join(&mem, &mut host, B);
    let large = RingSpec {
        slots: 1024,
        ..ring(A, 1, RingLayout::Bulk)
    };
    assert!(matches!(
        b.create_ring(large),
        Err(RingError::StorageFull { .. })
    ));
    let shapeless = RingSpec {
        slots: 3,
        ..ring(A, 1, RingLayout::Bulk)
    };
    assert!(matches!(b.create_ring(shapeless), Err(RingError::Place(_))));
    // In-place slots lie in the peer's share of the common section: 16 KiB.
    let share = 16 << 10;
    for id in 0..share / 1024 {
        let mut spec = ring(A, id, RingLayout::InPlace);
        spec.kind = RingKind::Upcall;
        if id < 8 {
            b.create_ring(spec).unwrap();
        } else {
            assert!(b.create_ring(spec).is_err());
        }
    }
    let mut spec = ring(PeerId(3), 1, RingLayout::InPlace);
    spec.slots = 512;
    let mut c = join(&mem, &mut host, PeerId(2));
    assert!(matches!(
        c.create_ring(spec),
        Err(RingError::CommonFull { .. })
    ));
}

#[test]
fn the_host_keeps_the_life_of_a_peer_in_order() {
    let (_mem, mut host) = format(&spec());
    assert!(matches!(
        host.set_state(A, PeerState::Ready),
        Err(HostError::Step { .. })
    ));
    admit(&mut host, A);
    assert!(matches!(
        host.admit(A, name("x"), PeerKind::Partition, Rights::ALL, 1),
        Err(HostError::InUse { .. })
    ));
    host.set_state(A, PeerState::Ready).unwrap();
    host.set_state(A, PeerState::Quiescing).unwrap();
    host.set_state(A, PeerState::Ready).unwrap();
    assert!(host.set_state(A, PeerState::Dead).is_err());
    assert_eq!(host.vacant(A), Some(B));
    host.retire(A).unwrap();
    assert!(host.retire(A).is_err());
    assert_eq!(host.vacant(A), Some(A));
    assert_eq!(host.peer(A).unwrap().state, PeerState::Dead);
    assert!(host.retire(PeerId(99)).is_err());
}

#[test]
fn the_state_table_has_what_a_living_peer_publishes() {
    let (mem, mut host) = format(&spec());
    let layout = host.layout().clone();
    let word = |peer| mem.load_u32(layout.state_at(peer), hv_shmem::mem::Ordering::Relaxed);
    assert!(matches!(
        host.publish(A, 5),
        Err(HostError::NotAlive { .. })
    ));
    admit(&mut host, A);
    admit(&mut host, B);
    assert_eq!(word(A), 0, "admitted, and nothing published");
    host.publish(A, 0x8000_0001).unwrap();
    host.publish(B, 6).unwrap();
    host.set_state(A, PeerState::Ready).unwrap();
    assert_eq!((word(A), word(B)), (0x8000_0001, 6));
    host.retire(A).unwrap();
    assert_eq!((word(A), word(B)), (0, 6));
    assert!(host.publish(A, 5).is_err());
    drop(host);
    HostPages::take_over(mem.clone()).unwrap();
    assert_eq!(word(B), 0, "nobody outlives the host");
}

#[test]
fn a_new_host_takes_over_and_every_old_peer_is_gone() {
    let (mem, mut host) = format(&spec());
    let a = join(&mem, &mut host, A);
    drop(host);
    let host = HostPages::take_over(mem.clone()).unwrap();
    assert_eq!(host.header().generation, 2);
    assert!(!a.is_current());
    assert_eq!(a.region().generation_now().unwrap(), 2);
    assert_eq!(host.peer(A).unwrap().epoch, 2);
    assert_eq!(host.peer(B).unwrap().epoch, 1);
}

#[test]
fn a_durable_section_is_recovered_with_its_arena_and_without_its_rings() {
    let (mem, mut host) = format(&spec());
    let mut a = join(&mem, &mut host, A);
    a.create_ring(ring(B, 1, RingLayout::Bulk)).unwrap();
    a.arena_mem().unwrap().write(64, b"kept");
    host.retire(A).unwrap();
    let epoch = admit(&mut host, A);
    let region = a.region().clone();
    let again = region.recover(A, epoch).unwrap();
    let mut kept = [0; 4];
    again.arena_mem().unwrap().read(64, &mut kept);
    assert_eq!(&kept, b"kept");
    assert!(again.is_recovered());
    admit(&mut host, B);
    assert!(region.find_ring(A, B, 1).unwrap().is_none());
    // What is not a section is not recovered.
    region.section_mem(B).unwrap().write(0, b"PORTALSCgarbage!");
    assert!(matches!(
        region.recover(B, 1),
        Err(RegionError::Section { peer: B, .. })
    ));
}

#[test]
fn a_peer_that_says_nonsense_about_its_section_is_an_error_for_others() {
    let (mem, mut host) = format(&spec());
    let a = join(&mem, &mut host, A);
    let b = join(&mem, &mut host, B);
    b.set_state(SectionState::Closed);
    assert!(matches!(
        a.region().section(B),
        Err(RegionError::NotReady {
            state: SectionState::Closed,
            ..
        })
    ));
    b.mem()
        .store_u32(0x80, 99, hv_shmem::mem::Ordering::Relaxed);
    assert!(matches!(
        a.region().section(B),
        Err(RegionError::Section { .. })
    ));
}

#[test]
fn a_host_that_died_in_the_middle_of_an_entry_is_an_error_not_a_hang() {
    let (mem, mut host) = format(&spec());
    let a = join(&mem, &mut host, A);
    let entry = host.layout().peer_at(B);
    mem.store_u32(entry, 5, hv_shmem::mem::Ordering::Relaxed);
    assert!(a.region().peer(B).is_err());
    admit(&mut host, B);
    assert!(a.region().peer(B).is_ok());
}
