//! TRUST.md, T17: configuration changed after activation. A region's header and
//! a section's division are fixed for a peer when it attaches and joins; whoever
//! rewrites them afterwards (on a flat carrier anybody can) moves nothing.

mod harness;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::header::Header;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use random::Random;
use uuid::Uuid;

const ME: PeerId = PeerId(1);
const TO: PeerId = PeerId(2);
const SIZE: u64 = 1 << 20;
const WHAT: &str = "header and section rewritten after attach and join";

fn spec() -> RegionSpec {
    RegionSpec::new(Name::new("t17").unwrap(), SIZE, 4).common(64 << 10)
}

fn joined() -> (HeapMem, OwnSection<HeapMem>) {
    let mem = HeapMem::new(SIZE);
    let mut host = HostPages::format(mem.clone(), &spec(), Uuid::from_u128(17)).unwrap();
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let name = Name::new("me").unwrap();
    let epoch = host
        .admit(ME, name, PeerKind::Partition, Rights::ALL, 1)
        .unwrap();
    let config = SectionConfig {
        directory: 16,
        ring_bytes: 32 << 10,
    };
    let own = region.join(ME, epoch, config).unwrap();
    (mem, own)
}

/// Another header, with a checksum that is right.
fn other_header(random: &mut Random) -> Header {
    loop {
        let peers = 1 + random.below(12) as u16;
        let size = SIZE >> random.below(4);
        let spec = RegionSpec::new(Name::new("forged").unwrap(), size, peers)
            .common(random.below(16) * 4096);
        if let Ok(header) = Header::new(&spec, Uuid::from_u128(random.next().into()))
            && header.layout != Layout::compute(&self::spec()).unwrap()
        {
            return header;
        }
    }
}

/// The bytes outside this peer's section and its share of the common section,
/// which it must not touch.
fn foreign(mem: &HeapMem, layout: &Layout) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    mem.read(0, &mut bytes);
    let own = layout.section(ME);
    bytes[own.start as usize..own.end as usize].fill(0);
    let share = layout.common.start + (16 << 10) * u64::from(ME.0);
    bytes[share as usize..share as usize + (16 << 10)].fill(0);
    bytes
}

/// One rewriting; true when this peer wrote nowhere else because of it.
fn one_case(random: &mut Random, read_again: bool) -> bool {
    let (mem, mut own) = joined();
    let layout = Layout::compute(&spec()).unwrap();
    let forged = other_header(random);
    mem.write(HEADER_AT, &forged.to_bytes());
    // The division and the bump marks of the own section, too.
    let section = layout.section(ME).start;
    for _ in 0..random.below(4) {
        mem.write(section + random.below(0x200), &random.next().to_le_bytes());
    }
    let before = foreign(&mem, &layout);
    if read_again {
        // The guard taken out: the layout is what the header says now.
        let Ok(region) = PortalRegion::attach(mem.clone(), AttachOptions::default()) else {
            return true;
        };
        let config = SectionConfig {
            directory: 16,
            ring_bytes: 8 << 10,
        };
        let Ok(again) = region.join(ME, 1, config) else {
            return true;
        };
        own = again;
    }
    let layouts = [RingLayout::Inline, RingLayout::Bulk, RingLayout::InPlace];
    for id in 0..4 {
        let made = own.create_ring(RingSpec {
            id,
            to: TO,
            kind: RingKind::Stream,
            layout: layouts[random.below(3) as usize],
            slot_size: 64 << random.below(3),
            slots: 8 << random.below(4),
        });
        if let Ok(place) = made {
            place.storage.write(0, &[0xee; 64]);
            place.produced.write(0, &[0xee; 64]);
        }
    }
    own.beat();
    if let Ok(arena) = own.arena() {
        for _ in 0..4 {
            if let Ok(span) = arena.alloc(1 + random.below(5000)) {
                let view = arena.view(&span).unwrap();
                view.write(0, &vec![0xdd; span.length as usize]).unwrap();
            }
        }
    }
    foreign(&mem, &layout) == before
}

fn run(cases: u64, read_again: bool) -> u64 {
    let mut random = Random(harness::seed());
    (0..cases)
        .filter(|_| !one_case(&mut random, read_again))
        .count() as u64
}

#[test]
fn t17_rewritten_header() {
    let cases = harness::cases(50);
    harness::report("T17", WHAT, None, cases, run(cases, false));
}

#[test]
fn control_t17_rewritten_header() {
    let cases = harness::cases(50).min(1000);
    let guard = Some("the private copy of the layout");
    harness::report("T17", WHAT, guard, cases, run(cases, true));
}
