//! A region that was changed under an honest peer: header, peer table, section
//! header and ring directory.
//!
//! Peer 0 (hostile) makes rings for peer 1 (honest); then words of the host pages
//! and of peer 0's section are moved, with checksums mended where the fuzzer says
//! so. Peer 1 attaches, looks at everybody, accepts every ring that it is offered
//! and uses it.
//!
//! Held: no panic; whatever peer 1 is told, it changes no byte outside its own
//! section.
#![no_main]

use arbitrary::Arbitrary;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::PEER_TABLE_AT;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

/// CRC-32 as the region format uses it.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
const SIZE: u64 = 64 << 10;
const RINGS: u32 = 3;
const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 8 << 10,
};
const HOSTILE: PeerId = PeerId(0);
const HONEST: PeerId = PeerId(1);

#[derive(Debug, Arbitrary)]
struct Case {
    before_join: bool,
    changes: Vec<Change>,
    mend_header: bool,
    mend_section: bool,
}

#[derive(Debug, Arbitrary)]
struct Change {
    place: Place,
    word: u8,
    value: Value,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Place {
    Header,
    PeerTable,
    SectionHeader,
    Directory,
    Rings,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Value {
    Add(i8),
    Flip(u8),
    Low(u32),
    High(u32),
    All(u64),
    Max,
}

impl Value {
    fn apply(self, old: u64) -> u64 {
        match self {
            Self::Add(n) => old.wrapping_add_signed(n.into()),
            Self::Flip(bit) => old ^ 1 << (bit % 64),
            Self::Low(n) => old & !0xffff_ffff | u64::from(n),
            Self::High(n) => old & 0xffff_ffff | u64::from(n) << 32,
            Self::All(n) => n,
            Self::Max => u64::MAX,
        }
    }
}

fuzz_target!(|case: Case| run(&case));

fn run(case: &Case) {
    let mem = HeapMem::new(SIZE);
    let spec = RegionSpec::new(Name::new("fuzz").expect("a name"), SIZE, 2);
    let mut host =
        HostPages::format(mem.clone(), &spec, Uuid::from_u128(7)).expect("a valid region");
    let layout = host.layout().clone();
    let mut epochs = [0; 2];
    for (peer, epoch) in [HOSTILE, HONEST].into_iter().zip(&mut epochs) {
        let name = Name::new("peer").expect("a name");
        *epoch = host
            .admit(peer, name, PeerKind::Partition, Rights::ALL, 1)
            .expect("free");
        host.set_state(peer, PeerState::Ready).expect("joining");
    }
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).expect("fresh");
    let mut hostile = region.join(HOSTILE, epochs[0], CONFIG).expect("fits");
    for id in 0..RINGS {
        hostile
            .create_ring(RingSpec {
                id,
                to: HONEST,
                kind: RingKind::Stream,
                layout: if id % 2 == 0 {
                    RingLayout::Inline
                } else {
                    RingLayout::Bulk
                },
                slot_size: 64,
                slots: 8,
            })
            .expect("fits");
    }

    if case.before_join {
        change(case, &mem, layout.section(HOSTILE).start);
    }
    let Ok(region) = PortalRegion::attach(mem.clone(), AttachOptions::default()) else {
        return;
    };
    // The header may have been changed into another valid one: what "own" means is
    // then what it says.
    let own = region.layout().section(HONEST);
    let joined = region.join(HONEST, epochs[1], CONFIG);
    if !case.before_join {
        change(case, &mem, layout.section(HOSTILE).start);
    }
    let before = contents(&mem);
    for peer in region.layout().peers().take(8) {
        let _ = region.peer(peer);
        let _ = region.section(peer);
        let _ = region.heartbeat(peer);
    }
    let _ = region.generation_now();
    if let Ok(mut me) = joined {
        for id in 0..RINGS {
            let _ = region.find_ring(HOSTILE, HONEST, id);
            let Ok(place) = me.accept_ring(HOSTILE, id) else {
                continue;
            };
            let mut out = [0; 4096];
            if let Ok(mut ring) = InlineReceiver::new(place.clone()) {
                for _ in 0..16 {
                    let _ = ring.try_recv(&mut out);
                }
                ring.arm();
                let _ = ring.flush();
            }
            if let Ok(mut ring) = BulkReceiver::new(place) {
                for _ in 0..16 {
                    let _ = ring.try_recv(&mut out);
                }
                ring.arm();
                let _ = ring.flush();
            }
        }
    }
    let after = contents(&mem);
    for (at, (old, new)) in before.iter().zip(&after).enumerate() {
        let at = at as u64 * 8;
        assert!(
            old == new || own.contains(&at),
            "changed {at:#x}, outside {own:#x?}"
        );
    }
}

fn change(case: &Case, mem: &HeapMem, section: u64) {
    for change in case.changes.iter().take(16) {
        let (base, words) = match change.place {
            Place::Header => (HEADER_AT, 32),
            Place::PeerTable => (PEER_TABLE_AT, 16),
            Place::SectionHeader => (section, 32),
            Place::Directory => (section + 0x100, 64),
            Place::Rings => (section + 0x300, 128),
        };
        let at = base + u64::from(change.word) % words * 8;
        let old = mem.load_u64(at, Ordering::Relaxed);
        mem.store_u64(at, change.value.apply(old), Ordering::Relaxed);
    }
    if case.mend_header {
        mend(mem, HEADER_AT, 256);
    }
    if case.mend_section {
        mend(mem, section, 128);
    }
}

/// Writes the checksum that `len` bytes at `at` end with.
fn mend(mem: &HeapMem, at: u64, len: usize) {
    let mut bytes = vec![0; len - 4];
    mem.read(at, &mut bytes);
    mem.write(at + len as u64 - 4, &CRC.checksum(&bytes).to_le_bytes());
}

fn contents(mem: &HeapMem) -> Vec<u64> {
    (0..mem.len() / 8)
        .map(|word| mem.load_u64(word * 8, Ordering::Relaxed))
        .collect()
}
