//! `RegionView::glance` agrees with `RegionView::read` about honest rings, and
//! neither works longer than the region is large for hostile ones (TRUST.md,
//! T5).

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::View;
use hv_shmem::header::Header;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use hv_shmem::show::RegionView;
use hv_shmem::show::RingView;
use uuid::Uuid;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
/// Bytes of a section header before its directory, and of a directory entry.
const DIRECTORY_AT: u64 = 0x100;
const ENTRY: u64 = 64;

struct Scene {
    backing: Backing,
    mapping: Mapping,
    header: Header,
    a: OwnSection<hv_shmem::backing::MappedMem>,
    b: OwnSection<hv_shmem::backing::MappedMem>,
}

impl Scene {
    fn new(directory: u32, ring_bytes: u64) -> Self {
        let spec = RegionSpec::new(Name::new("glanced").unwrap(), 1 << 20, 2);
        let backing = Backing::create(&spec, &BackingConfig::default()).unwrap();
        let mapping = backing.map(View::OWNER).unwrap();
        let mem = mapping.mem();
        let mut host = HostPages::format(mem.clone(), &spec, Uuid::from_u128(5)).unwrap();
        let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
        let mut join = |peer| {
            let kind = PeerKind::HostProcess;
            let name = Name::new(&format!("p{peer}")).unwrap();
            let epoch = host.admit(peer, name, kind, Rights::ALL, 1).unwrap();
            let config = SectionConfig {
                directory,
                ring_bytes,
            };
            region.join(peer, epoch, config).unwrap()
        };
        let (a, b) = (join(A), join(B));
        Self {
            header: host.header().clone(),
            backing,
            mapping,
            a,
            b,
        }
    }

    fn ring(&mut self, slots: u32) -> hv_shmem::ring::RingPlace<hv_shmem::backing::MappedMem> {
        let spec = RingSpec {
            id: 7,
            to: B,
            kind: RingKind::Stream,
            layout: RingLayout::Inline,
            slot_size: 64,
            slots,
        };
        self.a.create_ring(spec).unwrap()
    }

    fn glance(&self) -> RegionView {
        RegionView::glance(&self.mapping.mem(), &self.header, &self.backing).unwrap()
    }

    fn read(&self) -> RegionView {
        RegionView::read(&self.mapping.mem(), &self.header, &self.backing).unwrap()
    }
}

fn progress(ring: &RingView) -> (u64, Option<u64>) {
    (ring.sent, ring.taken)
}

#[test]
fn it_finds_the_last_message_wherever_the_ring_is() {
    let mut scene = Scene::new(8, 16 << 10);
    let place = scene.ring(16);
    let mut sender = InlineSender::new(place).unwrap();
    let both = |scene: &Scene| {
        let (quick, whole) = (scene.glance(), scene.read());
        assert_eq!(progress(&quick.rings[0]), progress(&whole.rings[0]));
        assert_eq!(quick.rings[0].problem, None);
        quick.rings[0].clone()
    };
    assert_eq!(progress(&both(&scene)), (0, None));
    for n in 1..=16 {
        sender.try_send(&[1; 8]).unwrap();
        assert_eq!(progress(&both(&scene)), (n, None), "nobody has accepted it");
    }
    assert!(both(&scene).sender_waits, "it is full");
    let mut receiver = InlineReceiver::new(scene.b.accept_ring(A, 7).unwrap()).unwrap();
    sender
        .set_cursor(scene.a.cursor(B, 7).unwrap().unwrap())
        .unwrap();
    let mut sent = 16;
    for round in 0u64..200 {
        for _ in 0..round % 5 {
            let _ = receiver.try_recv(&mut [0; 56]).unwrap();
        }
        let _ = receiver.flush();
        for _ in 0..round % 7 {
            sent += u64::from(sender.try_send(&[1; 8]).is_ok());
        }
        let ring = both(&scene);
        assert_eq!(ring.sent, sent, "round {round}");
        assert!(ring.taken.is_some_and(|taken| taken <= sent));
    }
    while receiver.try_recv(&mut [0; 56]).unwrap().is_some() {}
    receiver.arm();
    let ring = both(&scene);
    assert_eq!(ring.taken, Some(sent));
    assert!(ring.receiver_waits && !ring.sender_waits);
}

#[test]
fn a_cursor_in_front_of_all_messages_is_a_problem_and_not_a_number() {
    let mut scene = Scene::new(8, 16 << 10);
    let place = scene.ring(16);
    let mut sender = InlineSender::new(place).unwrap();
    let _receiver = scene.b.accept_ring(A, 7).unwrap();
    for _ in 0..3 {
        sender.try_send(&[1; 8]).unwrap();
    }
    let mem = scene.mapping.mem();
    let section = scene.header.layout.section(B).start;
    let line = mem.load_u64(section + DIRECTORY_AT + 0x18, Ordering::Relaxed);
    for lie in [4, 5, 17, 1 << 40, u64::MAX] {
        mem.store_u64(section + line, lie, Ordering::Relaxed);
        for view in [scene.glance(), scene.read()] {
            let ring = &view.rings[0];
            assert_eq!(ring.taken, Some(lie));
            assert!(ring.sent <= 3, "{lie}: {ring:?}");
            assert!(ring.problem.is_some(), "{lie}: {ring:?}");
        }
    }
}

/// Every entry of a large directory names the same large ring: a reader without
/// a budget would read 4094 times 2048 slots of a region of 1 MiB, and keep it
/// all.
#[test]
fn directories_that_name_one_ring_a_thousand_times_cost_what_the_region_has() {
    let entries = 4096;
    let mut scene = Scene::new(entries, 160 << 10);
    let _place = scene.ring(2048);
    let mem = scene.mapping.mem();
    let directory = scene.header.layout.section(A).start + DIRECTORY_AT;
    let mut entry = [0; ENTRY as usize];
    mem.read(directory, &mut entry);
    for index in 1..u64::from(entries) {
        mem.write(directory + index * ENTRY, &entry);
    }
    let whole = scene.read();
    let looked_at = whole.rings.iter().filter(|r| r.problem.is_none()).count();
    // 1 MiB is 131072 words: 64 times this ring.
    assert_eq!(looked_at, 64);
    assert_eq!(whole.rings.len(), entries as usize);
    let unread = &whole.rings[4000].problem;
    assert!(unread.as_deref().is_some_and(|p| p.contains("not read")));
    let quick = scene.glance();
    assert_eq!(quick.rings.len(), hv_shmem::show::RINGS_GLANCED);
    assert_eq!(quick.rings_left_out, 0);

    // The same directory with an impossible number in every entry.
    for index in 0..u64::from(entries) {
        mem.store_u32(directory + index * ENTRY + 0x14, 3, Ordering::Relaxed);
    }
    let view = scene.glance();
    assert_eq!(view.rings, []);
    assert_eq!(view.peers[0].problems.len(), 17);
    assert!(view.peers[0].problems[16].contains("4080 more"));
}
