//! Looking at region files, those of hostile writers among them.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use portal_device::inspect::Value;
use portal_observe::lines;
use portal_observe::model::Model;
use portal_observe::source::FileSource;
use portal_observe::source::Source as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use uuid::Uuid;

const SIZE: u64 = 256 << 10;

/// A region file with two peers, a ring between them and messages in it.
fn make(path: &Path) {
    let spec = RegionSpec::new(Name::new("lake").expect("a name"), SIZE, 3);
    let config = BackingConfig {
        storage: Storage::File(path.to_owned()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).expect("a file");
    let mem = backing.map(View::OWNER).expect("a mapping").mem();
    let mut host = HostPages::format(mem.clone(), &spec, Uuid::from_u128(9)).expect("a region");
    let region = PortalRegion::attach(mem, AttachOptions::default()).expect("a region");
    let mut join = |id| {
        let name = Name::new(&format!("p{id}")).expect("a name");
        let peer = PeerId(id);
        let epoch = host.admit(peer, name, PeerKind::Partition, Rights::ALL, 1);
        let config = SectionConfig {
            directory: 8,
            ring_bytes: 16 << 10,
        };
        let joined = region.join(peer, epoch.expect("a place"), config);
        joined.expect("a section")
    };
    let (mut a, mut b) = (join(0), join(1));
    host.set_state(PeerId(0), PeerState::Ready).expect("a step");
    let spec = RingSpec {
        id: 7,
        to: PeerId(1),
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 16,
    };
    let mut sender = InlineSender::new(a.create_ring(spec).expect("a ring")).expect("a sender");
    let place = b.accept_ring(PeerId(0), 7).expect("a ring");
    let _receiver = InlineReceiver::new(place).expect("a receiver");
    for _ in 0..5 {
        sender.try_send(&[1; 8]).expect("room");
    }
}

#[test]
fn a_file_gives_samples_and_a_tree() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lake.region");
    make(&path);
    let mut source = FileSource::open(&path).expect("a region");
    assert_eq!(source.title(), path.display().to_string());
    let picture = Model::new().take(source.sample().expect("a sample"));
    assert_eq!(picture.regions[0].states, [1, 1, 0, 0]);
    let ring = &picture.rings[0];
    assert_eq!(
        (ring.sent_total, ring.taken_total, ring.waiting),
        (5, Some(0), 5)
    );
    let tree = source.tree().expect("a tree");
    let text = |at: &str| tree.get(at).map(Value::to_string);
    assert_eq!(text("regions/lake/peers/1/name").as_deref(), Some("p1"));
    assert_eq!(text("regions/lake/rings/0-1-7/sent").as_deref(), Some("5"));
    assert_eq!(text("regions/lake/peers/9"), None);
}

/// One field of the file after the other set to every boundary: a sample or an
/// error, never a panic, and nothing but plain text.
#[test]
fn no_file_makes_an_observer_fall() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lake.region");
    make(&path);
    let good = std::fs::read(&path).expect("a file");
    let file = std::fs::File::options().write(true).open(&path);
    let file = file.expect("a file");
    let mut looked_at = 0;
    // Header, peer table, and each section's header and directory.
    let spec = RegionSpec::new(Name::new("lake").expect("a name"), SIZE, 3);
    let layout = Layout::compute(&spec).expect("a layout");
    let sections = layout.peers().map(|peer| layout.section(peer).start);
    let tables = [
        0x1000..0x1100,
        layout.peer_at(PeerId(0))..layout.peer_at(PeerId(0)) + 0x100,
    ];
    let places = tables
        .into_iter()
        .chain(sections.map(|at| at..at + 0x200))
        .flat_map(|range| range.step_by(4));
    for at in places {
        for value in [0u32, 1, 0x1b5b_1b5b, u32::MAX] {
            file.write_all_at(&value.to_le_bytes(), at)
                .expect("written");
            let Ok(mut source) = FileSource::open(&path) else {
                continue;
            };
            let Ok(sample) = source.sample() else {
                continue;
            };
            looked_at += 1;
            let picture = Model::new().take(sample);
            let mut shown = lines::full(&picture).join("\n");
            shown.push_str(
                &source
                    .tree()
                    .map(|tree| tree.to_string())
                    .unwrap_or_default(),
            );
            let obeyed = shown
                .chars()
                .find(|c| *c != '\n' && !portal_device::inspect::is_plain(*c));
            assert_eq!(obeyed, None, "{at:#x} {value:#x}");
        }
        let start = usize::try_from(at).expect("an offset");
        let good = &good[start..start + 4];
        file.write_all_at(good, at).expect("written");
    }
    assert!(
        looked_at > 1000,
        "{looked_at}: most damage leaves a region to look at"
    );
}

#[test]
fn a_file_that_is_cut_off_while_it_is_watched_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lake.region");
    make(&path);
    let mut source = FileSource::open(&path).expect("a region");
    source.sample().expect("a sample");
    let file = std::fs::File::options().write(true).open(&path);
    file.expect("a file").set_len(8192).expect("cut off");
    let error = source.sample().expect_err("it is gone").to_string();
    assert!(error.contains("8192"), "{error}");
    assert!(source.tree().is_err());
}
