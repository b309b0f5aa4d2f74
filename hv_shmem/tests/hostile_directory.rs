//! TRUST.md, T2: index corruption, for what a peer says about its section and
//! its rings: every boundary of every field, then structured noise. Whatever a
//! hostile sender's directory says, the memory that an honest receiver gets for
//! a ring lies in that sender's ring storage or, for in-place rings, in that
//! sender's share of the common section; and nothing panics.
#![expect(unsafe_code, reason = "compares addresses through RawMem")]

mod harness;
#[path = "harness/random.rs"]
mod random;

#[cfg(feature = "negative_control")]
use hv_shmem::guard::Guard;
#[cfg(feature = "negative_control")]
use hv_shmem::guard::without;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::RawMem;
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
use hv_shmem::ring::RingPlace;
use hv_shmem::section::SectionConfig;
use random::Random;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use uuid::Uuid;

const HOSTILE: PeerId = PeerId(1);
const HONEST: PeerId = PeerId(2);
const WHAT: &str = "directory and section header of a hostile sender";
/// Offset and width of each field of a directory entry.
const ENTRY: [(u64, u64); 14] = [
    (0x00, 4),
    (0x04, 1),
    (0x05, 1),
    (0x06, 1),
    (0x07, 1),
    (0x08, 4),
    (0x0c, 2),
    (0x10, 4),
    (0x14, 4),
    (0x18, 8),
    (0x20, 8),
    (0x28, 4),
    (0x2c, 4),
    (0x30, 4),
];
/// The same for the section header.
const SECTION: [(u64, u64); 14] = [
    (0x00, 8),
    (0x08, 4),
    (0x0c, 2),
    (0x10, 8),
    (0x18, 8),
    (0x20, 8),
    (0x28, 8),
    (0x30, 4),
    (0x34, 4),
    (0x38, 8),
    (0x40, 8),
    (0x48, 8),
    (0x50, 8),
    (0x80, 4),
];

struct Scene {
    _mem: HeapMem,
    base: u64,
    config: SectionConfig,
    hostile: OwnSection<RawMem>,
    honest: OwnSection<RawMem>,
}

fn scene() -> Scene {
    let spec = RegionSpec::new(Name::new("hostile").unwrap(), 1 << 20, 4).common(64 << 10);
    let heap = HeapMem::new(spec.size);
    // SAFETY: `Scene` keeps the heap memory.
    let mem = unsafe { heap.raw() };
    let mut host = HostPages::format(mem, &spec, Uuid::from_u128(3)).unwrap();
    let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 16 << 10,
    };
    let mut join = |peer| {
        let kind = PeerKind::Partition;
        let name = Name::new("p").unwrap();
        let epoch = host.admit(peer, name, kind, Rights::ALL, 1).unwrap();
        region.join(peer, epoch, config).unwrap()
    };
    Scene {
        base: mem.as_ptr() as u64,
        config,
        hostile: join(HOSTILE),
        honest: join(HONEST),
        _mem: heap,
    }
}

impl Scene {
    /// Both peers join again, into clean sections.
    fn reset(&mut self) {
        for own in [&mut self.hostile, &mut self.honest] {
            let region = own.region().clone();
            *own = region.join(own.me(), own.epoch(), self.config).unwrap();
        }
    }

    fn offset(&self, mem: &RawMem) -> Range<u64> {
        let at = mem.as_ptr() as u64 - self.base;
        at..at + mem.len()
    }

    /// Whether every part of the ring lies where it may.
    fn is_contained(&self, place: &RingPlace<RawMem>) -> bool {
        let layout = self.hostile.region().layout();
        let inside = |inner: Range<u64>, outer: Range<u64>| {
            inner.start >= outer.start && inner.end <= outer.end
        };
        let rings = |own: &OwnSection<RawMem>| {
            let section = layout.section(own.me()).start;
            let at = section + own.header().rings;
            at..at + own.header().ring_bytes
        };
        // 64 KiB among four peers.
        let share = layout.common.start + (16 << 10) * u64::from(HOSTILE.0);
        let slots = if place.layout == RingLayout::InPlace {
            share..share + (16 << 10)
        } else {
            rings(&self.hostile)
        };
        let wanted = place.layout.storage_bytes(place.slot_size, place.slots);
        inside(self.offset(&place.storage), slots)
            && inside(self.offset(&place.produced), rings(&self.hostile))
            && wanted.is_ok_and(|w| w == place.storage.len())
            && place
                .cursor
                .as_ref()
                .is_none_or(|c| inside(self.offset(c), rings(&self.honest)))
    }
}

/// Values that go wrong where bounds are wrong.
fn nasty(random: &mut Random, was: u64) -> u64 {
    match random.below(6) {
        0 => was.wrapping_add(
            [16, 8, 0, 8u64.wrapping_neg(), 16u64.wrapping_neg()][random.below(5) as usize],
        ),
        1 => was.wrapping_add(128u64.wrapping_mul(random.below(512)).wrapping_sub(1 << 15)),
        2 => 1u64.wrapping_shl(random.below(64) as u32),
        3 => u64::MAX.wrapping_sub(128 * random.below(4)),
        4 => 0,
        _ => random.next(),
    }
}

/// Changes one to three fields of the entry or of the section header (with its
/// checksum made right again).
fn corrupt(mem: &RawMem, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let header = random.below(4) == 0;
        let (base, fields) = if header {
            (0, &SECTION)
        } else {
            (0x100, &ENTRY)
        };
        let (at, width) = fields[random.below(fields.len() as u64) as usize];
        let mut bytes = [0; 8];
        mem.read(base + at, &mut bytes[..width as usize]);
        let value = nasty(random, u64::from_le_bytes(bytes)).to_le_bytes();
        mem.write(base + at, &value[..width as usize]);
        if header {
            let mut fixed = [0; 0x7c];
            mem.read(0, &mut fixed);
            let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&fixed);
            mem.write(0x7c, &crc.to_le_bytes());
        }
    }
}

/// One hostile ring; true when the honest side came to no harm.
fn one_case(scene: &mut Scene, random: &mut Random) -> bool {
    scene.reset();
    let layouts = [RingLayout::Inline, RingLayout::Bulk, RingLayout::InPlace];
    let spec = RingSpec {
        id: 1,
        to: HONEST,
        kind: RingKind::Stream,
        layout: layouts[random.below(3) as usize],
        slot_size: 64 << random.below(3),
        slots: 1 << random.below(5),
    };
    scene.hostile.create_ring(spec).unwrap();
    corrupt(scene.hostile.mem(), random);
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let region = scene.honest.region().clone();
        let found = region.find_ring(HOSTILE, HONEST, 1);
        let accepted = scene.honest.accept_ring(HOSTILE, 1);
        let seen = region.find_ring(HOSTILE, HONEST, 1);
        (found, accepted, seen)
    }));
    let Ok((found, accepted, seen)) = looked else {
        return false;
    };
    // A window that does not fit is our bug: the check came before.
    let ours = |e: &hv_shmem::region::RingError| {
        use hv_shmem::region::RegionError::Memory;
        matches!(e, hv_shmem::region::RingError::Region(Memory(_)))
    };
    let errors = [found.as_ref().err(), accepted.as_ref().err()];
    let places = [
        found.as_ref().ok().and_then(Option::as_ref),
        accepted.as_ref().ok(),
        seen.as_ref().ok().and_then(Option::as_ref),
    ];
    errors.into_iter().flatten().all(|e| !ours(e))
        && places.into_iter().flatten().all(|p| scene.is_contained(p))
}

fn run(cases: u64) -> u64 {
    let mut random = Random(harness::seed());
    let mut scene = scene();
    (0..cases)
        .filter(|_| !one_case(&mut scene, &mut random))
        .count() as u64
}

#[test]
fn t2_hostile_directory() {
    let cases = harness::cases(400);
    harness::report("T2", WHAT, None, cases, run(cases));
}

#[cfg(feature = "negative_control")]
#[test]
fn control_t2_hostile_directory() {
    let cases = harness::cases(400).min(5000);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failures = without(Guard::Directory, || run(cases));
    std::panic::set_hook(hook);
    let guard = Some("the bounds of a directory entry's places");
    harness::report("T2", WHAT, guard, cases, failures);
}
