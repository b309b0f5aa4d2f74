//! `check`: a sound region has no findings; every kind of damage has its code;
//! what is repaired is sound again and can be used.

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::check::CheckOptions;
use hv_shmem::check::Code;
use hv_shmem::check::Remedy;
use hv_shmem::check::Report;
use hv_shmem::check::Severity;
use hv_shmem::check::check;
use hv_shmem::check::check_file;
use hv_shmem::check::mend_header;
use hv_shmem::header::Header;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use hv_shmem::show::RegionView;
use random::Random;
use std::path::Path;
use uuid::Uuid;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const SIZE: u64 = 512 << 10;

fn spec() -> RegionSpec {
    RegionSpec::new(Name::new("checked").unwrap(), SIZE, 3).common(48 << 10)
}

/// Fills `mem` with a region that two peers used for a while: rings of all
/// layouts, messages waiting, arenas with spans.
fn used<M: SharedMem>(mem: &M) -> Header {
    let mut host = HostPages::format(mem.clone(), &spec(), Uuid::from_u128(11)).unwrap();
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let mut join = |peer| {
        let name = Name::new("peer").unwrap();
        let kind = PeerKind::HostProcess;
        let epoch = host.admit(peer, name, kind, Rights::ALL, 1).unwrap();
        let config = SectionConfig {
            directory: 8,
            ring_bytes: 16 << 10,
        };
        region.join(peer, epoch, config).unwrap()
    };
    let (mut a, mut b) = (join(A), join(B));
    let ring = |id, layout| RingSpec {
        id,
        to: B,
        kind: RingKind::Stream,
        layout,
        slot_size: 64,
        slots: 16,
    };
    let bulk = a.create_ring(ring(1, RingLayout::Bulk)).unwrap();
    let mut sender = BulkSender::new(bulk).unwrap();
    let mut receiver = BulkReceiver::new(b.accept_ring(A, 1).unwrap()).unwrap();
    sender.set_cursor(a.cursor(B, 1).unwrap().unwrap()).unwrap();
    let inline = a.create_ring(ring(2, RingLayout::Inline)).unwrap();
    let mut quick = InlineSender::new(inline).unwrap();
    let mut taker = InlineReceiver::new(b.accept_ring(A, 2).unwrap()).unwrap();
    quick.set_cursor(a.cursor(B, 2).unwrap().unwrap()).unwrap();
    a.create_ring(ring(3, RingLayout::InPlace)).unwrap();
    let mut got = [0; 64];
    for _ in 0..40 {
        sender.try_send(&[1; 64]).unwrap();
        quick.try_send(&[2; 56]).unwrap();
        receiver.try_recv(&mut got).unwrap().unwrap();
        taker.try_recv(&mut got).unwrap().unwrap();
    }
    for _ in 0..5 {
        sender.try_send(&[3; 64]).unwrap();
        quick.try_send(&[4; 56]).unwrap();
    }
    let _ = (
        sender.flush(),
        quick.flush(),
        receiver.flush(),
        taker.flush(),
    );
    let arena = a.arena().unwrap();
    for len in [10, 100, 1000, 5000] {
        let span = arena.alloc(len).unwrap();
        arena.grant(&span, B).unwrap();
    }
    host.header().clone()
}

fn options(repair: bool) -> CheckOptions {
    CheckOptions {
        still: true,
        repair,
    }
}

fn codes(report: &Report) -> Vec<Code> {
    report.findings.iter().map(|f| f.code).collect()
}

#[test]
fn a_sound_region_has_no_findings_but_its_orphans() {
    let mem = HeapMem::new(SIZE);
    let header = used(&mem);
    let busy = check(&mem, &header, CheckOptions::default()).unwrap();
    assert_eq!(busy.findings, []);
    let report = check(&mem, &header, options(false)).unwrap();
    assert_eq!(codes(&report), [Code::TableOrphan, Code::TableOrphan]);
    assert!(report.is_sound());
    assert_eq!(report.looked_at.rings, 3);
    assert_eq!(report.looked_at.sections, 2);
    assert_eq!(report.looked_at.arenas, 1);
    assert_eq!(report.looked_at.spans, 4);
    let repaired = check(&mem, &header, options(true)).unwrap();
    assert_eq!(repaired.repaired(), 2);
    assert_eq!(check(&mem, &header, options(false)).unwrap().findings, []);
}

type Damage = (&'static str, Code, fn(&HeapMem, &Header));

/// Offset of peer 0's section.
fn section(header: &Header) -> u64 {
    header.layout.section(A).start
}

fn poke(mem: &HeapMem, at: u64, value: u32) {
    mem.store_u32(at, value, Ordering::Relaxed);
}

const DAMAGES: [Damage; 19] = [
    ("odd sequence", Code::TableTorn, |m, h| {
        poke(m, h.layout.peer_at(A), 3)
    }),
    ("peer number", Code::TableEntry, |m, h| {
        poke(m, h.layout.peer_at(A) + 4, 0x1_0009)
    }),
    ("peer epoch 0", Code::TableEntry, |m, h| {
        poke(m, h.layout.peer_at(A) + 8, 0)
    }),
    ("peer state", Code::TableEntry, |m, h| {
        poke(m, h.layout.peer_at(A) + 12, 77)
    }),
    ("rights", Code::TableEntry, |m, h| {
        poke(m, h.layout.peer_at(A) + 16, 0xffff)
    }),
    ("state table", Code::TableState, |m, h| {
        poke(m, h.layout.state_at(PeerId(2)), 9)
    }),
    ("stray state", Code::TableState, |m, h| {
        poke(m, h.layout.state_at(PeerId(900)), 9)
    }),
    ("section magic", Code::SectionHeader, |m, h| {
        poke(m, section(h), 1)
    }),
    ("section crc", Code::SectionHeader, |m, h| {
        poke(m, section(h) + 0x7c, 1)
    }),
    ("section state", Code::SectionState, |m, h| {
        poke(m, section(h) + 0x80, 50)
    }),
    ("rings used", Code::SectionUsage, |m, h| {
        poke(m, section(h) + 0x90, 1 << 20)
    }),
    ("rings unused", Code::SectionUsage, |m, h| {
        poke(m, section(h) + 0x90, 128)
    }),
    ("common used", Code::SectionUsage, |m, h| {
        poke(m, section(h) + 0x98, 0)
    }),
    ("entry torn", Code::DirectoryEntry, |m, h| {
        poke(m, section(h) + 0x100, 1)
    }),
    ("entry slots", Code::DirectoryEntry, |m, h| {
        poke(m, section(h) + 0x114, 3)
    }),
    ("entry epoch", Code::DirectoryStale, |m, h| {
        poke(m, section(h) + 0x128, 5)
    }),
    ("entry twice", Code::DirectoryDuplicate, |m, h| {
        let mut first = [0; 64];
        m.read(section(h) + 0x100, &mut first);
        m.write(section(h) + 0x140, &first);
    }),
    ("ring index", Code::RingIndex, |m, h| {
        // The line of the first ring is the first thing in ring storage.
        poke(m, section(h) + 0x100 + 8 * 64, 1000);
    }),
    ("arena", Code::ArenaFault, |m, h| {
        let at = section(h) + (32 << 10);
        let arena = (section(h)..at)
            .step_by(4096)
            .find(|&p| m.load_u64(p, Ordering::Relaxed) == u64::from_le_bytes(*b"PRTLARNA"));
        poke(m, arena.unwrap() + 8, 99);
    }),
];

#[test]
fn every_kind_of_damage_has_its_code_and_repair_leaves_a_sound_region() {
    for (what, code, damage) in DAMAGES {
        let mem = HeapMem::new(SIZE);
        let header = used(&mem);
        damage(&mem, &header);
        let report = check(&mem, &header, options(false)).unwrap();
        assert!(codes(&report).contains(&code), "{what}: {report:?}");
        let finding = report.findings.iter().find(|f| f.code == code).unwrap();
        assert!(matches!(finding.remedy, Remedy::Possible(_)), "{what}");
        let text = finding.to_string();
        assert!(text.contains(code.as_str()), "{text}");
        sound_after_repair(&mem, &header, what);
        usable(&mem);
    }
}

/// Two passes at most: what the first one frees may uncover something.
fn sound_after_repair(mem: &HeapMem, header: &Header, what: &str) {
    check(mem, header, options(true)).unwrap();
    check(mem, header, options(true)).unwrap();
    let left = check(mem, header, options(false)).unwrap();
    assert!(left.is_sound(), "{what}: {left:?}");
}

/// A new host takes the region over and a peer joins.
fn usable(mem: &HeapMem) {
    let mut host = HostPages::take_over(mem.clone()).unwrap();
    let name = Name::new("next").unwrap();
    let kind = PeerKind::HostProcess;
    let epoch = host.admit(A, name, kind, Rights::ALL, 1).unwrap();
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 16 << 10,
    };
    region.join(A, epoch, config).unwrap();
}

const WHAT: &str = "a region damaged at random, repaired, checked again";

/// Words of the region that hold structure, damaged in one to eight places.
fn damaged(random: &mut Random) -> (HeapMem, Header) {
    let mem = HeapMem::new(SIZE);
    let header = used(&mem);
    let sections = [
        header.layout.section(A).start,
        header.layout.section(B).start,
    ];
    for _ in 0..=random.below(8) {
        let at = match random.below(4) {
            0 => random.below(0x1000),
            1 => 0x2000 + random.below(3 * 64),
            2 => sections[random.below(2) as usize] + random.below(0x300),
            _ => sections[random.below(2) as usize] + random.below(header.layout.section_size),
        };
        let mut byte = [0];
        mem.read(at, &mut byte);
        let value = match random.below(3) {
            0 => byte[0] ^ (1 << random.below(8)),
            1 => byte[0].wrapping_add(8),
            _ => random.next() as u8,
        };
        mem.write(at, &[value]);
    }
    (mem, header)
}

fn unsound_after(cases: u64, repair: bool) -> u64 {
    let mut random = Random(harness::seed());
    let mut unsound = 0;
    for _ in 0..cases {
        let (mem, header) = damaged(&mut random);
        for _ in 0..2 {
            check(&mem, &header, options(repair)).unwrap();
        }
        let left = check(&mem, &header, options(false)).unwrap();
        let taken = HostPages::take_over(mem.clone()).is_ok();
        unsound += u64::from(!left.is_sound() || !taken);
    }
    unsound
}

#[test]
fn t18_damaged_region() {
    let cases = harness::cases(100);
    harness::report("T18", WHAT, None, cases, unsound_after(cases, true));
}

#[test]
fn control_t18_damaged_region() {
    let cases = harness::cases(100).min(1000);
    let left = unsound_after(cases, false);
    harness::report("T18", WHAT, Some("the repair"), cases, left);
}

#[test]
fn a_header_is_mended_where_its_checksum_can_vouch_for_it() {
    let mem = HeapMem::new(SIZE);
    let header = used(&mem);
    let good = header.to_bytes();
    for at in 0..256 {
        let mut bad = good;
        bad[at] ^= 0x41;
        let mended = mend_header(&bad);
        let derived = matches!(at, 0..=0x0b | 0x60..=0x83 | 0x88..=0x97 | 0xa0..=0xb3);
        if derived {
            let mended = mended.unwrap_or_else(|| panic!("byte {at:#x} can be computed"));
            assert!(mended.certain, "byte {at:#x}");
            assert_eq!(mended.header, header, "byte {at:#x}");
        } else if let Some(mended) = mended {
            // Whatever it made of the rest is consistent.
            assert_eq!(
                mended.header.layout.size, header.layout.size,
                "byte {at:#x}"
            );
        }
    }
    assert_eq!(mend_header(&[0; 256]), None);
    assert_eq!(mend_header(&[0xff; 256]), None);
}

fn file_region(path: &Path) -> (Backing, Header) {
    let config = BackingConfig {
        storage: Storage::File(path.into()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec(), &config).unwrap();
    let header = used(&backing.map(View::OWNER).unwrap().mem());
    (backing, header)
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn files_are_checked_in_use_alone_damaged_and_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let (backing, header) = file_region(&path);

    // In use: looked at, not repaired.
    let report = check_file(&path, false).unwrap();
    assert_eq!(report.findings, []);
    assert!(matches!(
        check_file(&path, true),
        Err(BackingError::Busy { .. })
    ));
    drop(backing);

    // Damaged header, then cut off.
    write_at(&path, HEADER_AT, b"X");
    let report = check_file(&path, false).unwrap();
    assert_eq!(codes(&report)[0], Code::HeaderDamaged);
    assert_eq!(report.worst_left(), Some(Severity::Fatal));
    assert!(Backing::open_file(&path, OpenAs::Host).is_err());
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(SIZE / 2)
        .unwrap();
    let report = check_file(&path, false).unwrap();
    assert_eq!(
        codes(&report),
        [Code::HeaderDamaged, Code::FileTruncated],
        "nothing behind the end is touched"
    );
    check_file(&path, true).unwrap();
    check_file(&path, true).unwrap();
    assert!(check_file(&path, false).unwrap().is_sound());
    let again = Backing::open_file(&path, OpenAs::Host).unwrap();
    assert_eq!(again.layout(), &header.layout);
    drop(again);

    // Nothing to hold on to.
    for len in [0, 0x1010, SIZE] {
        let other = folder.path().join(format!("{len}"));
        std::fs::write(&other, vec![0x55; len as usize]).unwrap();
        let report = check_file(&other, true).unwrap();
        assert_eq!(report.worst_left(), Some(Severity::Fatal));
        assert!(matches!(
            codes(&report)[..],
            [Code::FileTruncated | Code::HeaderUnreadable]
        ));
        assert_eq!(std::fs::read(&other).unwrap(), vec![0x55; len as usize]);
    }
    assert!(check_file(&folder.path().join("none"), false).is_err());
}

#[test]
fn the_guide_lists_every_code() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../Guide/src/region-files.md");
    let text = std::fs::read_to_string(page).unwrap();
    let listed = text.lines().filter(|l| l.starts_with("| `")).count();
    assert_eq!(listed, Code::ALL.len());
    for code in Code::ALL {
        assert!(text.contains(&format!("| `{code}` |")), "{code}");
    }
}

#[test]
fn show_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let (backing, header) = file_region(&path);
    let mapping = backing.map(View::OBSERVER).unwrap();
    let view = RegionView::read(&mapping.mem(), &header, &backing).unwrap();
    assert_eq!(view.name, "checked");
    assert_eq!((view.storage.as_str(), view.enforced), ("file", false));
    let peers: Vec<_> = view
        .peers
        .iter()
        .map(|p| (p.id, p.state.as_str()))
        .collect();
    assert_eq!(peers, [(0, "joining"), (1, "joining")]);
    let arena = view.peers[0].section.as_ref().unwrap().arena.unwrap();
    assert_eq!((arena.live_spans, arena.lent_spans), (4, 4));
    assert!(arena.live_bytes >= 6110);
    let rings: Vec<_> = view
        .rings
        .iter()
        .map(|r| (r.id, r.layout.as_str(), r.sent, r.current))
        .collect();
    assert_eq!(
        rings,
        [
            (1, "bulk", 45, true),
            (2, "in-line", 45, true),
            (3, "in-place", 0, true)
        ]
    );
    assert!(view.rings[0].taken.is_some_and(|t| t <= 40));
    assert_eq!(view.rings[2].taken, None);
    assert!(view.rings.iter().all(|r| r.problem.is_none()));
}
